//! A transactional producer.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, KafkaResult},
    producer::{BaseProducer, Producer as _},
    types::RDKafkaErrorCode,
    util::Timeout,
};
use tracing::{debug, warn};

use super::{
    config::KafkaConfig,
    context::Context,
    create, deadline,
    ledger::Ledger,
    raw::{Events, Topic},
    retire,
    triage::{self, Step},
};
use crate::{
    Error, GroupMetadata, Outgoing, Producer, ProducerError, Result, TopicIx, TopicPartition,
};

/// Time that the brokers take to write a transaction's markers. One that begins sooner is refused
/// and tried again after 20 ms.
const MARKERS_PAUSE: Duration = Duration::from_millis(2);

/// Deliveries are looked at after so many records, so that their memory comes back.
const SERVE_EVERY: u32 = 256;

/// How long a waiting producer sleeps between two looks at what it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long one flush tells the broker threads not to linger.
const HURRY_FOR: Duration = Duration::from_millis(1);

/// After so many flushes, what is left is not waiting for others but for the brokers.
const HURRIES_MAX: u32 = 20;

/// How long a producer may take to fence its predecessor and settle its transaction.
const INIT_WAIT: Duration = Duration::from_secs(120);

const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A producer whose client is made anew when a commit's answer may have been lost.
pub(super) struct KafkaProducer {
    config: KafkaConfig,
    transactional_id: String,
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, TopicIx>,
    ledger: Ledger,
    /// Holds one librdkafka client; taken only to be replaced or dropped.
    client: Option<Client>,
    /// Records sent since the deliveries were last looked at.
    unserved: u32,
    initialised: bool,
    /// Why the client must be made anew before the next transaction.
    renew: Option<&'static str>,
    open: bool,
    /// End of the last transaction that left markers.
    markers_at: Option<Instant>,
}

/// One librdkafka client. Topics and events are given back before it.
struct Client {
    topics: Vec<Topic<Context>>,
    events: Events<Context>,
    producer: Arc<BaseProducer<Context>>,
}

impl Client {
    fn new(config: &KafkaConfig, transactional_id: &str) -> Result<Self> {
        let context = Context::new(transactional_id);
        let producer: BaseProducer<_> = create(&config.producer(transactional_id), context)?;
        let producer = Arc::new(producer);
        let events = Events::new(&producer).ok_or(Error::State("a producer has no queue"))?;
        Ok(Self {
            topics: Vec::new(),
            events,
            producer,
        })
    }

    /// Makes the handles of topics up to this one. Numbers are given without gaps.
    fn know(&mut self, names: &[Arc<str>], topic: TopicIx) -> bool {
        while self.topics.len() <= topic.0 as usize {
            let name = names.get(self.topics.len());
            let Some(handle) = name.and_then(|name| Topic::new(&self.producer, name)) else {
                return false;
            };
            self.topics.push(handle);
        }
        true
    }

    fn send(&self, record: &Outgoing<'_>, tag: usize) -> Result<(), RDKafkaErrorCode> {
        match self.topics.get(record.topic.0 as usize) {
            Some(topic) => topic.send(record, tag),
            None => Err(RDKafkaErrorCode::UnknownTopic),
        }
    }

    fn serve(&self, wait: Duration, ledger: &mut Ledger) {
        let mut wait = wait;
        while self
            .events
            .serve(wait, &mut |delivery| ledger.delivered(delivery))
        {
            wait = Duration::ZERO;
        }
    }

    /// True when a request may have been lost without an answer since this client was made.
    /// librdkafka then repeats it silently, with the same epoch: an old end of transaction could
    /// hit a later transaction.
    fn is_suspicious(&self) -> bool {
        self.producer.context().trouble() > 0
    }
}

/// Runs a step of a transaction, again as long as librdkafka says that this may help.
fn run(
    producer: &BaseProducer<Context>,
    within: Duration,
    mut call: impl FnMut(&BaseProducer<Context>) -> KafkaResult<()>,
) -> Result<(), Step> {
    let until = deadline(within);
    loop {
        let Err(error) = call(producer) else {
            return Ok(());
        };
        match triage::step(error, fatal(producer)) {
            Step::Again(error) if Instant::now() < until => {
                debug!(%error, "step of a transaction is tried again");
                std::thread::sleep(MARKERS_PAUSE);
            }
            step => return Err(step),
        }
    }
}

