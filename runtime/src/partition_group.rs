//! `PartitionGroup`: the buffered records of a task, handed out by lowest timestamp.

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

use millstream_operators::{RawRecord, RawSource, RecordSite, SourceTopic};
use millstream_topology::Error;

/// A record that waits for its turn.
#[derive(Clone, Debug)]
pub(crate) struct Buffered {
    pub(crate) offset: i64,
    pub(crate) raw: RawRecord,
}

/// One partition of one topic that a task reads.
pub(crate) struct RecordQueue {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// Place of the source among those of the task's graph.
    source_at: usize,
    source: Rc<RefCell<dyn RawSource>>,
    waiting: VecDeque<Buffered>,
    /// Event time of the first waiting record, or why it has none; empty when it was not asked for
    /// yet.
    head: Option<Result<i64, Error>>,
    /// Greatest event time handed out; -1 at first.
    partition_time: i64,
    /// What it was at the last commit.
    committed_time: i64,
    /// Offset behind the last record handed out; `None` before the first.
    next_offset: Option<i64>,
    /// Offset that the group has committed; `None` when it has none.
    committed_offset: Option<i64>,
    /// Offsets whose processing brought the task down: handed out as failures.
    poison: HashSet<i64>,
}

/// A record whose turn has come.
pub(crate) struct Turn {
    pub(crate) queue: usize,
    pub(crate) record: Buffered,
    /// Its event time, or why it cannot be processed.
    pub(crate) event_time: Result<i64, Error>,
}

/// The queues of a task, ordered by topic and partition, which also settles ties between
/// timestamps.
pub(crate) struct PartitionGroup {
    queues: Vec<RecordQueue>,
    stream_time: i64,
    /// What it was at the last commit.
    committed_time: i64,
}

impl RecordQueue {
    pub(crate) fn new(
        topic: Arc<str>,
        partition: i32,
        source_at: usize,
        source: Rc<RefCell<dyn RawSource>>,
    ) -> Self {
        Self {
            topic,
            partition,
            source_at,
            source,
            waiting: VecDeque::new(),
            head: None,
            partition_time: -1,
            committed_time: -1,
            next_offset: None,
            committed_offset: None,
            poison: HashSet::new(),
        }
    }

    pub(crate) fn site(&self, offset: i64) -> RecordSite {
        RecordSite {
            topic: self.topic.clone(),
            partition: self.partition,
            offset,
        }
    }

    pub(crate) fn source(&self) -> &Rc<RefCell<dyn RawSource>> {
        &self.source
    }

    pub(crate) fn next_offset(&self) -> Option<i64> {
        self.next_offset
    }

    pub(crate) fn committed_offset(&self) -> Option<i64> {
        self.committed_offset
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Event time of the first waiting record; a record that has none sorts first, so that it is
    /// dealt with and does not block the others.
    fn head_time(&mut self) -> Option<i64> {
        let first = self.waiting.front()?;
        let time = self.head.get_or_insert_with(|| {
            if self.poison.contains(&first.offset) {
                return Err(Error::new(
                    millstream_topology::ErrorKind::User,
                    "a function panicked on this record",
                ));
            }
            self.source
                .borrow_mut()
                .event_time(&first.raw, self.partition_time)
        });
        Some(*time.as_ref().unwrap_or(&i64::MIN))
    }
}

impl PartitionGroup {
    pub(crate) fn new(mut queues: Vec<RecordQueue>) -> Self {
        queues.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Self {
            queues,
            stream_time: -1,
            committed_time: -1,
        }
    }

    /// Adds a queue to a group that runs already.
    pub(crate) fn add_queue(&mut self, queue: RecordQueue) {
        self.queues.push(queue);
        self.queues
            .sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    }

    pub(crate) fn queues(&self) -> &[RecordQueue] {
        &self.queues
    }

    /// Greatest event time handed out; -1 at first.
    pub(crate) fn stream_time(&self) -> i64 {
        self.stream_time
    }

    pub(crate) fn add(&mut self, queue: usize, record: Buffered) {
        self.queues[queue].waiting.push_back(record);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(|q| q.waiting.is_empty())
    }

    /// The waiting record with the lowest event time.
    pub(crate) fn next(&mut self) -> Option<Turn> {
        let mut lowest: Option<(usize, i64)> = None;
        for (at, queue) in self.queues.iter_mut().enumerate() {
            let Some(time) = queue.head_time() else {
                continue;
            };
            if lowest.is_none_or(|(_, low)| time < low) {
                lowest = Some((at, time));
            }
        }
        let (at, _) = lowest?;
        let queue = &mut self.queues[at];
        let record = queue.waiting.pop_front().expect("the queue has a head");
        let event_time = queue.head.take().expect("the head has been looked at");
        queue.next_offset = Some(record.offset + 1);
        if let Ok(time) = event_time {
            queue.partition_time = queue.partition_time.max(time);
            self.stream_time = self.stream_time.max(time);
        }
        Some(Turn {
            queue: at,
            record,
            event_time,
        })
    }

    /// Says where the group stands, before the first record of an assignment is added.
    pub(crate) fn set_committed(&mut self, queue: usize, offset: Option<i64>) {
        self.queues[queue].committed_offset = offset;
    }

