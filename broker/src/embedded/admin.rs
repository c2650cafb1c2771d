//! Topics, offsets and groups of the embedded log.

use std::{sync::Arc, time::Duration};

use super::{
    log::Running,
    partition::Partition,
    queue::{CommitJob, Edit, Job, OffsetsJob},
    reader::EmbeddedReader,
};
use crate::{
    Admin, Cleanup, Error, NewTopic, PartitionIx, Reader, Result, Start, TopicInfo, TopicPartition,
    Watermarks,
};

/// How long [`Admin::committed`] waits for commits on their way.
const COMMITTED_WAIT: Duration = Duration::from_secs(10);

/// Records that a search by time reads in one go, and how long it waits for them.
const SCAN_RECORDS: usize = 10_000;
const SCAN_WAIT: Duration = Duration::from_millis(100);

/// What a topic may have, so that a mistaken number does not fill the memory.
const PARTITIONS_MAX: u32 = 10_000;

pub(super) struct EmbeddedAdmin {
    running: Arc<Running>,
}

impl EmbeddedAdmin {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { running }
    }
}

impl Admin for EmbeddedAdmin {
    fn cluster_id(&self) -> Result<String> {
        Ok(self.running.log.cluster_id.clone())
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        let topics = self.running.log.topics();
        let info = |topic: &Arc<super::partition::Topic>| TopicInfo {
            name: topic.name.clone(),
            partitions: topic.partitions.len() as u32,
        };
        Ok(topics.iter().map(info).collect())
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        for topic in topics {
            if topic.name.is_empty() || !(1..=PARTITIONS_MAX).contains(&topic.partitions) {
                return Err(Error::client(
                    format!("creating topic `{}`", topic.name),
                    format!("a topic has a name and 1 to {PARTITIONS_MAX} partitions"),
                ));
            }
        }
        self.running.log.edit(Edit::CreateTopics(topics.to_vec()))
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<()> {
        let topics = topics.iter().map(|&name| name.to_owned()).collect();
        self.running.log.edit(Edit::DeleteTopics(topics))
    }

    fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks> {
        Ok(self.running.log.partition(partition)?.watermarks())
    }

    fn tombstone_retention(&self, topic: &str) -> Result<Option<Duration>> {
        let log = &self.running.log;
        let partition = log.partition(&TopicPartition::new(topic, 0))?;
        Ok(match partition.cleanup {
            Cleanup::Delete { .. } => None,
            Cleanup::Compact | Cleanup::CompactAndDelete { .. } => {
                Some(log.config.tombstone_retention)
            }
        })
    }

    fn ends_take_offsets(&self) -> bool {
        false
    }

    fn committed(&self, group_id: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        let log = &self.running.log;
        let partitions: Vec<Arc<Partition>> = partitions
            .iter()
            .map(|at| log.partition(at))
            .collect::<Result<_>>()?;
        match log.known_group(group_id) {
            Some(group) => group.committed(&partitions, COMMITTED_WAIT),
            None => Ok(vec![None; partitions.len()]),
        }
    }

    fn set_committed(&self, group_id: &str, offsets: &[(TopicPartition, i64)]) -> Result<()> {
        let log = &self.running.log;
        log.check()?;
        let group = log.group(group_id);
        let offsets = offsets
            .iter()
            .map(|(at, offset)| Ok((log.partition(at)?, *offset)))
            .collect::<Result<Vec<_>>>()?;
        let pass = group
            .begin_set()
            .map_err(|why| Error::client("setting committed offsets", why))?;
        let (done, answer) = crossbeam_channel::bounded(1);
        log.queue.submit(Job::Commit(CommitJob {
            drafts: Vec::new(),
            offsets: Some(OffsetsJob {
                group,
                offsets,
                pass,
            }),
            done,
        }))?;
        let answer = answer.recv().unwrap_or_else(|_| Err(log.broken_error()));
        answer.map(|_| ())
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
        let end = self.watermarks(partition)?.high;
        let mut reader = EmbeddedReader::new(self.running.clone());
        reader.assign(&[(partition.clone(), Start::Earliest)])?;
        let mut fetched = Vec::new();
        while reader.position(PartitionIx(0))? < end {
            fetched.clear();
            reader.poll(SCAN_WAIT, SCAN_RECORDS, &mut fetched)?;
            if let Some(found) = fetched.iter().find(|f| f.timestamp >= timestamp) {
                return Ok(Some(found.offset));
            }
        }
        Ok(None)
    }

    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<()> {
        let log = &self.running.log;
        for (at, offset) in before {
            let partition = log.partition(at)?;
            log.edit(Edit::DeleteBefore(partition, *offset))?;
        }
        Ok(())
    }

    fn groups(&self) -> Result<Vec<(String, Vec<String>)>> {
        let groups = self.running.log.groups();
        let mut groups: Vec<_> = groups
            .iter()
            .map(|group| (group.id.clone(), group.instance_ids()))
            .collect();
        groups.sort();
        Ok(groups)
    }
}
