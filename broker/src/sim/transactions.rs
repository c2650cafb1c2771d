//! Transactions as their coordinator sees them: who may write, what is open, and how it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use super::{
    OpenTransaction, Writer,
    faults::Fault,
    group::Proof,
    state::{State, find_mut},
};
use crate::{Error, OwnedRecord, ProducerError, Result, TopicPartition};

/// While a late end of a transaction is on its way, one in so many records meets it.
const LATE_END_ONE_IN: usize = 4;

type Offsets = BTreeMap<(String, TopicPartition), i64>;

/// Who holds a transactional id.
#[derive(Default)]
pub(super) struct Slot {
    epoch: u32,
    open: Option<Transaction>,
    ending: Option<Ending>,
    /// A commit's first request is still on its way, at this epoch.
    late: Option<u32>,
}

struct Transaction {
    number: u64,
    since: Duration,
    touched: BTreeSet<TopicPartition>,
    offsets: Offsets,
}

/// A transaction whose outcome is decided, but not known everywhere yet.
struct Ending {
    number: u64,
    commit: bool,
    /// When each partition learns of it.
    markers: Vec<(Duration, TopicPartition)>,
    offsets_due: Duration,
    offsets: Offsets,
}

impl Slot {
    /// The transaction that readers wait for, if there is one.
    pub(super) fn view(&self, id: &Arc<str>) -> Option<OpenTransaction> {
        let open = self.open.as_ref().map(|open| OpenTransaction {
            id: id.clone(),
            epoch: self.epoch,
            transaction: open.number,
            decided: None,
            partitions: open.touched.iter().cloned().collect(),
        });
        open.or_else(|| {
            self.ending.as_ref().map(|ending| OpenTransaction {
                id: id.clone(),
                epoch: self.epoch,
                transaction: ending.number,
                decided: Some(ending.commit),
                partitions: ending.markers.iter().map(|(_, at)| at.clone()).collect(),
            })
        })
    }

    /// Whether offsets of the group may still change.
    pub(super) fn holds_offsets(&self, group: &str, partitions: &[TopicPartition]) -> bool {
        let open = self.open.iter().flat_map(|open| open.offsets.keys());
        let ending = self.ending.iter().flat_map(|ending| ending.offsets.keys());
        open.chain(ending)
            .any(|(other, at)| other == group && partitions.contains(at))
    }

    /// Invariant: transactions name only topics that exist.
    pub(super) fn forget_topic(&mut self, name: &str) {
        if let Some(open) = &mut self.open {
            open.touched.retain(|at| &*at.topic != name);
            open.offsets.retain(|(_, at), _| &*at.topic != name);
        }
        if let Some(ending) = &mut self.ending {
            ending.markers.retain(|(_, at)| &*at.topic != name);
            ending.offsets.retain(|(_, at), _| &*at.topic != name);
        }
    }
}

fn abort(error: Error) -> ProducerError {
    ProducerError::Abort(error.into())
}

impl State {
    /// Fences all producers of that id before and ends their transaction. The new epoch.
    pub(super) fn init(&mut self, id: &Arc<str>) -> u32 {
        self.end(id, false, None);
        self.settle(id, Duration::MAX);
        let slot = self.slots.entry(id.clone()).or_default();
        slot.epoch = slot.epoch.checked_add(1).expect("epochs never go back");
        slot.late = None;
        slot.epoch
    }

    pub(super) fn fence(&mut self, id: &Arc<str>, epoch: u32) {
        if self.slots.get(id).is_some_and(|slot| slot.epoch == epoch) {
            self.init(id);
        }
    }

    /// That this producer is the newest of its id.
    pub(super) fn holder(&mut self, id: &str, epoch: u32) -> Result<&mut Slot, ProducerError> {
        let slot = self.slots.get_mut(id).filter(|slot| slot.epoch == epoch);
        slot.ok_or_else(|| ProducerError::Fenced(Error::Fenced(id.to_owned()).into()))
    }

    /// A transaction begins only where the one before is known to be over; the caller is made to
    /// wait for that, which takes no time here.
    pub(super) fn begin(&mut self, id: &Arc<str>, epoch: u32) -> Result<u32, ProducerError> {
        let late = self.holder(id, epoch)?.late.is_some();
        self.settle(id, Duration::MAX);
        let anew = late && self.config.init_after_late_end;
        Ok(if anew { self.init(id) } else { epoch })
    }

    /// The open transaction of a producer, begun here if there is none.
    fn transaction(&mut self, id: &str, epoch: u32) -> Result<&mut Transaction, ProducerError> {
        if self.holder(id, epoch)?.open.is_none() {
            self.settle(id, Duration::MAX);
            self.transactions += 1;
        }
        let (number, since) = (self.transactions, self.now);
        let slot = self.holder(id, epoch)?;
        Ok(slot.open.get_or_insert_with(|| Transaction {
            number,
            since,
            touched: BTreeSet::new(),
            offsets: BTreeMap::new(),
        }))
    }

