//! What a session does beside its records: writing state to disk, purging, telling how it is, and
//! ending.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millstream_broker::TopicPartition;
use tracing::warn;

use crate::{
    commit::Trouble,
    partition_group::RecordQueue,
    session::Session,
    status::{CommitTimes, StoreStatus, TaskPhase, TaskStatus, ThreadStatus},
    task::Task,
};

/// How often the status is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

impl Session {
    pub(crate) fn housekeeping(&mut self) -> Result<(), Trouble> {
        let config = &self.shared.config;
        let now = self.shared.now();
        let timed = now - self.last_flush >= config.flush_interval;
        if timed {
            self.last_flush = now;
        }
        for task in self.tasks.values_mut() {
            if let Some(job) = task.due_flush(timed) {
                self.shared.flush_pool.submit(job);
            }
        }
        if now - self.last_purge >= config.purge_interval {
            self.last_purge = now;
            self.purge();
        }
        if now - self.last_publish >= PUBLISH_EVERY {
            self.last_publish = now;
            self.publish();
        }
        Ok(())
    }

    /// Deletes what repartition topics hold before the committed offsets. It can wait, so a failure
    /// is only logged.
    fn purge(&mut self) {
        let done: Vec<(TopicPartition, i64)> = self
            .tasks
            .values()
            .flat_map(|t| t.group.queues())
            .filter(|q| self.shared.is_repartition(&q.topic))
            .filter_map(|q| {
                Some((
                    TopicPartition::new(q.topic.clone(), q.partition),
                    q.committed_offset()?,
                ))
            })
            .collect();
        if done.is_empty() {
            return;
        }
        if let Err(error) = self.shared.admin.delete_records(&done) {
            warn!(thread = self.index, %error, "repartition topics could not be purged");
        }
    }

    pub(crate) fn publish(&self) {
        let tasks = self.tasks.values().map(|t| self.task_status(t)).collect();
        let commits = self.times.snapshot();
        let status = ThreadStatus {
            index: self.index,
            joined: self.joined,
            paused: self.shared.is_paused() && !self.uncommitted,
            tasks,
            commits,
            waits_for: self.waits_for.clone(),
            ..ThreadStatus::default()
        };
        let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
        for task in self.tasks.values() {
            for (name, records) in task.node_records() {
                *nodes.entry(name).or_default() += records;
            }
        }
        self.shared.board.publish(status, nodes);
    }

    fn task_status(&self, task: &Task) -> TaskStatus {
        let restoring = self.restoring.as_ref();
        let position = |q: &RecordQueue| {
            let next = q.next_offset().or(q.committed_offset());
            (format!("{}-{}", q.topic, q.partition), next.unwrap_or(0))
        };
        TaskStatus {
            id: task.id.to_string(),
            phase: if restoring.is_some() || self.assigned.is_some() {
                TaskPhase::Restoring
            } else {
                TaskPhase::Running
            },
            restore_remaining: restoring.map_or(0, |r| r.remaining(task.id)),
            restore_stuck: restoring.map_or_else(Vec::new, |r| {
                let stuck = r.stuck(self.shared.now());
                let of_task = stuck.filter(|(id, _)| *id == task.id);
                of_task.map(|(_, what)| what).collect()
            }),
            records: task.records,
            dropped: task.counters.dropped,
            buffered: task.group.queues().iter().map(|q| q.waiting()).sum(),
            stream_time_ms: task.group.stream_time(),
            positions: task.group.queues().iter().map(position).collect(),
            unwritten_bytes: task.state.committed_bytes(),
            stalled: task.state.flush_failure().map(|why| why.to_string()),
            stores: task
                .store_names()
                .enumerate()
                .map(|(at, name)| StoreStatus {
                    name: name.to_owned(),
                    position: task.state.position(at),
                    replayed: task.replayed.get(name).copied().unwrap_or(0),
                })
                .collect(),
        }
    }

    /// Ends the membership. Committed state goes to disk; what is not committed is dropped.
    pub(crate) fn close(mut self) -> CommitTimes {
        if self.producing.is_open() {
            self.discard();
        }
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.close_task(id);
        }
        self.shared.standbys.claim(self.index, BTreeSet::new());
        if let Some(consumer) = self.consumer.take() {
            consumer.close(false);
        }
        self.joined = false;
        self.publish();
        self.times
    }
}
