//! Reads of standbys: committed, and as old as they say.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use millstream_state::{Replica, StoreView};
use millstream_topology::{KvStore, Result, TaskId, partition_for_key};

use crate::{
    members::StandbyHost,
    queries::{Located, Queries},
    status::StandbyStatus,
};

/// A standby's copy of one partition of a store.
#[derive(Clone, Debug)]
pub struct StaleView {
    /// The partition.
    pub partition: i32,
    /// What it holds: committed data only.
    pub view: StoreView,
    /// How long ago it was level with the task: it holds at least all that was committed then.
    /// `None` when it never was since it was opened.
    pub age: Option<Duration>,
    /// How many changelog records it is behind the end that it knows, markers and aborted records
    /// included; `None` before it knows one.
    pub lag: Option<i64>,
}

/// How far a standby is with one store: its keeper notes it, queries read it.
///
/// Invariant: the store holds all that was committed when it was level.
pub(crate) struct Standing {
    /// On the monotonic clock, in microseconds.
    level_us: AtomicI64,
    lag: AtomicI64,
}

/// What is not known yet.
const UNKNOWN: i64 = -1;

impl Standing {
    fn unknown() -> Self {
        Self {
            level_us: AtomicI64::new(UNKNOWN),
            lag: AtomicI64::new(UNKNOWN),
        }
    }

    /// It holds all that was committed at `then`.
    pub(crate) fn was_level(&self, then: Duration) {
        let us = i64::try_from(then.as_micros()).unwrap_or(i64::MAX);
        self.level_us.fetch_max(us, Ordering::Release);
    }

    pub(crate) fn set_lag(&self, records: i64) {
        self.lag.store(records.max(0), Ordering::Release);
    }

    fn age(&self, now: Duration) -> Option<Duration> {
        let us = u64::try_from(self.level_us.load(Ordering::Acquire)).ok()?;
        Some(now.saturating_sub(Duration::from_micros(us)))
    }

    fn lag(&self) -> Option<i64> {
        Some(self.lag.load(Ordering::Acquire)).filter(|lag| *lag >= 0)
    }
}

/// The stores of the standbys of this instance, by store and partition. Those of a standby that
/// becomes a task stay until the task serves.
#[derive(Default)]
pub(crate) struct Copies(BTreeMap<(String, i32), (StoreView, Arc<Standing>)>);

impl Copies {
    pub(crate) fn remove(&mut self, id: TaskId, is_of: impl Fn(&str) -> bool) {
        let is_other =
            |(name, partition): &(String, i32)| *partition != id.partition || !is_of(name);
        self.0.retain(|at, _| is_other(at));
    }

    fn get(&self, store: &str, partition: i32, now: Duration) -> Option<StaleView> {
        let (view, standing) = self.0.get(&(store.to_owned(), partition))?;
        Some(StaleView {
            partition,
            view: view.clone(),
            age: standing.age(now),
            lag: standing.lag(),
        })
    }
}

impl Queries {
    pub(crate) fn register_standby(&self, id: TaskId, replica: &Replica) {
        let mut copies = self.copies.write().expect("registering does not panic");
        for (at, store) in replica.stores().enumerate() {
            // Of what is not restored from the log, a standby has nothing.
            if self.is_followed(&store.name) {
                let at_partition = (store.name.to_string(), id.partition);
                let copy = (replica.view(at), Arc::new(Standing::unknown()));
                copies.0.insert(at_partition, copy);
            }
        }
    }

    pub(crate) fn deregister_standby(&self, id: TaskId) {
        let mut copies = self.copies.write().expect("registering does not panic");
        copies.remove(id, |name| self.is_of(name, id));
    }

    /// Where the keeper of a standby notes how far it is.
    pub(crate) fn standing(&self, store: &str, partition: i32) -> Option<Arc<Standing>> {
        let copies = self.copies.read().expect("registering does not panic");
        let found = copies.0.get(&(store.to_owned(), partition));
        found.map(|(_, standing)| standing.clone())
    }