    pub(super) fn send(
        &mut self,
        id: &Arc<str>,
        epoch: u32,
        record: OwnedRecord,
    ) -> Result<i64, ProducerError> {
        if self.holder(id, epoch)?.open.is_none() {
            // A record that goes nowhere begins nothing.
            self.partition(&record.to).map_err(abort)?;
            self.transaction(id, epoch)?;
        }
        let slot = self.slots.get_mut(id).expect("it was found above");
        let open = slot.open.as_mut().expect("it is open or was begun above");
        let partition = find_mut(&mut self.topics, &record.to).map_err(abort)?;
        if !open.touched.contains(&record.to) {
            open.touched.insert(record.to.clone());
        }
        let writer = Writer {
            id: id.clone(),
            epoch,
            transaction: open.number,
        };
        let offset = partition.append(record, Some(writer), self.now);
        let late = slot.late.is_some();
        if late && self.faults.rng.below(LATE_END_ONE_IN) == 0 {
            self.late_end_arrives(id, epoch)?;
        }
        Ok(offset)
    }

    pub(super) fn send_offsets(
        &mut self,
        id: &str,
        epoch: u32,
        offsets: &[(TopicPartition, i64)],
        proof: &Proof,
    ) -> Result<(), ProducerError> {
        self.holder(id, epoch)?;
        let group = &proof.seat.group;
        let now = self.now;
        self.group(group).expire(now);
        let checked = self.group(group).check(proof);
        checked.map_err(|why| ProducerError::Abort(why.into()))?;
        let open = self.transaction(id, epoch)?;
        for (at, offset) in offsets {
            open.offsets.insert((group.clone(), at.clone()), *offset);
        }
        Ok(())
    }

    /// A commit that is still on its way arrives, if this producer has a transaction for it.
    pub(super) fn late_end_arrives(&mut self, id: &str, epoch: u32) -> Result<(), ProducerError> {
        let slot = self.holder(id, epoch)?;
        if slot.open.is_some() && slot.late.take_if(|late| *late == epoch).is_some() {
            self.end(id, true, None);
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        id: &str,
        epoch: u32,
        fault: Option<Fault>,
    ) -> Result<(), ProducerError> {
        self.late_end_arrives(id, epoch)?;
        self.end(id, true, fault);
        let late = self.config.late_end_txn || fault == Some(Fault::LateEndTxn);
        self.holder(id, epoch)?.late = late.then_some(epoch);
        Ok(())
    }

    pub(super) fn abort(
        &mut self,
        id: &str,
        epoch: u32,
        fault: Option<Fault>,
    ) -> Result<(), ProducerError> {
        self.late_end_arrives(id, epoch)?;
        self.end(id, false, fault);
        Ok(())
    }

    /// Decides the open transaction of an id, if there is one.
    fn end(&mut self, id: &str, commit: bool, fault: Option<Fault>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let Some(open) = slot.open.take() else {
            return;
        };
        assert!(slot.ending.is_none(), "one transaction follows the other");
        let (now, most) = (self.now, self.config.markers_delay);
        let rng = &mut self.faults.rng;
        let mut due = || match fault {
            Some(Fault::SlowMarkers) => now + rng.up_to(most),
            _ => now,
        };
        let markers = open.touched.into_iter().map(|at| (due(), at)).collect();
        slot.ending = Some(Ending {
            number: open.number,
            commit,
            markers,
            offsets_due: due(),
            offsets: open.offsets,
        });
        self.settle(id, now);
    }

    /// Tells what is due by then about the decided transaction of an id.
    fn settle(&mut self, id: &str, until: Duration) {
        let slot = self.slots.get_mut(id);
        let Some(mut ending) = slot.and_then(|slot| slot.ending.take()) else {
            return;
        };
        for (due, at) in mem::take(&mut ending.markers) {
            if due > until {
                ending.markers.push((due, at));
                continue;
            }
            let partition = self.partition_mut(&at);
            let partition = partition.expect("deleted topics are taken out of transactions");
            partition.end(ending.number, ending.commit);
        }
        if ending.offsets_due <= until {
            for ((group, at), offset) in mem::take(&mut ending.offsets) {
                if ending.commit {
                    self.group(&group).commit(at, offset);
                }
            }
        }
        if !ending.markers.is_empty() || !ending.offsets.is_empty() {
            let slot = self.slots.get_mut(id);
            slot.expect("it was found above").ending = Some(ending);
        }
    }

    /// Writes markers that are due, and ends what was open for too long.
    pub(super) fn expire_transactions(&mut self) {
        let (now, timeout) = (self.now, self.config.transaction_timeout);
        let busy = self.slots.iter().filter_map(|(id, slot)| {
            let expired = slot.open.as_ref().map(|open| open.since + timeout <= now);
            (expired == Some(true) || slot.ending.is_some()).then(|| (id.clone(), expired))
        });
        for (id, expired) in busy.collect::<Vec<_>>() {
            if expired == Some(true) {
                self.init(&id);
            } else {
                self.settle(&id, now);
            }
        }
    }
}
