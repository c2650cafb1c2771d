//! A log in memory whose every run is decided by a seed: for tests of whatever runs on a log.
//!
//! Time stands still but for [`SimLog::advance`]: polls never wait, sessions and transactions time
//! out, and appenders are answered, only there. Every call through the seam passes two points, one
//! before its effect and one after, named like `producer.commit.before`; a [`Fault`] can happen
//! there by [`Rates`] or by [`SimLog::script`]. The same seed and the same calls give the same run.
//!
//! Each instance of a program gets a [`SimClient`] of its own, which can be killed: from then on
//! nothing that it does, dropping included, reaches the log.
//!
//! ```
//! use std::time::Duration;
//! use millstream_broker::{Broker, sim::{Fault, SimConfig, SimLog}};
//!
//! let log = SimLog::new(7, SimConfig::default());
//! log.script("producer.init.after", 1, Fault::Crash);
//! let client = log.client("a");
//! let mut producer = client.producer("p")?;
//! assert!(producer.init().is_err());
//! assert!(!client.lives());
//! log.advance(Duration::from_secs(1));
//! # Ok::<_, millstream_broker::Error>(())
//! ```

mod admin;
mod faults;
mod group;
mod partition;
mod producer;
mod reading;
mod state;
mod trace;
mod transactions;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use self::{
    admin::{SimAdmin, SimAppender},
    faults::Call,
    producer::SimProducer,
    reading::{SimConsumer, SimReader},
    state::{Client, Handle, Place, State, lock},
};
pub use self::{
    faults::{Coverage, Fault, Passes, Rates},
    trace::Called,
};
use crate::{
    Admin, Appender, Broker, Consumer, ConsumerConfig, OwnedRecord, Producer, Reader, Result,
    TopicPartition,
};

/// How a simulated log behaves.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Milliseconds since the Unix epoch at the beginning.
    pub start_ms: i64,
    /// What [`Admin::cluster_id`] says.
    pub cluster_id: String,
    /// A transaction open for longer is aborted and its producer fenced.
    pub transaction_timeout: Duration,
    /// How long the first member of a group waits for others.
    pub join_delay: Duration,
    /// How long a null value is kept by [`SimLog::compact`].
    pub tombstones: Duration,
    /// How many appended records may wait for [`SimLog::advance`].
    pub append_queue: usize,
    /// How long markers take at most at [`Fault::SlowMarkers`].
    pub markers_delay: Duration,
    /// How long an answer takes at most at [`Fault::SlowAnswer`].
    pub answer_delay: Duration,
    /// How long it stays away at most at [`Fault::CoordinatorAway`].
    pub coordinator_pause: Duration,
    /// How far from the right time a machine's clock is set at most at [`Fault::ClockJump`].
    pub clock_jump: Duration,
    /// How many of the latest calls [`SimLog::history`] tells.
    pub history_calls_max: usize,
    /// What goes wrong by chance.
    pub rates: Rates,
    /// Every commit's first request is held up and repeated; it arrives in the producer's next
    /// transaction and commits that early, unless `init` was called in between.
    pub late_end_txn: bool,
    /// Producers notice held up commits and call `init` by themselves before they begin again, as
    /// those of the Kafka log do.
    pub init_after_late_end: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            start_ms: 1_700_000_000_000,
            cluster_id: "sim".to_owned(),
            transaction_timeout: Duration::from_secs(10),
            join_delay: Duration::ZERO,
            tombstones: Duration::from_secs(60),
            append_queue: 10_000,
            markers_delay: Duration::from_secs(2),
            answer_delay: Duration::from_secs(2),
            coordinator_pause: Duration::from_secs(3),
            clock_jump: Duration::from_secs(3600),
            history_calls_max: 0,
            rates: Rates::default(),
            late_end_txn: false,
            init_after_late_end: false,
        }
    }
}

/// Who wrote a record, and in which transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The transactional id.
    pub id: Arc<str>,
    /// Its producer's epoch.
    pub epoch: u32,
    /// The transaction's number; those that begin later have greater ones.
    pub transaction: u64,
}

/// A record that readers see.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its offset.
    pub offset: i64,
    /// The record.
    pub record: OwnedRecord,
    /// Whose it is; `None` where it was appended outside of transactions.
    pub writer: Option<Writer>,
}

/// A transaction that readers wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// The transactional id.
    pub id: Arc<str>,
    /// Its producer's epoch.
    pub epoch: u32,
    /// Its number, as in [`Writer`].
    pub transaction: u64,
    /// Whether it commits, where that is decided and only markers or offsets are still to come.
    pub decided: Option<bool>,
    /// Where it has written and no marker is yet.
    pub partitions: Vec<TopicPartition>,
}

/// A group as its coordinator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// How often partitions were dealt.
    pub generation: u32,
    /// What each member owns, by instance id.
    pub members: BTreeMap<String, Vec<TopicPartition>>,
    /// The committed offsets.
    pub offsets: BTreeMap<TopicPartition, i64>,
}

/// The simulated log, as the test holds it; clones are the same log.
#[derive(Clone)]
pub struct SimLog(Arc<Mutex<State>>);

