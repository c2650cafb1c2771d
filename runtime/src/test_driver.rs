//! `TestDriver`: runs a topology without broker, threads or clock, record by record.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millstream_operators::{Clock, Outbox, RawRecord, SinkIx, Topology};
use millstream_state::{ByteStore, MemoryBytes, TaskState};
use millstream_topology::{
    Error, ErrorKind, Headers, KvStore, Plan, Record, Result, SessionStore, TaskId, Topic,
    TopicRole, VersionedStore, WindowStore, Windowed,
};

use crate::{
    Policies,
    global_tables::GlobalTables,
    partition_group::Buffered,
    policy::{ErrorPolicy, dead_letter_headers},
    restore::{TimedEntry, as_records, entry},
    task::{Failed, Surroundings, Task},
};

/// A change of a store as its changelog holds it.
#[derive(Clone)]
struct Logged {
    key: Bytes,
    value: Option<Bytes>,
    timestamp: i64,
}

/// Runs a topology step by step, with one partition of everything: each record is processed to the
/// end, through all topics that the topology reads itself, and committed, before
/// [`send`](Self::send) returns.
///
/// ```
/// # use millstream_operators::StreamsBuilder;
/// # use millstream_runtime::TestDriver;
/// # use millstream_topology::{text, Record, Topic};
/// const IN: Topic<String, String> = Topic::new("in", text(), text());
/// const OUT: Topic<String, String> = Topic::new("out", text(), text());
///
/// let b = StreamsBuilder::new();
/// b.stream(IN).map_values(|_, v| v.to_uppercase()).to(OUT);
/// let mut driver = TestDriver::new(&b.build()?)?;
/// driver.send(IN, "k".to_owned(), "v".to_owned(), 7)?;
/// assert_eq!(driver.read(OUT)?, [Record::new("k".to_owned(), "V".to_owned(), 7)]);
/// # Ok::<(), millstream_topology::Error>(())
/// ```
pub struct TestDriver {
    topology: Topology,
    policies: Policies,
    globals: GlobalTables,
    /// What was read from the topics of the global tables: table, record.
    global_log: Vec<(usize, RawRecord)>,
    tasks: Vec<Task>,
    bases: Vec<Arc<dyn ByteStore>>,
    /// By task and store: what the changelogs hold.
    changelogs: BTreeMap<(usize, usize), Vec<Logged>>,
    /// What was read from topics that stores are restored from.
    inputs: BTreeMap<Arc<str>, Vec<RawRecord>>,
    out: Collected,
    offsets: BTreeMap<Arc<str>, i64>,
    wall_clock_ms: i64,
    /// What tasks that were stopped had dropped.
    dropped_before: u64,
    /// By topic the greatest event time that tasks which were stopped had seen.
    times_before: BTreeMap<Arc<str>, i64>,
}

/// What the tasks wrote.
struct Collected {
    plan: Plan,
    names: Vec<Arc<str>>,
    /// Records for topics that the topology reads itself.
    loops: VecDeque<(Arc<str>, RawRecord)>,
    read_by_us: Vec<Arc<str>>,
    /// False when the caller sends those records itself.
    follows_loops: bool,
    outputs: BTreeMap<Arc<str>, VecDeque<RawRecord>>,
}