    /// Puts into what is told of standbys how old they are now: as old as their oldest store.
    pub(crate) fn date(&self, standbys: &mut [StandbyStatus]) {
        let now = self.members.monotonic();
        let copies = self.copies.read().expect("registering does not panic");
        for status in standbys {
            let ages = copies.0.iter().filter_map(|((name, partition), copy)| {
                let is_of = self.task_id(name, *partition).to_string() == status.id;
                is_of.then(|| copy.1.age(now))
            });
            let oldest = ages.reduce(|a, b| Some(a?.max(b?))).flatten();
            status.stale_ms = oldest.map(stale_ms);
        }
    }

    /// The copies of a store that standbys of this instance keep, in order.
    ///
    /// ```
    /// # use std::{collections::BTreeMap, sync::{Arc, Mutex}, time::Duration};
    /// # use millstream_broker::{Admin, Appender, Broker, Cleanup, NewTopic, OwnedRecord};
    /// # use millstream_broker::{TopicPartition, sim::{SimClient, SimConfig, SimLog}};
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_runtime::{Bases, Config, Part, Stepped, WallClock};
    /// # use millstream_state::{ByteStore, MemoryBytes};
    /// # use millstream_topology::{Headers, KvStore, Result, TaskId, Topic, text, u64_be};
    /// # const WORDS: Topic<String, String> = Topic::new("words", text(), text());
    /// # const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
    /// # struct Virtual(SimLog, SimClient);
    /// # impl WallClock for Virtual {
    /// #     fn now_ms(&self) -> i64 { self.1.now_ms() }
    /// #     fn monotonic(&self) -> Duration { self.0.now() }
    /// #     fn wait(&self, _: Duration) {}
    /// # }
    /// # #[derive(Default)]
    /// # struct InMemory(Mutex<BTreeMap<TaskId, Arc<MemoryBytes>>>);
    /// # impl Bases for InMemory {
    /// #     fn open(&self, id: TaskId) -> Result<Arc<dyn ByteStore>> {
    /// #         Ok(self.0.lock().expect("no panic").entry(id).or_default().clone())
    /// #     }
    /// #     fn wipe(&self, _: TaskId) -> Result<()> { Ok(()) }
    /// # }
    /// # let log = SimLog::new(1, SimConfig::default());
    /// # let outside = log.client("outside");
    /// # outside.admin()?.create_topics(&[NewTopic {
    /// #     name: "words".into(), partitions: 1, cleanup: Cleanup::Delete { retention_ms: None },
    /// # }])?;
    /// # outside.appender()?.append(
    /// #     OwnedRecord {
    /// #         to: TopicPartition::new("words", 0),
    /// #         timestamp: 0,
    /// #         key: Some("a".into()),
    /// #         value: Some("x".into()),
    /// #         headers: Headers::default(),
    /// #     },
    /// #     Box::new(|written| assert!(written.is_ok())),
    /// # )?;
    /// # let b = StreamsBuilder::new();
    /// # b.stream(WORDS).group_by_key().count(COUNTS);
    /// # let topology = b.build()?;
    /// // Two instances, one partition: one has the task, the other its standby.
    /// # let start = |name: &str| {
    /// #     let client = log.client(name);
    /// let mut config = Config::new("example", "unused");
    /// config.num_standby_replicas = 1;
    /// #     config.instance_id = name.to_owned();
    /// #     let clock = Arc::new(Virtual(log.clone(), client.clone()));
    /// #     let bases = Box::new(InMemory::default());
    /// #     Stepped::open(&topology, Arc::new(client), config, clock, bases)
    /// # };
    /// # let mut instances = [start("one")?, start("other")?];
    /// # for _ in 0..500 {
    /// #     for instance in &mut instances {
    /// #         instance.step(Part::Thread(0));
    /// #         instance.step(Part::Members);
    /// #         instance.step(Part::Standbys);
    /// #     }
    /// #     log.advance(Duration::from_millis(20));
    /// # }
    /// // After a while:
    /// let [one, other] = instances.map(|instance| instance.queries().copies("counts"));
    /// let copies = [one?, other?].concat();
    /// assert_eq!(copies.len(), 1);
    /// let copy = &copies[0];
    /// let (count, _) = copy.view.get(b"a")?.expect("one was counted");
    /// assert_eq!(count[..], 1_u64.to_be_bytes());
    /// assert!(copy.age.expect("it was level") < Duration::from_secs(3));
    /// assert_eq!(copy.lag, Some(0));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Config`](millstream_topology::ErrorKind::Config) when the topology has no such store.
    pub fn copies(&self, store: &str) -> Result<Vec<StaleView>> {
        let partitions = self.partitions(store)? as i32;
        let now = self.members.monotonic();
        let copies = self.copies.read().expect("registering does not panic");
        let copy = |partition| copies.get(store, partition, now);
        Ok((0..partitions).filter_map(copy).collect())
    }

