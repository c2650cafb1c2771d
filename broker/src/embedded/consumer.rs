//! A member of a group, reading what it owns.

use std::{sync::Arc, time::Duration};

use super::{
    fetcher::{Fetcher, OutOfRange},
    group::{Group, News, Seat},
    log::Running,
    partition::Partition,
    signal::Signal,
};
use crate::{
    Consumer, ConsumerConfig, Error, Event, Fetched, GroupMetadata, PartitionIx, Result, Start,
    TopicPartition,
};

/// A member of a group of the embedded log.
pub(super) struct EmbeddedConsumer {
    running: Arc<Running>,
    config: ConsumerConfig,
    group: Arc<Group>,
    seat: Seat,
    signal: Arc<Signal>,
    fetcher: Fetcher,
    /// What the caller owes an answer for, or has.
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Nothing,
    /// Was told an assignment.
    Assigned,
    /// Was told to give it back.
    Revoked,
    /// Was told that it is gone already.
    Lost,
}

impl EmbeddedConsumer {
    pub(super) fn join(running: Arc<Running>, config: ConsumerConfig) -> Result<Self> {
        let log = &running.log;
        log.check()?;
        for topic in &config.topics {
            log.partition(&TopicPartition::new(topic.clone(), 0))?;
        }
        let group = log.group(&config.group_id);
        let signal = Arc::new(Signal::default());
        let seat = group.join(&config, &signal);
        Ok(Self {
            fetcher: Fetcher::new(OutOfRange::StartOver, signal.clone()),
            hold: Hold::Nothing,
            running,
            config,
            group,
            seat,
            signal,
        })
    }

    /// What the group has to say, taking the place anew where it was lost.
    fn news(&mut self) -> Result<Option<Event>> {
        let log = &self.running.log;
        let count = |topic: &str| log.topic(topic).map_or(0, |t| t.partitions.len() as u32);
        if self.hold == Hold::Lost {
            return Ok(None);
        }
        match self.group.poll(&self.seat, count) {
            News::Nothing => Ok(None),
            News::Event(event) => {
                self.hold = match &event {
                    Event::Assigned(_) => Hold::Assigned,
                    Event::Revoked { .. } => Hold::Revoked,
                    Event::Records => self.hold,
                };
                Ok(Some(event))
            }
            News::Fenced => {
                self.fetcher.clear();
                Err(Error::Fenced(self.seat.instance_id.clone()))
            }
            News::Dropped if self.hold == Hold::Nothing => {
                self.seat = self.group.join(&self.config, &self.signal);
                Ok(None)
            }
            News::Dropped => {
                self.fetcher.clear();
                self.hold = Hold::Lost;
                Ok(Some(Event::Revoked { lost: true }))
            }
        }
    }
}

impl Consumer for EmbeddedConsumer {
    fn poll(&mut self, wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<Event> {
        let clock = self.running.log.config.clock.clone();
        let began = clock.instant();
        loop {
            self.running.log.check()?;
            self.signal.silence();
            if let Some(event) = self.news()? {
                return Ok(event);
            }
            let before = into.len();
            if self.hold == Hold::Assigned {
                self.fetcher.fetch(&self.running.log, limit, into)?;
            }
            let left = wait.saturating_sub(clock.instant() - began);
            if into.len() > before || left.is_zero() {
                return Ok(Event::Records);
            }
            let patience = match self.hold {
                Hold::Lost => left,
                Hold::Nothing | Hold::Assigned | Hold::Revoked => self.group.patience(&self.seat),
            };
            self.signal.wait(left.min(patience));
        }
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        if self.hold != Hold::Assigned {
            return Err(Error::State("nothing was assigned"));
        }
        self.fetcher.assign(&self.running.log, partitions)
    }

    fn unassign(&mut self) -> Result<()> {
        match self.hold {
            Hold::Revoked => self.group.unassign(&self.seat),
            Hold::Lost => self.seat = self.group.join(&self.config, &self.signal),
            Hold::Nothing | Hold::Assigned => return Err(Error::State("nothing was revoked")),
        }
        self.hold = Hold::Nothing;
        self.fetcher.clear();
        Ok(())
    }

    fn pause(&mut self, partition: PartitionIx) -> Result<()> {
        self.fetcher.pause(partition, true)
    }

    fn resume(&mut self, partition: PartitionIx) -> Result<()> {
        self.fetcher.pause(partition, false)
    }

    fn seek(&mut self, partition: PartitionIx, offset: i64) -> Result<()> {
        self.fetcher.seek(partition, offset)
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
        wait: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let log = &self.running.log;
        log.check()?;
        let partitions: Vec<Arc<Partition>> = partitions
            .iter()
            .map(|at| log.partition(at))
            .collect::<Result<_>>()?;
        self.group.committed(&partitions, wait)
    }

    fn group_metadata(&self) -> Result<GroupMetadata> {
        Ok(GroupMetadata::new(self.group.proof(&self.seat)?))
    }

    fn is_replaced(&mut self, _wait: Duration) -> Result<bool> {
        self.running.log.check()?;
        Ok(self.group.is_replaced(&self.seat))
    }

    fn close(self: Box<Self>, keep_place: bool) {
        self.group.leave(&self.seat, keep_place);
    }
}

/// A consumer that is dropped keeps its place until its session times out, as if its process had
/// died.
impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.group.leave(&self.seat, true);
    }
}