impl Outbox for Collected {
    fn send(
        &mut self,
        sink: SinkIx,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()> {
        let topic = self.names[sink.0 as usize].clone();
        self.send_to(&topic, key, value, timestamp, headers)
    }

    fn send_to(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<()> {
        let topic: Arc<str> = topic.into();
        let record = RawRecord {
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            timestamp,
            headers: headers.clone(),
        };
        if self.reads(&topic) {
            self.loops.push_back((topic.clone(), record.clone()));
        }
        self.outputs.entry(topic).or_default().push_back(record);
        Ok(())
    }
}

impl Collected {
    /// True when the topology reads that topic, or does as soon as a record comes.
    fn reads(&self, topic: &Arc<str>) -> bool {
        self.follows_loops
            && (self.read_by_us.contains(topic) || self.plan.finder_of(topic).is_some())
    }
}

impl TestDriver {
    /// A driver with stores in memory, the wall clock at 0, and errors that stop it.
    ///
    /// # Errors
    /// What a processor fails with when it starts.
    pub fn new(topology: &Topology) -> Result<Self> {
        let memory = |_| Arc::new(MemoryBytes::default()) as Arc<dyn ByteStore>;
        let bases = topology.subtopologies().iter().map(memory).collect();
        Self::with_bases(topology, bases)
    }

    /// A driver whose stores are over `bases`, one for each sub-topology.
    ///
    /// # Errors
    /// When there are too few, or a store cannot be opened.
    pub fn with_bases(topology: &Topology, bases: Vec<Arc<dyn ByteStore>>) -> Result<Self> {
        if bases.len() != topology.subtopologies().len() {
            let what = "a driver needs one base for each sub-topology";
            return Err(Error::new(ErrorKind::Config, what));
        }
        let sources = topology.subtopologies().iter().flat_map(|s| &s.sources);
        let global_topics = topology.globals().iter().map(|global| global.topic());
        let out = Collected {
            plan: topology.plan().clone(),
            names: topology
                .sink_topics()
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            loops: VecDeque::new(),
            read_by_us: sources
                .map(|(name, _)| name)
                .chain(global_topics)
                .cloned()
                .collect(),
            follows_loops: true,
            outputs: BTreeMap::new(),
        };
        let mut driver = Self {
            topology: topology.clone(),
            policies: Policies::default(),
            globals: GlobalTables::open(topology)?,
            global_log: Vec::new(),
            tasks: Vec::new(),
            bases,
            changelogs: BTreeMap::new(),
            inputs: BTreeMap::new(),
            out,
            offsets: BTreeMap::new(),
            wall_clock_ms: 0,
            dropped_before: 0,
            times_before: BTreeMap::new(),
        };
        driver.open()?;
        driver.settle()?;
        Ok(driver)
    }

    /// Deals with records that fail as an application with these policies would.
    #[must_use]
    pub fn with_policies(mut self, policies: Policies) -> Self {
        self.policies = policies;
        self
    }

    /// Leaves records for topics that the topology reads itself to the caller: one task can then be
    /// run by itself, with the input that it had in an application.
    #[must_use]
    pub fn without_loops(mut self) -> Self {
        self.out.follows_loops = false;
        self
    }

    fn open(&mut self) -> Result<()> {
        self.globals = GlobalTables::open(&self.topology)?;
        for (index, record) in &self.global_log {
            self.globals.apply(*index, record)?;
        }
        self.globals.commit()?;
        for (at, base) in self.bases.iter().enumerate() {
            let id = TaskId {
                subtopology: at as u32,
                partition: 0,
            };
            let mut task = Task::open(
                &self.topology,
                id,
                base.clone(),
                self.globals.views(),
                |name, _| name.into(),
            )?;
            for ((_, store), log) in self.changelogs.iter().filter(|((task, _), _)| *task == at) {
                let position = task.state.position(*store).unwrap_or(0);
                let tail = &log[position as usize..];
                let mut records = tail
                    .iter()
                    .map(|l| (&l.key[..], l.value.as_deref(), l.timestamp));
                task.state.restore(*store, &mut records, log.len() as i64)?;
            }
            let refills: Vec<_> = task
                .refills()
                .map(|(store, refill, _)| (store, refill.clone()))
                .collect();
            for (store, refill) in refills {
                let log = self
                    .inputs
                    .get(refill.topic())
                    .map_or(&[][..], Vec::as_slice);
                let position = task.state.position(store).unwrap_or(0);
                let tail = log[position as usize..].iter();
                let entries = tail.filter_map(|record| entry(&refill, record));
                let entries: Vec<TimedEntry> = entries.collect();
                let records = &mut as_records(&entries);
                task.state.restore(store, records, log.len() as i64)?;
            }
            task.group
                .resume_times(|topic| self.times_before.get(topic).copied());
            let mut around = Surroundings {
                out: &mut self.out,
                wall_clock_ms: self.wall_clock_ms,
            };
            task.start(&mut around)?;
            self.tasks.push(task);
        }
        Ok(())
    }

    /// Stops all tasks and starts them again: what was committed is there, what nodes kept in
    /// memory is gone. With `keep_state` false the stores are lost too and come back from their
    /// changelogs.
    ///
    /// # Errors
    /// When a store cannot be opened, or a processor fails to start.
    pub fn restart(&mut self, keep_state: bool) -> Result<()> {
        for task in &mut self.tasks {
            if let Some(job) = task.state.start_flush().filter(|_| keep_state) {
                job.run()?;
            }
        }
        self.dropped_before = self.dropped();
        let times = self
            .tasks
            .iter()
            .flat_map(|task| task.group.partition_times());
        self.times_before = times.map(|(topic, time)| (topic.clone(), time)).collect();
        self.tasks.clear();
        if !keep_state {
            for base in &mut self.bases {
                *base = Arc::new(MemoryBytes::default());
            }
        }
        self.open()
    }

    /// Sends a record and processes it to the end.
    ///
    /// # Errors
    /// When no task reads the topic, the record does not encode, or its processing fails and the
    /// policy is to stop.
    pub fn send<K, V>(
        &mut self,
        topic: Topic<K, V>,
        key: K,
        value: V,
        timestamp: i64,
    ) -> Result<()> {
        self.send_record(topic, Record::new(key, value, timestamp))
    }

    /// As [`send`](Self::send), with headers.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_record<K, V>(&mut self, topic: Topic<K, V>, record: Record<K, V>) -> Result<()> {
        let raw = RawRecord {
            key: encode(&topic.key(), &record.key)?,
            value: encode(&topic.value(), &record.value)?,
            timestamp: record.timestamp,
            headers: record.headers,
        };
        self.send_raw(topic.name(), raw)
    }

    /// Sends a record as bytes, also one that does not decode.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_raw(&mut self, topic: &str, raw: RawRecord) -> Result<()> {
        self.enqueue(topic.into(), raw)?;
        self.settle()
    }