fn fatal(producer: &BaseProducer<Context>) -> Option<RDKafkaErrorCode> {
    producer.client().fatal_error().map(|(code, _)| code)
}

/// The abort itself throws away what was not sent yet.
fn is_purge(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight
    )
}

impl KafkaProducer {
    pub(super) fn new(config: &KafkaConfig, transactional_id: &str) -> Result<Self> {
        Ok(Self {
            client: Some(Client::new(config, transactional_id)?),
            config: config.clone(),
            transactional_id: transactional_id.to_owned(),
            names: Vec::new(),
            numbers: HashMap::new(),
            ledger: Ledger::default(),
            unserved: 0,
            initialised: false,
            renew: None,
            open: false,
            markers_at: None,
        })
    }

    fn parts(&mut self) -> (&mut Client, &mut Ledger) {
        let client = self
            .client
            .as_mut()
            .expect("the client is taken only to be replaced");
        (client, &mut self.ledger)
    }

    fn raw(&self) -> &BaseProducer<Context> {
        &self
            .client
            .as_ref()
            .expect("the client is taken only to be replaced")
            .producer
    }

    fn replace_client(&mut self) -> Result<(), ProducerError> {
        let client = Client::new(&self.config, &self.transactional_id);
        let client = client.map_err(|e| ProducerError::Fatal(e.into()))?;
        retire("producer", self.client.replace(client), CLOSE_WAIT);
        self.ledger.abandon();
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_suspicious(&mut self) -> bool {
        let (client, ledger) = self.parts();
        client.serve(Duration::ZERO, ledger);
        client.is_suspicious()
    }

    fn wait_for_markers(&mut self) {
        if let Some(at) = self.markers_at.take() {
            std::thread::sleep(MARKERS_PAUSE.saturating_sub(at.elapsed()));
        }
    }

    fn ended(&mut self) {
        self.open = false;
        // A transaction without records and offsets is ended without asking the brokers.
        self.markers_at = self.ledger.wrote().then(Instant::now);
    }

    /// The step was not done in time, and no other step may follow it; the next `init` settles what
    /// became of the transaction.
    fn given_up(step: Step) -> ProducerError {
        match step {
            Step::Again(error) => ProducerError::Fatal(error.into()),
            Step::Failed(error) => error,
        }
    }
}

impl Producer for KafkaProducer {
    fn init(&mut self) -> Result<(), ProducerError> {
        if self.initialised {
            self.replace_client()?;
        }
        let wait = self.config.request_timeout;
        // A client that knows no broker yet would ask for its coordinator only after half a second.
        if self.raw().client().fetch_cluster_id(wait).is_none() {
            debug!(id = %self.transactional_id, "no broker has answered yet");
        }
        run(self.raw(), INIT_WAIT, |p| {
            p.init_transactions(Timeout::After(wait))
        })
        .map_err(Self::given_up)?;
        self.initialised = true;
        self.renew = None;
        self.open = false;
        self.markers_at = None;
        Ok(())
    }

    fn topic(&mut self, name: &str) -> TopicIx {
        if let Some(ix) = self.numbers.get(name) {
            return *ix;
        }
        let ix = self.ledger.topic();
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, ix);
        ix
    }

