//! `Flags`: what can be said on the command line.

use std::path::PathBuf;

use clap::Args;
use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

/// The flags of every program that works on a shop. What is not said comes from the environment,
/// the file, or is as built in.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Keep state, and log and database unless they are elsewhere, in this folder
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Serve customers here [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Serve operations, queries and the dashboard here [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// Use this Kafka cluster instead of the embedded log
    #[arg(long, value_name = "HOSTS")]
    pub bootstrap_servers: Option<String>,
    /// Write tables to this database (mysql://, mariadb:// or sqlite://)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Name of the application: groups, internal topics and transactional ids [default: shop]
    #[arg(long, value_name = "ID")]
    pub application_id: Option<String>,
    /// Number of stream threads [default: 1]
    #[arg(long, value_name = "N")]
    pub threads: Option<u64>,
    /// Parts to run: some of door, streams, sink and gateway [default: all]
    #[arg(long, value_name = "LIST")]
    pub roles: Option<String>,
    /// Let orders say when they were placed, for imports and replays
    #[arg(long)]
    pub allow_event_time: bool,
    /// Set any field of the configuration, as payment.deadline=5s
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

/// What the metadata of flags is called; [`Origin`](crate::Origin) knows it by this.
pub(crate) const FLAGS: &str = "flags";
/// What the metadata of `--set` is called.
pub(crate) const SET: &str = "--set";

impl Provider for &Flags {
    fn metadata(&self) -> Metadata {
        Metadata::named(FLAGS)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let text = |value: &Option<String>| value.clone().map(Value::from);
        let mut top = Dict::new();
        let mut streams = Dict::new();
        let fields = [
            ("data_dir", text(&self.data_dir)),
            ("listen", text(&self.listen)),
            ("admin_listen", text(&self.admin_listen)),
            ("bootstrap_servers", text(&self.bootstrap_servers)),
            ("database_url", text(&self.database_url)),
            ("roles", text(&self.roles)),
            (
                "allow_event_time",
                self.allow_event_time.then(|| Value::from(true)),
            ),
        ];
        for (field, value) in fields {
            top.extend(value.map(|value| (field.to_owned(), value)));
        }
        let fields = [
            ("application_id", text(&self.application_id)),
            ("threads", self.threads.map(Value::from)),
        ];
        for (field, value) in fields {
            streams.extend(value.map(|value| (field.to_owned(), value)));
        }
        if !streams.is_empty() {
            top.insert("streams".to_owned(), Value::from(streams));
        }
        Ok(Profile::Default.collect(top))
    }
}

/// One `--set FIELD=VALUE`.
pub(crate) struct SetField<'a> {
    pub(crate) field: &'a str,
    pub(crate) value: &'a str,
}

impl<'a> SetField<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (field, value) = text.split_once('=')?;
        Some(Self {
            field: field.trim(),
            value,
        })
    }
}

impl Provider for SetField<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(SET)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        // As for variables of the environment: numbers and booleans by how they look, the rest is
        // text.
        let value: Value = match self.value.parse() {
            Ok(value) => value,
            Err(never) => match never {},
        };
        let tree = figment::util::nest(self.field, value);
        let dict = tree.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}
