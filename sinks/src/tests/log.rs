//! A log in memory whose group does what the test says.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Admin, Appender, Broker, Consumer, ConsumerConfig, Error, Event, Fetched, GroupMetadata,
    NewTopic, PartitionIx, Producer, Reader, Result, Start, TopicInfo, TopicPartition, Watermarks,
};
use millstream_topology::Headers;

#[derive(Clone, Default)]
pub(super) struct ScriptedLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cluster_id: String,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// What the next consumers of an instance are told, one list a consumer; without one it gets
    /// all.
    scripts: HashMap<String, VecDeque<Vec<Event>>>,
    /// What the present consumer of an instance is told, after its script.
    events: HashMap<String, VecDeque<Event>>,
}

#[derive(Clone, Default)]
struct Partition {
    low: i64,
    records: Vec<(i64, Bytes, Option<Bytes>)>,
}

impl Partition {
    fn end(&self) -> i64 {
        self.records.last().map_or(self.low, |r| r.0 + 1)
    }
}

impl ScriptedLog {
    pub(super) fn new(partitions: &[TopicPartition]) -> Self {
        let log = Self::default();
        let mut state = log.lock();
        state.cluster_id = "cluster".into();
        for partition in partitions {
            state
                .partitions
                .insert(partition.clone(), Partition::default());
        }
        drop(state);
        log
    }

    /// Appends a record behind `gap` offsets that hold none, as transaction markers do.
    pub(super) fn append(&self, to: &TopicPartition, gap: i64, key: &str, value: Option<&str>) {
        let mut state = self.lock();
        let partition = state.partitions.get_mut(to).expect("exists");
        let offset = partition.end() + gap;
        let value = value.map(|v| Bytes::copy_from_slice(v.as_bytes()));
        partition
            .records
            .push((offset, Bytes::copy_from_slice(key.as_bytes()), value));
        drop(state);
        self.0.changed.notify_all();
    }

    pub(super) fn truncate_before(&self, partition: &TopicPartition, low: i64) {
        let mut state = self.lock();
        let partition = state.partitions.get_mut(partition).expect("exists");
        partition.low = low;
        partition.records.retain(|r| r.0 >= low);
    }

    pub(super) fn rename_cluster(&self, name: &str) {
        self.lock().cluster_id = name.into();
    }

    /// What the next consumer of the instance is told, instead of getting everything.
    pub(super) fn script(&self, instance: &str, events: Vec<Event>) {
        let mut state = self.lock();
        state
            .scripts
            .entry(instance.into())
            .or_default()
            .push_back(events);
    }

    /// Tells the present consumer of an instance something.
    pub(super) fn tell(&self, instance: &str, event: Event) {
        let mut state = self.lock();
        state
            .events
            .entry(instance.into())
            .or_default()
            .push_back(event);
        drop(state);
        self.0.changed.notify_all();
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.lock().partitions.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test panics with it")
    }
}

struct ScriptedConsumer {
    log: ScriptedLog,
    instance: String,
    assigned: Vec<(TopicPartition, i64, bool)>,
}

impl ScriptedConsumer {
    fn fetch(&mut self, state: &State, limit: usize, into: &mut Vec<Fetched>) {
        for (at, (partition, position, paused)) in self.assigned.iter_mut().enumerate() {
            if *paused {
                continue;
            }
            let log = &state.partitions[partition];
            let from = log.records.partition_point(|r| r.0 < *position);
            for (offset, key, value) in log.records[from..].iter().take(limit - into.len()) {
                *position = offset + 1;
                into.push(Fetched {
                    partition: PartitionIx(at as u32),
                    offset: *offset,
                    timestamp: 0,
                    key: Some(key.clone()),
                    value: value.clone(),
                    headers: Headers::default(),
                });
            }
        }
    }
}