    pub(crate) fn mark_committed(&mut self) {
        for queue in &mut self.queues {
            queue.committed_offset = queue.next_offset.or(queue.committed_offset);
            queue.committed_time = queue.partition_time;
        }
        self.committed_time = self.stream_time;
    }

    /// The greatest event time handed out of each queue; -1 at first.
    pub(crate) fn partition_times(&self) -> impl Iterator<Item = (&Arc<str>, i64)> {
        self.queues
            .iter()
            .map(|queue| (&queue.topic, queue.partition_time))
    }

    /// Takes up the times of an earlier life of the task, before its first record.
    pub(crate) fn resume_times(&mut self, time_of: impl Fn(&str) -> Option<i64>) {
        for queue in &mut self.queues {
            queue.partition_time = time_of(&queue.topic).unwrap_or(-1);
            queue.committed_time = queue.partition_time;
            self.stream_time = self.stream_time.max(queue.partition_time);
        }
        self.committed_time = self.stream_time;
    }

    /// Forgets what waits and what was handed out since the last commit, after an abort; poison
    /// stays. The times go back too: timers would otherwise not fire for records that come again.
    pub(crate) fn rewind(&mut self) {
        for queue in &mut self.queues {
            queue.waiting.clear();
            queue.head = None;
            queue.next_offset = None;
            queue.partition_time = queue.committed_time;
        }
        self.stream_time = self.committed_time;
    }

    /// From now on the record at that place is handed out as a failure.
    pub(crate) fn mark_poison(&mut self, queue: usize, offset: i64) {
        self.queues[queue].poison.insert(offset);
    }

    /// The sources of a graph that was built anew from the same topology.
    pub(crate) fn replace_sources(&mut self, sources: &[SourceTopic]) {
        for queue in &mut self.queues {
            queue.source = sources[queue.source_at].source.clone();
            queue.head = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_operators::Cx;
    use millstream_topology::Result;

    struct Plain;
    impl RawSource for Plain {
        fn event_time(&mut self, record: &RawRecord, _: i64) -> Result<i64> {
            Ok(record.timestamp)
        }
        fn push(&mut self, _: &mut Cx<'_>, _: RawRecord, _: i64) -> Result<()> {
            Ok(())
        }
    }

    fn group(topics: &[&str]) -> PartitionGroup {
        let source: Rc<RefCell<dyn RawSource>> = Rc::new(RefCell::new(Plain));
        let queue = |t: &&str| RecordQueue::new(Arc::from(*t), 0, 0, source.clone());
        PartitionGroup::new(topics.iter().map(queue).collect())
    }

    fn fill(group: &mut PartitionGroup, queue: usize, times: &[i64]) {
        for (offset, timestamp) in (0..).zip(times) {
            let raw = RawRecord {
                timestamp: *timestamp,
                ..RawRecord::default()
            };
            group.add(queue, Buffered { offset, raw });
        }
    }

    fn take(group: &mut PartitionGroup) -> Option<(i64, i64)> {
        let turn = group.next()?;
        Some((turn.event_time.expect("has a time"), group.stream_time()))
    }

    #[test]
    fn the_lowest_timestamp_goes_first_and_an_older_record_does_not_move_time_back() {
        // PartitionGroupTest.testTimeTracking of Kafka Streams.
        let mut g = group(&["p1", "p2"]);
        fill(&mut g, 0, &[1, 3, 5]);
        fill(&mut g, 1, &[2, 4, 6]);
        assert_eq!(take(&mut g), Some((1, 1)));
        assert_eq!(take(&mut g), Some((2, 2)));
        fill(&mut g, 0, &[2, 4]);
        let rest: Vec<_> = std::iter::from_fn(|| take(&mut g)).collect();
        assert_eq!(rest, [(3, 3), (4, 4), (5, 5), (2, 5), (4, 5), (6, 6)]);
    }

    #[test]
    fn ties_are_settled_by_topic() {
        let mut g = group(&["b", "a"]);
        fill(&mut g, 1, &[7]);
        fill(&mut g, 0, &[7]);
        let first = g.next().expect("one").queue;
        assert_eq!(&*g.queues()[first].topic, "a");
    }

    #[test]
    fn after_an_abort_times_are_those_of_the_last_commit() {
        let mut g = group(&["p1", "p2"]);
        fill(&mut g, 0, &[5]);
        take(&mut g).expect("the first");
        g.mark_committed();
        fill(&mut g, 1, &[90]);
        assert_eq!(take(&mut g), Some((90, 90)));
        g.rewind();
        assert_eq!(g.stream_time(), 5);
        let times: Vec<i64> = g.partition_times().map(|(_, time)| time).collect();
        assert_eq!(times, [5, -1]);
    }

    #[test]
    fn poison_is_handed_out_as_a_failure() {
        let mut g = group(&["a"]);
        fill(&mut g, 0, &[1, 2]);
        g.mark_poison(0, 1);
        assert!(g.next().expect("first").event_time.is_ok());
        assert!(g.next().expect("second").event_time.is_err());
    }
}