    fn enqueue(&mut self, topic: Arc<str>, raw: RawRecord) -> Result<()> {
        let fed = self.globals.fed_by(&topic);
        if !fed.is_empty() {
            return self.update_globals(&fed, raw);
        }
        self.find_topic(&topic);
        let offset = self.offsets.entry(topic.clone()).or_default();
        for task in &mut self.tasks {
            let queue = task.group.queues().iter().position(|q| q.topic == topic);
            if let Some(queue) = queue {
                if task
                    .refills()
                    .any(|(_, refill, _)| *refill.topic() == topic)
                {
                    self.inputs.entry(topic).or_default().push(raw.clone());
                }
                task.add(
                    queue,
                    Buffered {
                        offset: *offset,
                        raw,
                    },
                );
                *offset += 1;
                return Ok(());
            }
        }
        let what = format!("the topology does not read this topic. topic=`{topic}`");
        Err(Error::new(ErrorKind::Config, what))
    }

    /// A topic that matches the pattern of a source is read from its first record on.
    fn find_topic(&mut self, topic: &Arc<str>) {
        let Some(topology) = self.topology.find_topic(topic) else {
            return;
        };
        self.topology = topology;
        self.out.plan = self.topology.plan().clone();
        self.out.read_by_us.push(topic.clone());
        for task in &mut self.tasks {
            task.find_topic(&self.topology, topic);
        }
    }

    fn update_globals(&mut self, tables: &[usize], raw: RawRecord) -> Result<()> {
        for index in tables {
            match self.globals.apply(*index, &raw)? {
                true => self.global_log.push((*index, raw.clone())),
                false => self.dropped_before += 1,
            }
        }
        self.globals.commit()
    }

    /// Works until nothing is left in any topic that the topology reads itself.
    fn settle(&mut self) -> Result<()> {
        loop {
            for at in 0..self.tasks.len() {
                self.drain(at)?;
            }
            for at in 0..self.tasks.len() {
                self.commit(at)?;
            }
            let Some((topic, raw)) = self.out.loops.pop_front() else {
                return Ok(());
            };
            self.enqueue(topic, raw)?;
        }
    }

    fn drain(&mut self, at: usize) -> Result<()> {
        loop {
            let task = &mut self.tasks[at];
            let mut around = Surroundings {
                out: &mut self.out,
                wall_clock_ms: self.wall_clock_ms,
            };
            match task.process_one(&mut around) {
                Ok(true) => {
                    task.punctuate(Clock::Stream, &mut around)?;
                }
                Ok(false) => return Ok(()),
                Err(failed) => self.dispose(*failed)?,
            }
        }
    }

