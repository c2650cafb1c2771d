//! What becomes of the standbys of a world.

use std::collections::BTreeMap;

use millstream_broker::TopicPartition;
use millstream_runtime::TaskPhase;
use millstream_topology::{StoreId, StoreSpec, TaskId};

use super::{APP, World};
use crate::{machine::Disk, spots::Promotions};

impl World<'_> {
    /// Counts the standbys that have become tasks, and what those had to read before they ran.
    pub(super) fn count_promotions(&mut self, at: usize) {
        let process = self.slots[at].process.as_mut().expect("it has just worked");
        let Promotions {
            count,
            dirty,
            running,
        } = process.watch.promotions();
        process.promoted.extend(running);
        let mut replayed = Vec::new();
        if !process.promoted.is_empty() {
            let threads = process.app.status().threads.into_iter();
            for task in threads.flat_map(|thread| thread.tasks) {
                let is_told = |id: &TaskId| id.to_string() == task.id;
                if task.phase == TaskPhase::Running && process.promoted.iter().any(is_told) {
                    process.promoted.retain(|id| !is_told(id));
                    replayed.push(task.stores.iter().map(|store| store.replayed).sum());
                }
            }
        }
        self.add("promotions", count);
        self.add("promotions of dirty standbys", dirty);
        for records in replayed {
            self.add("promotions that read the rest", u64::from(records > 0));
            self.add("records read by promotions", records);
        }
    }

    /// How many tasks have something that a standby can follow.
    pub(super) fn followed_tasks(&self) -> usize {
        let topology = &self.feed.topology;
        let stores = topology.plan().stores();
        let is_followed =
            |store: &StoreId| stores[store.0].logged || topology.refill(*store).is_some();
        let subs = topology.subtopologies().iter();
        let followed = subs.filter(|sub| sub.stores.iter().any(is_followed));
        followed.count() * self.feed.partitions as usize
    }

    /// Where a standby of a store stands when it has everything: behind the last record of its
    /// changelog, or where the group stands in the input that it is restored from.
    fn end_of(&self, store: &str, partition: i32) -> i64 {
        let topology = &self.feed.topology;
        let named = |spec: &StoreSpec| &*spec.name == store;
        let id = topology.plan().stores().iter().position(named);
        let id = StoreId(id.expect("it stands in the plan"));
        if let Some(refill) = topology.refill(id) {
            let at = TopicPartition::new(refill.topic().clone(), partition);
            return self.log.group(APP).offsets.get(&at).copied().unwrap_or(0);
        }
        let at = TopicPartition::new(format!("{APP}-{store}-changelog"), partition);
        let last = self.log.committed_records(&at).last().map(|r| r.offset);
        last.map_or(0, |last| last + 1)
    }

    /// The disks of standbys that say that they have read everything.
    pub(crate) fn standby_disks(&self) -> BTreeMap<TaskId, Disk> {
        let mut disks = BTreeMap::new();
        let owners = self.owners();
        for slot in &self.slots {
            let Some(process) = &slot.process else {
                continue;
            };
            let standbys = process.app.status().standbys;
            for task in owners.keys() {
                let mut of_task = standbys.iter().filter(|s| s.id == task.to_string());
                let is_ready = |(store, position): (&String, &i64)| {
                    self.end_of(store, task.partition) <= *position
                };
                if of_task.any(|standby| standby.positions.iter().all(is_ready)) {
                    disks.insert(*task, slot.disk.clone());
                }
            }
        }
        disks
    }
}
