//! What a producer sent where, and what became of it.

use rdkafka::types::RDKafkaErrorCode;

use super::raw::Delivery;
use crate::TopicIx;

/// More partitions than any topic has: a higher number is a mistake, not a reason to make a table
/// for it.
const PARTITIONS_MAX: usize = 1 << 20;

/// The account of one producer: it survives the client that sends for it.
#[derive(Default)]
pub(super) struct Ledger {
    /// Slot of a partition, by topic and partition.
    slots_of: Vec<Vec<Option<u32>>>,
    slots: Vec<Slot>,
    in_flight: usize,
    failed: Option<RDKafkaErrorCode>,
    wrote: bool,
}

struct Slot {
    topic: TopicIx,
    partition: i32,
    /// Behind the newest record, that of the open transaction included.
    end: i64,
    /// Behind the newest committed record; 0 when there is none.
    committed: i64,
}

impl Ledger {
    /// Numbers a new topic.
    pub(super) fn topic(&mut self) -> TopicIx {
        let ix = u32::try_from(self.slots_of.len()).expect("fewer than 2^32 topics");
        self.slots_of.push(Vec::new());
        TopicIx(ix)
    }

    /// The number under which the deliveries of a partition come back.
    pub(super) fn slot(&mut self, topic: TopicIx, partition: i32) -> Option<usize> {
        let at = usize::try_from(partition)
            .ok()
            .filter(|at| *at < PARTITIONS_MAX)?;
        let of_topic = self.slots_of.get_mut(topic.0 as usize)?;
        if of_topic.len() <= at {
            of_topic.resize(at + 1, None);
        }
        let entry = of_topic.get_mut(at)?;
        if entry.is_none() {
            *entry = u32::try_from(self.slots.len()).ok();
            self.slots.push(Slot {
                topic,
                partition,
                end: 0,
                committed: 0,
            });
        }
        entry.map(|slot| slot as usize)
    }

    pub(super) fn begin(&mut self) {
        self.failed = None;
        self.wrote = false;
    }

    /// A record was handed to the client.
    pub(super) fn sent(&mut self) {
        self.in_flight += 1;
        self.wrote = true;
    }

    /// Offsets were handed to the client.
    pub(super) fn sent_offsets(&mut self) {
        self.wrote = true;
    }

    pub(super) fn delivered(&mut self, delivery: Delivery) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (delivery.result, self.slots.get_mut(delivery.tag)) {
            // A repetition that the brokers recognised has no offset, that is a negative one.
            (Ok(offset), Some(slot)) => slot.end = slot.end.max(offset + 1),
            (Ok(_), None) => {}
            (Err(code), _) => self.failed = self.failed.or(Some(code)),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The first failure among the records of this transaction.
    pub(super) fn failed(&self) -> Option<RDKafkaErrorCode> {
        self.failed
    }

    /// True when the transaction leaves markers in the log.
    pub(super) fn wrote(&self) -> bool {
        self.wrote
    }

    pub(super) fn commit(&mut self) {
        for slot in &mut self.slots {
            slot.committed = slot.end;
        }
    }

    pub(super) fn abort(&mut self) {
        for slot in &mut self.slots {
            slot.end = slot.committed;
        }
        self.failed = None;
    }

    /// The client is gone, and with it what it had not told yet.
    pub(super) fn abandon(&mut self) {
        self.in_flight = 0;
        self.abort();
    }

    pub(super) fn ends(&self, each: &mut dyn FnMut(TopicIx, i32, i64)) {
        for slot in self.slots.iter().filter(|slot| slot.committed > 0) {
            each(slot.topic, slot.partition, slot.committed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(ledger: &Ledger) -> Vec<(u32, i32, i64)> {
        let mut ends = Vec::new();
        ledger.ends(&mut |topic, partition, end| ends.push((topic.0, partition, end)));
        ends
    }

    #[test]
    fn ends_move_with_commits_only() {
        let mut ledger = Ledger::default();
        let topic = ledger.topic();
        let slot = ledger.slot(topic, 3).expect("a slot");
        let deliver = |ledger: &mut Ledger, offset| {
            ledger.sent();
            ledger.delivered(Delivery {
                tag: slot,
                result: Ok(offset),
            });
        };
        deliver(&mut ledger, 7);
        assert!(ends(&ledger).is_empty());
        ledger.commit();
        deliver(&mut ledger, 9);
        ledger.abort();
        assert_eq!(ends(&ledger), [(0, 3, 8)]);
        deliver(&mut ledger, -1);
        ledger.commit();
        assert_eq!(
            ends(&ledger),
            [(0, 3, 8)],
            "an unknown offset moves nothing"
        );
        assert_eq!(ledger.in_flight(), 0);
    }

    #[test]
    fn impossible_partitions_have_no_slot() {
        let mut ledger = Ledger::default();
        let topic = ledger.topic();
        assert_eq!(ledger.slot(topic, -1), None);
        assert_eq!(ledger.slot(topic, i32::MAX), None);
        assert_eq!(ledger.slot(TopicIx(1), 0), None);
    }
}