    fn dispose(&mut self, failed: Failed) -> Result<()> {
        let Failed { error, site, raw } = failed;
        match (self.policies.for_error(&error), raw) {
            (ErrorPolicy::Fail, _) | (_, None) => Err(error),
            (ErrorPolicy::Skip, Some(_)) => Ok(()),
            (ErrorPolicy::DeadLetter, Some(raw)) => {
                let headers = dead_letter_headers(&raw, &site, &error);
                let topic = self
                    .policies
                    .dead_letter_topic
                    .expect("the policy needs a topic");
                let letters = self.out.outputs.entry(topic.into()).or_default();
                letters.push_back(RawRecord { headers, ..raw });
                Ok(())
            }
        }
    }

    fn commit(&mut self, at: usize) -> Result<()> {
        let task = &mut self.tasks[at];
        let mut around = Surroundings {
            out: &mut self.out,
            wall_clock_ms: self.wall_clock_ms,
        };
        task.flush(&mut around)?;
        let changelogs = &mut self.changelogs;
        task.state
            .write_changelog(&mut |store, key, value, timestamp| {
                changelogs.entry((at, store)).or_default().push(Logged {
                    key: Bytes::copy_from_slice(key),
                    value: value.map(Bytes::copy_from_slice),
                    timestamp,
                });
                Ok(())
            })?;
        let ends: Vec<(usize, i64)> = changelogs
            .iter()
            .filter(|((task, _), _)| *task == at)
            .map(|((_, store), log)| (*store, log.len() as i64))
            .chain(task.refills().filter_map(|(store, refill, _)| {
                Some((store, self.inputs.get(refill.topic())?.len() as i64))
            }))
            .collect();
        task.state.commit(&ends)
    }

    /// Moves the wall clock on and calls the timers that are due.
    ///
    /// # Errors
    /// What a processor fails with.
    pub fn advance_wall_clock(&mut self, by: Duration) -> Result<()> {
        self.wall_clock_ms += by.as_millis() as i64;
        for task in &mut self.tasks {
            let mut around = Surroundings {
                out: &mut self.out,
                wall_clock_ms: self.wall_clock_ms,
            };
            task.punctuate(Clock::Wall, &mut around)?;
        }
        self.settle()
    }

    /// The wall clock, in milliseconds.
    pub fn wall_clock_ms(&self) -> i64 {
        self.wall_clock_ms
    }

    /// Takes the records written to a topic since the last call.
    ///
    /// # Errors
    /// When one of them does not decode.
    pub fn read<K, V>(&mut self, topic: Topic<K, V>) -> Result<Vec<Record<K, V>>> {
        let bad = |e| Error::caused(ErrorKind::Data, "an output record does not decode", e);
        let decode = |raw: RawRecord| {
            Ok(Record {
                key: topic.key().decode(raw.key.as_deref()).map_err(bad)?,
                value: topic.value().decode(raw.value.as_deref()).map_err(bad)?,
                timestamp: raw.timestamp,
                headers: raw.headers,
            })
        };
        self.read_raw(topic.name())
            .into_iter()
            .map(decode)
            .collect()
    }

    /// Takes the records written to a topic since the last call, as bytes.
    pub fn read_raw(&mut self, topic: &str) -> Vec<RawRecord> {
        self.out.outputs.remove(topic).unwrap_or_default().into()
    }

    /// Takes the records written since the last call to all topics that are not the topology's own,
    /// as bytes.
    pub fn read_all_raw(&mut self) -> BTreeMap<Arc<str>, Vec<RawRecord>> {
        let own = |name: &str| {
            let mut sinks = self.topology.sink_topics().iter();
            sinks.any(|(topic, role)| &**topic == name && *role != TopicRole::External)
        };
        let all = std::mem::take(&mut self.out.outputs).into_iter();
        all.filter(|(name, _)| !own(name))
            .map(|(name, records)| (name, records.into()))
            .collect()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the topology has no such store, or the value does not decode.
    pub fn get<K, V: Clone>(&mut self, store: KvStore<K, V>, key: &K) -> Result<Option<V>> {
        let (state, index) = self.state_of(store.name())?;
        state.kv(index, &store).get(key)
    }

    /// All entries of a store, with their timestamps, in byte order of their keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn entries<K, V: Clone>(&mut self, store: KvStore<K, V>) -> Result<Vec<(K, V, i64)>> {
        let (state, index) = self.state_of(store.name())?;
        state.kv(index, &store).range(None, None, usize::MAX)
    }

