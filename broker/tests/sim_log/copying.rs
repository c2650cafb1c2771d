//! A small program on the simulated log: instances copy a topic record by record, exactly once,
//! while everything goes wrong. Each turn makes one call, so instances meet in any order.

use std::{fmt::Debug, mem, time::Duration};

use millstream_broker::{
    Broker, Cleanup, Consumer, ConsumerConfig, Event, Fetched, GroupMetadata, NewTopic, Outgoing,
    PartitionIx, Producer, ProducerError, Start, TopicPartition,
    sim::{Called, Committed, Coverage, Fault, GroupView, Rates, SimClient, SimConfig, SimLog},
};
use millstream_topology::Headers;

use super::{
    INSTANT, SESSION,
    outside::{Observer, Outsider},
};

pub(crate) const PARTITIONS: i32 = 3;
/// Of each partition: as many are there at first, and as many are appended meanwhile.
pub(crate) const RECORDS: i64 = 30;
const INSTANCES: usize = 3;
/// Turns while things go wrong, and at most afterwards.
const STORMY_TURNS: usize = 1_500;
const CALM_TURNS_MAX: usize = 20_000;
pub(crate) const BATCH: usize = 4;
const TURN_MS_MAX: u64 = 100;

/// What goes wrong.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    pub(crate) config: SimConfig,
    pub(crate) rates: Rates,
    pub(crate) script: Vec<(&'static str, u64, Fault)>,
    /// How many turns in a thousand an instance falls asleep.
    pub(crate) frozen: u64,
}

/// What a run left.
#[derive(Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) digest: u64,
    pub(crate) history: Vec<Called>,
    pub(crate) records: Vec<Committed>,
    pub(crate) group: GroupView,
    pub(crate) coverage: Coverage,
}

/// The test's own chance, so that what it does depends on nothing that the log draws.
struct Chance(u64);

impl Chance {
    /// A number below `end`, by xorshift.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// What an instance does next.
#[derive(Default)]
enum Step {
    #[default]
    Start,
    Init,
    Poll,
    Take(Vec<TopicPartition>),
    GiveUp,
    Begin(Vec<Fetched>),
    Send(Vec<Fetched>, usize),
    Drain(Vec<Fetched>),
    Prove(Vec<Fetched>),
    Offsets(Vec<Fetched>, GroupMetadata),
    Commit,
    Pause,
    Resume,
    Abort,
    Rewind(usize),
}

struct Instance {
    name: String,
    client: SimClient,
    consumer: Option<Box<dyn Consumer>>,
    producer: Option<Box<dyn Producer>>,
    owned: Vec<TopicPartition>,
    /// What is committed of each of them.
    committed: Vec<i64>,
    /// What the open transaction commits of them.
    ends: Vec<i64>,
    step: Step,
    frozen_until: Duration,
}

pub(crate) fn input(partition: i32) -> TopicPartition {
    TopicPartition::new("in", partition)
}

pub(crate) fn output(partition: i32) -> TopicPartition {
    TopicPartition::new("out", partition)
}

impl Instance {
    fn new(log: &SimLog, name: String) -> Self {
        Self {
            client: log.client(&name),
            name,
            consumer: None,
            producer: None,
            owned: Vec::new(),
            committed: Vec::new(),
            ends: Vec::new(),
            step: Step::Start,
            frozen_until: INSTANT,
        }
    }

    fn turn(&mut self, log: &SimLog) {
        if !self.client.lives() {
            *self = Self::new(log, mem::take(&mut self.name));
        }
        let step = mem::take(&mut self.step);
        match self.advance(step) {
            Ok(next) => self.step = next,
            Err(Trouble::Abort) => self.step = Step::Abort,
            // Whatever is in doubt is settled by beginning anew.
            Err(Trouble::Anew) => {
                self.consumer = None;
                self.producer = None;
            }
        }
    }