impl Consumer for ScriptedConsumer {
    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<Event> {
        let log = self.log.clone();
        let mut state = log.lock();
        for last in [false, true] {
            let events = state.events.get_mut(&self.instance);
            if let Some(event) = events.and_then(VecDeque::pop_front) {
                return Ok(event);
            }
            self.fetch(&state, limit, into);
            if last || !into.is_empty() {
                break;
            }
            state = log
                .0
                .changed
                .wait_timeout(state, wait)
                .expect("no test panics with it")
                .0;
        }
        Ok(Event::Records)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        let at = |start: &Start| match start {
            Start::Offset(offset) => *offset,
            Start::Earliest => 0,
            Start::Latest => i64::MAX,
        };
        self.assigned = partitions
            .iter()
            .map(|(p, s)| (p.clone(), at(s), false))
            .collect();
        Ok(())
    }

    fn unassign(&mut self) -> Result<()> {
        self.assigned.clear();
        Ok(())
    }

    fn is_replaced(&mut self, _wait: Duration) -> Result<bool> {
        Ok(false)
    }

    fn pause(&mut self, partition: PartitionIx) -> Result<()> {
        self.assigned[partition.0 as usize].2 = true;
        Ok(())
    }

    fn resume(&mut self, partition: PartitionIx) -> Result<()> {
        self.assigned[partition.0 as usize].2 = false;
        Ok(())
    }

    fn seek(&mut self, partition: PartitionIx, offset: i64) -> Result<()> {
        self.assigned[partition.0 as usize].1 = offset;
        Ok(())
    }

    fn committed(&mut self, _: &[TopicPartition], _: Duration) -> Result<Vec<Option<i64>>> {
        Err(unused())
    }

    fn group_metadata(&self) -> Result<GroupMetadata> {
        Err(unused())
    }

    fn close(self: Box<Self>, _keep_place: bool) {}
}

impl Broker for ScriptedLog {
    fn admin(&self) -> Result<Arc<dyn Admin>> {
        Ok(Arc::new(self.clone()))
    }

    fn consumer(&self, config: ConsumerConfig) -> Result<Box<dyn Consumer>> {
        let all = vec![Event::Assigned(self.partitions())];
        let mut state = self.lock();
        let script = state.scripts.get_mut(&config.instance_id);
        let script = script
            .map_or(Some(all), VecDeque::pop_front)
            .unwrap_or_default();
        state
            .events
            .insert(config.instance_id.clone(), script.into());
        Ok(Box::new(ScriptedConsumer {
            log: self.clone(),
            instance: config.instance_id,
            assigned: Vec::new(),
        }))
    }

    fn producer(&self, _: &str) -> Result<Box<dyn Producer>> {
        Err(unused())
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Err(unused())
    }

    fn appender(&self) -> Result<Arc<dyn Appender>> {
        Err(unused())
    }
}

impl Admin for ScriptedLog {
    fn cluster_id(&self) -> Result<String> {
        Ok(self.lock().cluster_id.clone())
    }

    fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks> {
        let state = self.lock();
        let log = &state.partitions[partition];
        Ok(Watermarks {
            low: log.low,
            high: log.end(),
        })
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        Err(unused())
    }

    fn create_topics(&self, _: &[NewTopic]) -> Result<()> {
        Err(unused())
    }

    fn delete_topics(&self, _: &[&str]) -> Result<()> {
        Err(unused())
    }

    fn tombstone_retention(&self, _: &str) -> Result<Option<Duration>> {
        Err(unused())
    }

    fn ends_take_offsets(&self) -> bool {
        false
    }

    fn committed(&self, _: &str, _: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        Err(unused())
    }

    fn set_committed(&self, _: &str, _: &[(TopicPartition, i64)]) -> Result<()> {
        Err(unused())
    }

    fn offset_at(&self, _: &TopicPartition, _: i64) -> Result<Option<i64>> {
        Err(unused())
    }

    fn delete_records(&self, _: &[(TopicPartition, i64)]) -> Result<()> {
        Err(unused())
    }

    fn groups(&self) -> Result<Vec<(String, Vec<String>)>> {
        Err(unused())
    }
}

fn unused() -> Error {
    Error::State("a sink does not need it")
}