    /// The value of a key in the window that starts at `start`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_window<K, V: Clone>(
        &mut self,
        store: WindowStore<K, V>,
        key: &K,
        start: i64,
    ) -> Result<Option<V>> {
        let (task, index) = self.place(store.name())?;
        let found = self.tasks[task]
            .state
            .window(index, &store)
            .get(key, start)?;
        Ok(found.map(|(value, _)| value))
    }

    /// All windows of a store that are not expired, with key, start, value and timestamp, by start,
    /// then in byte order of their keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn window_entries<K, V: Clone>(
        &mut self,
        store: WindowStore<K, V>,
    ) -> Result<Vec<(K, i64, V, i64)>> {
        let (task, index) = self.place(store.name())?;
        self.tasks[task]
            .state
            .window(index, &store)
            .fetch_all(0, i64::MAX)
    }

    /// All sessions of a store that are not expired, with start and end of each, in byte order of
    /// their keys, then by start and end.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn session_entries<K, V: Clone>(
        &mut self,
        store: SessionStore<K, V>,
    ) -> Result<Vec<(Windowed<K>, V)>> {
        let (task, index) = self.place(store.name())?;
        let found = self.tasks[task].state.session(index, &store).all()?;
        let session = |(key, start, end, value)| (Windowed { key, start, end }, value);
        Ok(found.into_iter().map(session).collect())
    }

    /// The value of a key that held at a time, and since when.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_as_of<K, V: Clone>(
        &mut self,
        store: VersionedStore<K, V>,
        key: &K,
        time: i64,
    ) -> Result<Option<(V, i64)>> {
        let (task, index) = self.place(store.name())?;
        let state = &mut self.tasks[task].state;
        state.versioned(index, &store).get_as_of(key, time)
    }

    /// All versions in a store: key, value, the time from which it held, and the time from which it
    /// held no more, if any.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn versions<K, V: Clone>(
        &mut self,
        store: VersionedStore<K, V>,
    ) -> Result<Vec<(K, V, i64, Option<i64>)>> {
        let (task, index) = self.place(store.name())?;
        self.tasks[task].state.versioned(index, &store).all()
    }

    /// The state that has a store, of a task or of the global tables.
    fn state_of(&mut self, store: &str) -> Result<(&mut TaskState, usize)> {
        let mut globals = self.topology.globals().iter();
        if let Some(index) = globals.position(|global| &*global.definition().spec().name == store) {
            return Ok((self.globals.state(), index));
        }
        let (task, index) = self.place(store)?;
        Ok((&mut self.tasks[task].state, index))
    }

    fn place(&self, store: &str) -> Result<(usize, usize)> {
        let found =
            self.tasks.iter().enumerate().find_map(|(at, task)| {
                Some((at, task.store_names().position(|name| name == store)?))
            });
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                format!("the topology has no such store. store=`{store}`"),
            )
        })
    }

    /// What was written to the changelog of a store so far, as bytes.
    ///
    /// # Errors
    /// When the topology has no such store.
    pub fn changes(&self, store: &str) -> Result<Vec<RawRecord>> {
        let log = self.changelogs.get(&self.place(store)?);
        let record = |change: &Logged| RawRecord {
            key: Some(change.key.clone()),
            value: change.value.clone(),
            timestamp: change.timestamp,
            headers: Headers::default(),
        };
        Ok(log.into_iter().flatten().map(record).collect())
    }

    /// How many records operators had to drop, also before a restart.
    pub fn dropped(&self) -> u64 {
        self.dropped_before + self.tasks.iter().map(|t| t.counters.dropped).sum::<u64>()
    }
}

fn encode<T>(serde: &millstream_topology::Serde<T>, value: &T) -> Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    let present = serde
        .encode(value, &mut bytes)
        .map_err(|e| Error::caused(ErrorKind::Data, "a record does not encode", e))?;
    Ok(present.then(|| bytes.into()))
}
