//! From partitions to tasks: which tasks a member runs, given what the group gave it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_broker::TopicPartition;
use millstream_operators::Topology;
use millstream_topology::TaskId;

use crate::internal_topics::full_name;

/// Which sub-topology reads which topic.
pub(crate) struct Readers(BTreeMap<Arc<str>, u32>);

impl Readers {
    pub(crate) fn of(topology: &Topology, application_id: &str) -> Self {
        let topics = topology.subtopologies().iter().flat_map(|sub| {
            let name = |(topic, role): &(Arc<str>, _)| full_name(application_id, topic, *role);
            sub.sources.iter().map(move |source| (name(source), sub.id))
        });
        Self(topics.collect())
    }

    /// All topics that the application reads.
    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        self.0.keys().cloned().collect()
    }

    /// The task that reads a partition.
    pub(crate) fn task_of(&self, partition: &TopicPartition) -> Option<TaskId> {
        let subtopology = *self.0.get(&partition.topic)?;
        Some(TaskId {
            subtopology,
            partition: partition.partition,
        })
    }

    /// The tasks that read these partitions.
    pub(crate) fn tasks_of(&self, partitions: &[TopicPartition]) -> BTreeSet<TaskId> {
        partitions.iter().filter_map(|p| self.task_of(p)).collect()
    }
}
