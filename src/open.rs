//! The log and the tables, where the settings say that they are.

use std::sync::Arc;

use millstream_broker::{
    Broker,
    embedded::{EmbeddedBroker, EmbeddedConfig},
    kafka::{GroupProtocol, KafkaBroker, KafkaConfig},
};
use millstream_config::{GroupProtocol as Wanted, Settings};
use millstream_processors::sql::Tables;
use millstream_sinks::Database;

use crate::{
    data_dir::DataDir,
    failure::{Failure, Outcome},
};

/// The name of the shop's sink in `sink_progress`.
pub(crate) const SINK: &str = "shop";

/// Opens the log.
pub(crate) fn log(settings: &Settings) -> Outcome<Arc<dyn Broker>> {
    match &settings.bootstrap_servers {
        None => Ok(EmbeddedBroker::open(
            &settings.log_dir(),
            EmbeddedConfig::default(),
        )?),
        Some(brokers) => {
            let kafka = &settings.kafka;
            Ok(KafkaBroker::new(KafkaConfig {
                client_id: settings.streams.application_id.clone(),
                properties: kafka.properties.clone(),
                group_protocol: match kafka.group_protocol {
                    Wanted::Classic => GroupProtocol::Classic,
                    Wanted::Consumer => GroupProtocol::Consumer,
                },
                transaction_timeout: kafka.transaction_timeout.duration(),
                request_timeout: kafka.request_timeout.duration(),
                ..KafkaConfig::new(&**brokers)
            })?)
        }
    }
}

/// Opens the tables, and brings them up to date.
pub(crate) async fn tables(settings: &Settings) -> Outcome<Tables> {
    let url = settings.database();
    let opened = async {
        let database = Database::connect(&url).await?;
        Ok(Tables::open(database).await?)
    };
    match opened.await {
        // A server comes back; a file that cannot be opened does not by itself.
        Err(Failure::Away(reason)) if url.starts_with("sqlite:") => Err(Failure::Failed(reason)),
        outcome => outcome,
    }
}

/// What tools look at.
pub(crate) struct Opened {
    /// The log.
    pub(crate) log: Arc<dyn Broker>,
    /// Held as long as the log is open, if it is embedded.
    _data_dir: Option<DataDir>,
}

impl Opened {
    /// Opens the log for a tool: an embedded one must be there, and free.
    pub(crate) fn log(settings: &Settings) -> Outcome<Self> {
        let data_dir = match settings.is_embedded() {
            true => Some(DataDir::take_existing(&settings.data_dir)?),
            false => None,
        };
        Ok(Self {
            log: log(settings)?,
            _data_dir: data_dir,
        })
    }
}