    fn advance(&mut self, step: Step) -> Result<Step, Trouble> {
        let consumer = self.consumer.as_deref_mut().ok_or(Trouble::Anew);
        let producer = self.producer.as_deref_mut().ok_or(Trouble::Anew);
        Ok(match step {
            Step::Start => {
                self.producer = Some(self.client.producer(&self.name)?);
                self.consumer = Some(self.client.consumer(ConsumerConfig {
                    group_id: "copy".into(),
                    instance_id: self.name.clone(),
                    topics: vec!["in".into()],
                    session_timeout: SESSION,
                })?);
                Step::Init
            }
            Step::Init => {
                producer?.init()?;
                Step::Poll
            }
            Step::Poll => {
                let mut batch = Vec::new();
                match consumer?.poll(INSTANT, BATCH, &mut batch)? {
                    Event::Records if batch.is_empty() => Step::Poll,
                    Event::Records => Step::Begin(batch),
                    Event::Assigned(partitions) => Step::Take(partitions),
                    Event::Revoked { .. } => Step::GiveUp,
                }
            }
            Step::Take(partitions) => {
                let consumer = consumer?;
                // Waits for the transactions of those who had them before.
                let Ok(committed) = consumer.committed(&partitions, INSTANT) else {
                    return Ok(Step::Take(partitions));
                };
                self.committed = committed.into_iter().map(|at| at.unwrap_or(0)).collect();
                let starts = self.committed.iter().copied().map(Start::Offset);
                let from: Vec<_> = partitions.iter().cloned().zip(starts).collect();
                consumer.assign(&from)?;
                self.owned = partitions;
                Step::Poll
            }
            Step::GiveUp => {
                consumer?.unassign()?;
                Step::Poll
            }
            Step::Begin(batch) => {
                producer?.begin()?;
                Step::Send(batch, 0)
            }
            Step::Send(batch, next) => {
                let Some(record) = batch.get(next) else {
                    return Ok(Step::Drain(batch));
                };
                let producer = producer?;
                let topic = producer.topic("out");
                producer.send(Outgoing {
                    topic,
                    partition: self.owned[record.partition.0 as usize].partition,
                    timestamp: record.timestamp,
                    key: record.key.as_deref(),
                    value: record.value.as_deref(),
                    headers: &record.headers,
                })?;
                Step::Send(batch, next + 1)
            }
            Step::Drain(batch) => {
                producer?.drain()?;
                Step::Prove(batch)
            }
            Step::Prove(batch) => Step::Offsets(batch, consumer?.group_metadata()?),
            Step::Offsets(batch, proof) => {
                self.ends = self.committed.clone();
                for record in &batch {
                    self.ends[record.partition.0 as usize] = record.offset + 1;
                }
                let all = self.owned.iter().cloned().zip(self.ends.iter().copied());
                producer?.send_offsets(&all.collect::<Vec<_>>(), &proof)?;
                Step::Commit
            }
            Step::Commit => {
                producer?.commit()?;
                self.committed = mem::take(&mut self.ends);
                Step::Pause
            }
            Step::Pause => {
                consumer?.pause(PartitionIx(0))?;
                Step::Resume
            }
            Step::Resume => {
                consumer?.resume(PartitionIx(0))?;
                Step::Poll
            }
            Step::Abort => {
                producer?.abort()?;
                Step::Rewind(0)
            }
            Step::Rewind(partition) => match self.committed.get(partition) {
                None => Step::Poll,
                Some(offset) => {
                    consumer?.seek(PartitionIx(partition as u32), *offset)?;
                    Step::Rewind(partition + 1)
                }
            },
        })
    }
}

pub(crate) enum Trouble {
    Abort,
    Anew,
}

impl From<millstream_broker::Error> for Trouble {
    fn from(_: millstream_broker::Error) -> Self {
        Self::Anew
    }
}

impl From<ProducerError> for Trouble {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::Abort(_) => Self::Abort,
            ProducerError::Fenced(_) | ProducerError::Fatal(_) => Self::Anew,
        }
    }
}