    /// As [`locate`](Self::locate), for who puts up with an answer that is a little old: a standby
    /// is taken where the task itself is not here, first one of this instance, then, if nobody runs
    /// the task, the one that is least behind.
    ///
    /// # Errors
    /// [`Config`](millstream_topology::ErrorKind::Config) when the topology has no such store.
    pub fn locate_stale(&self, store: &str, key: &[u8]) -> Result<Located> {
        let active = self.locate(store, key)?;
        if let Located::Here(_) = active {
            return Ok(active);
        }
        if let Some(copy) = self.copy(store, key)? {
            return Ok(Located::Here(Box::new(copy.view)));
        }
        let Located::Nowhere = active else {
            return Ok(active);
        };
        let mut hosts = self.standbys(store, key)?.into_iter();
        let endpoint = hosts.find_map(|host| host.endpoint);
        Ok(endpoint.map_or(Located::Nowhere, Located::There))
    }

    /// The copy that a standby of this instance keeps of where an encoded key is.
    fn copy(&self, store: &str, key: &[u8]) -> Result<Option<StaleView>> {
        let partition = partition_for_key(key, self.partitions(store)?);
        let now = self.members.monotonic();
        let copies = self.copies.read().expect("registering does not panic");
        Ok(copies.get(store, partition, now))
    }

    /// The other instances that have a standby with an encoded key, the least behind first.
    ///
    /// # Errors
    /// [`Config`](millstream_topology::ErrorKind::Config) when the topology has no such store.
    pub fn standbys(&self, store: &str, key: &[u8]) -> Result<Vec<StandbyHost>> {
        let partition = partition_for_key(key, self.partitions(store)?);
        self.standbys_of(store, partition)
    }

    /// The other instances that have a standby of a partition of a store, the least behind first.
    ///
    /// # Errors
    /// [`Config`](millstream_topology::ErrorKind::Config) when the topology has no such store.
    pub fn standbys_of(&self, store: &str, partition: i32) -> Result<Vec<StandbyHost>> {
        self.partitions(store)?;
        Ok(self.members.standbys(self.task_id(store, partition)))
    }

    /// As [`get`](Self::get), also from a standby of this instance: committed, but maybe not the
    /// newest. [`copies`](Self::copies) tell how old they are.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_stale<K, V: Clone>(
        &self,
        store: &KvStore<K, V>,
        key: &K,
    ) -> Result<Option<(V, i64)>> {
        self.read(store, key, Self::locate_stale)
    }
}

/// An age in whole milliseconds, none too few.
pub(crate) fn stale_ms(age: Duration) -> u64 {
    let ms = age.as_micros().div_ceil(1000);
    u64::try_from(ms).unwrap_or(u64::MAX)
}