impl SimLog {
    /// An empty log whose chance comes from the seed alone.
    pub fn new(seed: u64, config: SimConfig) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed, config))))
    }

    /// A log connection for one instance.
    pub fn client(&self, name: &str) -> SimClient {
        let mut state = lock(&self.0);
        state.clients.push(Client {
            name: name.to_owned(),
            lives: true,
            skew_ms: 0,
        });
        SimClient(Handle {
            state: self.0.clone(),
            client: state.clients.len() - 1,
        })
    }

    /// Moves time, and does what was due by then: appended records are written and answered,
    /// transactions and sessions time out.
    pub fn advance(&self, by: Duration) {
        let answers = lock(&self.0).advance(by);
        for (done, answer) in answers {
            done(answer);
        }
    }

    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        lock(&self.0).now
    }

    /// Milliseconds since the Unix epoch, by a clock that nothing sets.
    pub fn now_ms(&self) -> i64 {
        lock(&self.0).now_ms()
    }

    /// A fault at the `nth` call, from 1 and from now on, that passes a point.
    ///
    /// # Panics
    /// When there is no such point, or the seam has no such answer there.
    pub fn script(&self, point: &str, nth: u64, fault: Fault) {
        lock(&self.0).faults.script(point, nth, fault);
    }

    /// From now on other things go wrong by chance, such as none.
    pub fn set_rates(&self, rates: Rates) {
        lock(&self.0).faults.set_rates(&rates);
    }

    /// From now on nothing goes wrong, neither by chance nor by script.
    pub fn calm(&self) {
        lock(&self.0).faults.stop();
    }

    /// How often each point was passed and hit.
    pub fn coverage(&self) -> Coverage {
        lock(&self.0).faults.coverage()
    }

    /// The latest calls, the oldest first; as many as [`SimConfig::history_calls_max`] says.
    pub fn history(&self) -> Vec<Called> {
        lock(&self.0).trace.calls().cloned().collect()
    }

    /// Sums up all calls with their outcomes and all steps of time: two runs that differ in one
    /// have, but for one chance in a great many, different digests.
    pub fn digest(&self) -> u64 {
        lock(&self.0).trace.digest()
    }

    /// Compacts topics and deletes what is older than their retention.
    pub fn compact(&self) {
        lock(&self.0).compact();
    }

    /// The committed records of a partition with their offsets, up to the last stable one; none
    /// where there is no such partition.
    pub fn committed_records(&self, at: &TopicPartition) -> Vec<Committed> {
        let state = lock(&self.0);
        let partition = state.partition(at).ok();
        let records = partition.iter().flat_map(|p| p.written(p.low));
        let owned = records.map(|(offset, record, writer)| Committed {
            offset,
            record: record.clone(),
            writer: writer.cloned(),
        });
        owned.collect()
    }

    /// The last stable offset of a partition: nothing from there on is decided.
    ///
    /// # Errors
    /// When there is no such partition.
    pub fn last_stable_offset(&self, at: &TopicPartition) -> Result<i64> {
        Ok(lock(&self.0).partition(at)?.stable())
    }

    /// The transactions that readers wait for, by id.
    pub fn open_transactions(&self) -> Vec<OpenTransaction> {
        let state = lock(&self.0);
        let slots = state.slots.iter();
        slots.filter_map(|(id, slot)| slot.view(id)).collect()
    }

    /// A group; empty when nobody has joined it yet.
    pub fn group(&self, id: &str) -> GroupView {
        let state = lock(&self.0);
        let view = |group: &group::Group| GroupView {
            generation: group.generation,
            members: group
                .members()
                .map(|(id, owned)| (id.clone(), owned.clone()))
                .collect(),
            offsets: group.committed.clone(),
        };
        state.groups.get(id).map(view).unwrap_or_default()
    }

    /// Asserts what holds at all times: offsets without holes where nothing was compacted, last
    /// stable offsets not behind the end, one owner of each partition; and that no group's
    /// committed offset ever went back.
    ///
    /// # Panics
    /// When it does not hold: a bug of the simulation, or, for committed offsets, of the program
    /// that runs on it.
    pub fn check(&self) {
        lock(&self.0).check();
    }
}

/// One instance's connection to a [`SimLog`]; clones are the same connection.
#[derive(Clone)]
pub struct SimClient(Handle);

impl SimClient {
    /// Cuts the instance off, as if its process had died: whatever it does from now on fails and
    /// changes nothing. Its session and its transaction time out by themselves. Of the records that
    /// it had appended and that were not written yet, chance decides which arrive.
    pub fn kill(&self) {
        lock(&self.0.state).kill(self.0.client);
    }

    /// Whether it was neither killed nor hit by [`Fault::Crash`].
    pub fn lives(&self) -> bool {
        lock(&self.0.state).lives(self.0.client)
    }

    /// The name that it was made with.
    pub fn name(&self) -> String {
        lock(&self.0.state).clients[self.0.client].name.clone()
    }

    /// Milliseconds since the Unix epoch by the clock of the instance's machine, which
    /// [`Fault::ClockJump`] sets.
    pub fn now_ms(&self) -> i64 {
        let state = lock(&self.0.state);
        state.now_ms() + state.clients[self.0.client].skew_ms
    }

    fn pass(&self, call: Call) -> Result<Handle> {
        self.0.call(call, &Place::Nobody, |_, _| Ok(self.0.clone()))
    }
}

impl Broker for SimClient {
    fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(SimAdmin(self.pass(Call::MakeAdmin)?)))
    }

    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(SimConsumer::join(self.0.clone(), config)?))
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        let handle = self.pass(Call::MakeProducer)?;
        Ok(Box::new(SimProducer::new(handle, transactional_id)))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(SimReader::new(self.pass(Call::MakeReader)?)))
    }

    fn appender(&self) -> Result<Arc<dyn Appender>> {
        Ok(Arc::new(SimAppender(self.pass(Call::MakeAppender)?)))
    }
}