/// The topics, and the first half of the input in one transaction.
fn fill(log: &SimLog) {
    let client = log.client("setup");
    let topics = ["in", "out"].map(|name| NewTopic {
        name: name.into(),
        partitions: PARTITIONS as u32,
        cleanup: Cleanup::Delete { retention_ms: None },
    });
    let admin = client.admin().expect("admin");
    admin.create_topics(&topics).expect("created");
    let mut source = client.producer("source").expect("producer");
    source.init().expect("init");
    let topic = source.topic("in");
    source.begin().expect("begin");
    for (partition, number) in (0..PARTITIONS).flat_map(|p| (0..RECORDS).map(move |n| (p, n))) {
        let text = format!("{partition}.{number}");
        let record = Outgoing {
            topic,
            partition,
            timestamp: number,
            key: None,
            value: Some(text.as_bytes()),
            headers: &Headers::default(),
        };
        source.send(record).expect("send");
    }
    source.commit().expect("commit");
}

/// Whether all input that there is was copied.
fn is_done(log: &SimLog) -> bool {
    let group = log.group("copy");
    (0..PARTITIONS).all(|p| {
        let records = log.committed_records(&input(p));
        let end = records.last().map(|record| record.offset + 1);
        group.offsets.get(&input(p)).copied() == end
    })
}

pub(crate) fn same<T: PartialEq + Debug>(what: &str, is: &T, should: &T) -> Result<(), String> {
    (is == should)
        .then_some(())
        .ok_or_else(|| format!("{what}: is {is:?}, should be {should:?}"))
}

/// Runs a seed: storm, then calm until all is copied; says what is wrong then.
pub(crate) fn copy(seed: u64, plan: &Plan) -> Result<Done, String> {
    let log = SimLog::new(seed, plan.config.clone());
    fill(&log);
    for (point, nth, fault) in &plan.script {
        log.script(point, *nth, *fault);
    }
    log.set_rates(plan.rates.clone());
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut instances: Vec<_> = (0..INSTANCES)
        .map(|number| Instance::new(&log, format!("i{number}")))
        .collect();
    let mut observer = Observer::new(&log);
    let mut writer = Outsider::new(&log);
    for turn in 0.. {
        if turn == STORMY_TURNS {
            log.set_rates(Rates::default());
        }
        let calm = turn >= STORMY_TURNS;
        if calm && turn % 16 == 0 && writer.is_done() && is_done(&log) {
            break;
        }
        if turn > STORMY_TURNS + CALM_TURNS_MAX {
            return Err(format!("it never ends: {:?}", log.group("copy").offsets));
        }
        let instance = &mut instances[chance.below(INSTANCES as u64) as usize];
        if !calm && chance.below(1000) < plan.frozen {
            let longest = SESSION.as_millis() as u64 * 3;
            instance.frozen_until = log.now() + Duration::from_millis(chance.below(longest));
        }
        if instance.frozen_until <= log.now() {
            instance.turn(&log);
        }
        if chance.below(4) == 0 {
            observer.turn(&log);
        }
        if chance.below(8) == 0 {
            writer.turn(&log);
        }
        log.advance(Duration::from_millis(chance.below(TURN_MS_MAX)));
    }
    log.advance(plan.config.transaction_timeout + plan.config.markers_delay);
    log.check();
    let mut records = Vec::new();
    for partition in 0..PARTITIONS {
        let written = log.committed_records(&output(partition));
        let given = log.committed_records(&input(partition));
        let values = |records: &[Committed]| -> Vec<_> {
            let values = records.iter().map(|r| r.record.value.clone());
            values.collect()
        };
        same("output", &values(&written), &values(&given))?;
        writer.verify(partition, &given)?;
        observer.verify(partition, &written)?;
        records.extend(written);
    }
    if observer.seen.iter().all(Vec::is_empty) {
        return Err("readers saw nothing".to_owned());
    }
    same("open transactions", &log.open_transactions(), &Vec::new())?;
    Ok(Done {
        digest: log.digest(),
        history: log.history(),
        records,
        group: log.group("copy"),
        coverage: log.coverage(),
    })
}