    fn begin(&mut self) -> Result<(), ProducerError> {
        if self.open {
            return Err(ProducerError::Fatal(
                Error::State("a transaction is open").into(),
            ));
        }
        let (client, ledger) = self.parts();
        client.serve(Duration::ZERO, ledger);
        if client.is_suspicious() {
            // The new epoch makes every request of the old client void, also one still on its way.
            self.renew = Some("an answer may have been lost");
        }
        if let Some(why) = self.renew {
            warn!(id = %self.transactional_id, why, "producer is initialised anew");
            self.init()?;
        }
        self.wait_for_markers();
        run(
            self.raw(),
            self.config.request_timeout,
            BaseProducer::begin_transaction,
        )
        .map_err(Self::given_up)?;
        self.ledger.begin();
        self.open = true;
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), ProducerError> {
        if !self.open {
            return Err(ProducerError::Fatal(
                Error::State("no transaction is open").into(),
            ));
        }
        let client = self
            .client
            .as_mut()
            .expect("the client is taken only to be replaced");
        let slot = self.ledger.slot(record.topic, record.partition);
        let (Some(slot), true) = (slot, client.know(&self.names, record.topic)) else {
            return Err(ProducerError::Fatal(
                Error::State("no such topic or partition").into(),
            ));
        };
        let mut until = None;
        while let Err(code) = client.send(&record, slot) {
            let until = *until.get_or_insert_with(|| deadline(self.config.transaction_timeout));
            if code != RDKafkaErrorCode::QueueFull || Instant::now() >= until {
                let error = KafkaError::MessageProduction(code);
                return Err(triage::failed(error, fatal(&client.producer)));
            }
            client.serve(LOOK_EVERY, &mut self.ledger);
        }
        self.ledger.sent();
        self.unserved += 1;
        if self.unserved >= SERVE_EVERY {
            self.unserved = 0;
            client.serve(Duration::ZERO, &mut self.ledger);
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ProducerError> {
        // Every record is delivered or fails by its own timeout; the bound is for a client that
        // breaks this.
        let until = deadline(self.config.transaction_timeout * 2);
        let (client, ledger) = self.parts();
        let mut hurries = 0;
        while ledger.in_flight() > 0 {
            if hurries < HURRIES_MAX {
                hurries += 1;
                client.events.hurry(HURRY_FOR);
                client.serve(Duration::ZERO, ledger);
            } else {
                client.serve(LOOK_EVERY, ledger);
            }
            if Instant::now() >= until {
                let error = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(ProducerError::Fatal(error.into()));
            }
        }
        match ledger.failed() {
            None => Ok(()),
            Some(code) => Err(triage::failed(
                KafkaError::MessageProduction(code),
                fatal(&client.producer),
            )),
        }
    }

    fn send_offsets(
        &mut self,
        offsets: &[(TopicPartition, i64)],
        group: &GroupMetadata,
    ) -> Result<(), ProducerError> {
        let Some(group) = group.get::<ConsumerGroupMetadata>() else {
            let error = Error::State("the group's metadata is of another log");
            return Err(ProducerError::Fatal(error.into()));
        };
        // With records in flight this call would wait 100 ms for them.
        self.drain()?;
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (of, offset) in offsets {
            list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*offset))
                .map_err(|e| ProducerError::Fatal(e.into()))?;
        }
        self.ledger.sent_offsets();
        let within = self.config.transaction_timeout;
        run(self.raw(), within, |p| {
            p.send_offsets_to_transaction(&list, group, Timeout::After(within))
        })
        .map_err(Self::given_up)
    }

    fn commit(&mut self) -> Result<(), ProducerError> {
        if !self.open {
            return Err(ProducerError::Fatal(
                Error::State("no transaction is open").into(),
            ));
        }
        self.drain()?;
        // Without an answer for so long the client is given up: the next `init` settles what became
        // of it.
        let within = self.config.transaction_timeout;
        run(self.raw(), within, |p| {
            p.commit_transaction(Timeout::After(within))
        })
        .map_err(Self::given_up)?;
        self.ledger.commit();
        self.ended();
        Ok(())
    }

    fn abort(&mut self) -> Result<(), ProducerError> {
        if !self.open {
            return Ok(());
        }
        let within = self.config.transaction_timeout;
        let (client, ledger) = self.parts();
        let refused = ledger.failed().is_some();
        let abort = |producer: &BaseProducer<Context>| {
            run(producer, within, |p| {
                p.abort_transaction(Timeout::After(within))
            })
        };
        let aborted = if ledger.in_flight() == 0 {
            abort(&client.producer)
        } else {
            // The abort waits for the deliveries of what it throws away, which only this thread can
            // serve.
            let producer = Arc::clone(&client.producer);
            std::thread::scope(|scope| {
                let aborting = scope.spawn(move || abort(&producer));
                while !aborting.is_finished() {
                    client.serve(MARKERS_PAUSE, ledger);
                }
                aborting.join().expect("the abort does not panic")
            })
        };
        aborted.map_err(|step| match Self::given_up(step) {
            ProducerError::Abort(error) => ProducerError::Fatal(error),
            other => other,
        })?;
        let (client, ledger) = self.parts();
        client.serve(Duration::ZERO, ledger);
        if refused || ledger.failed().is_some_and(|code| !is_purge(code)) {
            // A refused record leaves a hole in the sequence, on which the next transaction would
            // fail.
            self.renew = Some("a record was refused");
        }
        self.ledger.abort();
        self.ended();
        Ok(())
    }

    fn ends(&self, each: &mut dyn FnMut(TopicIx, i32, i64)) {
        self.ledger.ends(each);
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        retire("producer", self.client.take(), CLOSE_WAIT);
    }
}
