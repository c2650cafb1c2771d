//! Topics, offsets and groups of the simulated log, and appending from outside.

use std::time::Duration;

use super::{
    faults::Call,
    partition::{Partition, Topic},
    state::{Handle, Place, State},
};
use crate::{
    Admin, Appended, Appender, Cleanup, Error, NewTopic, OwnedRecord, Result, TopicInfo,
    TopicPartition, Watermarks,
};

pub(super) struct SimAdmin(pub(super) Handle);

impl SimAdmin {
    fn call<T>(&self, call: Call, effect: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.0.call(call, &Place::Nobody, |state, _| effect(state))
    }
}

impl Admin for SimAdmin {
    fn cluster_id(&self) -> Result<String> {
        self.call(Call::ClusterId, |state| Ok(state.config.cluster_id.clone()))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.call(Call::Topics, |state| {
            let topics = state.topics.iter().map(|(name, topic)| TopicInfo {
                name: name.clone(),
                partitions: topic.partitions.len() as u32,
            });
            Ok(topics.collect())
        })
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        self.call(Call::CreateTopics, |state| {
            for topic in topics {
                if topic.name.is_empty() || topic.partitions == 0 {
                    return Err(Error::client(
                        format!("creating topic `{}`", topic.name),
                        "a topic has a name and at least one partition",
                    ));
                }
                if let Some(old) = state.topics.get(&topic.name) {
                    let has = old.partitions.len() as u32;
                    if has != topic.partitions {
                        return Err(Error::PartitionCount {
                            topic: topic.name.to_string(),
                            has,
                            wanted: topic.partitions,
                        });
                    }
                    continue;
                }
                let partitions = (0..topic.partitions).map(|_| Partition::default());
                let made = Topic {
                    cleanup: topic.cleanup,
                    partitions: partitions.collect(),
                };
                state.topics.insert(topic.name.clone(), made);
                state.topic_changed(&topic.name);
            }
            Ok(())
        })
    }

    fn delete_topics(&self, topics: &[&str]) -> Result<()> {
        self.call(Call::DeleteTopics, |state| {
            topics.iter().for_each(|name| state.delete_topic(name));
            Ok(())
        })
    }

    fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks> {
        self.call(Call::AdminWatermarks, |state| {
            let Partition { low, high, .. } = *state.partition(partition)?;
            Ok(Watermarks { low, high })
        })
    }

    fn tombstone_retention(&self, topic: &str) -> Result<Option<Duration>> {
        self.call(Call::AdminWatermarks, |state| {
            let at = || TopicPartition::new(topic, 0);
            let found = state.topics.get(topic);
            let found = found.ok_or_else(|| Error::UnknownPartition(at()))?;
            Ok(match found.cleanup {
                Cleanup::Delete { .. } => None,
                Cleanup::Compact | Cleanup::CompactAndDelete { .. } => {
                    Some(state.config.tombstones)
                }
            })
        })
    }

    fn ends_take_offsets(&self) -> bool {
        true
    }

    fn committed(&self, group_id: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>> {
        self.call(Call::AdminCommitted, |state| {
            state.offsets(group_id, partitions)
        })
    }

    fn set_committed(&self, group_id: &str, offsets: &[(TopicPartition, i64)]) -> Result<()> {
        self.call(Call::SetCommitted, |state| {
            for (at, _) in offsets {
                state.partition(at)?;
            }
            let now = state.now;
            let group = state.group(group_id);
            group.expire(now);
            if group.members().next().is_some() {
                return Err(Error::client(
                    "setting committed offsets",
                    "the group has members",
                ));
            }
            for (at, offset) in offsets {
                group.committed.insert(at.clone(), *offset);
            }
            Ok(())
        })
    }

    fn offset_at(&self, partition: &TopicPartition, timestamp: i64) -> Result<Option<i64>> {
        self.call(Call::OffsetAt, |state| {
            let partition = state.partition(partition)?;
            let mut records = partition.visible(partition.low);
            let found = records.find(|(_, record)| record.timestamp >= timestamp);
            Ok(found.map(|(offset, _)| offset))
        })
    }

    fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<()> {
        self.call(Call::DeleteRecords, |state| {
            for (at, offset) in before {
                state.partition_mut(at)?.delete_before(at, *offset)?;
            }
            Ok(())
        })
    }

    fn groups(&self) -> Result<Vec<(String, Vec<String>)>> {
        self.call(Call::Groups, |state| {
            let groups = state.groups.iter().map(|(id, group)| {
                let members = group.members().map(|(member, _)| member.clone());
                (id.clone(), members.collect())
            });
            Ok(groups.collect())
        })
    }
}

pub(super) struct SimAppender(pub(super) Handle);

impl Appender for SimAppender {
    fn append(&self, record: OwnedRecord, done: Appended) -> Result<()> {
        let client = self.0.client;
        self.0.call(Call::Append, &Place::Nobody, |state, fate| {
            state.enqueue(client, record, done, fate)
        })
    }
}
