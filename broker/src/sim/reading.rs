//! Reading partitions, in a group and outside.

use std::time::Duration;

use super::{
    faults::{Call, Fault},
    group::{News, Proof, Seat},
    state::{Handle, Place, State},
};
use crate::{
    Consumer, ConsumerConfig, Error, Event, Fetched, GroupMetadata, PartitionIx, Reader, Result,
    Start, TopicPartition,
};

/// Where each assigned partition is read.
#[derive(Default)]
struct Cursors {
    list: Vec<Cursor>,
    /// Which one comes first at the next poll, so that none starves.
    first: usize,
}

struct Cursor {
    at: TopicPartition,
    position: i64,
    paused: bool,
}

impl Cursors {
    fn assign(&mut self, state: &State, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        let cursor = |(at, start): &(TopicPartition, Start)| {
            Ok(Cursor {
                at: at.clone(),
                position: state.partition(at)?.resolve(*start),
                paused: false,
            })
        };
        self.list = partitions.iter().map(cursor).collect::<Result<_>>()?;
        self.first = 0;
        Ok(())
    }

    fn get(&mut self, partition: PartitionIx) -> Result<&mut Cursor> {
        let cursor = self.list.get_mut(partition.0 as usize);
        cursor.ok_or(Error::State("the partition is not assigned"))
    }

    /// With `start_over`, what cannot be read goes on at the oldest record, or waits.
    fn fetch(
        &mut self,
        state: &mut State,
        fault: Option<Fault>,
        limit: usize,
        start_over: bool,
        into: &mut Vec<Fetched>,
    ) -> Result<()> {
        let limit = match fault {
            Some(Fault::ShortPoll) => state.faults.rng.below(limit),
            _ => limit,
        };
        let count = self.list.len();
        let mut left = limit;
        for turn in 0..count {
            let ix = (self.first + turn) % count;
            let cursor = &mut self.list[ix];
            if cursor.paused {
                continue;
            }
            let partition = match state.partition(&cursor.at) {
                Err(_) if start_over => continue,
                other => other?,
            };
            let (low, high) = (partition.low, partition.high);
            if !(low..=high).contains(&cursor.position) {
                if !start_over {
                    return Err(Error::OffsetOutOfRange {
                        partition: cursor.at.clone(),
                        offset: cursor.position,
                        low,
                        high,
                    });
                }
                cursor.position = low;
            }
            let mut records = partition.visible(cursor.position);
            let mut cut = false;
            for (offset, record) in records.by_ref() {
                if left == 0 {
                    cut = true;
                    break;
                }
                left -= 1;
                cursor.position = offset + 1;
                into.push(Fetched {
                    partition: PartitionIx(ix as u32),
                    offset,
                    timestamp: record.timestamp,
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: record.headers.clone(),
                });
            }
            if !cut {
                cursor.position = cursor.position.max(partition.stable());
            }
        }
        self.first = (self.first + 1) % count.max(1);
        Ok(())
    }
}

pub(super) struct SimReader {
    handle: Handle,
    cursors: Cursors,
}

impl SimReader {
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            cursors: Cursors::default(),
        }
    }
}

impl Reader for SimReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        let cursors = &mut self.cursors;
        self.handle
            .call(Call::ReaderAssign, &Place::Nobody, |state, _| {
                cursors.assign(state, partitions)
            })
    }

    fn poll(&mut self, _wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<()> {
        let cursors = &mut self.cursors;
        self.handle
            .call(Call::ReaderPoll, &Place::Nobody, |state, fault| {
                cursors.fetch(state, fault, limit, false, into)
            })
    }

    fn position(&mut self, partition: PartitionIx) -> Result<i64> {
        let cursors = &mut self.cursors;
        self.handle.call(Call::Position, &Place::Nobody, |_, _| {
            Ok(cursors.get(partition)?.position)
        })
    }
}

pub(super) struct SimConsumer {
    handle: Handle,
    config: ConsumerConfig,
    seat: Seat,
    cursors: Cursors,
    hold: Hold,
    left: bool,
}

/// What the caller owes an answer for, or has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Nothing,
    Assigned,
    Revoked,
    Lost,
}

fn join(state: &mut State, config: &ConsumerConfig) -> Seat {
    let (now, delay) = (state.now, state.config.join_delay);
    state.group(&config.group_id).join(config, now, delay)
}

impl SimConsumer {
    pub(super) fn join(handle: Handle, config: ConsumerConfig) -> Result<Self> {
        let seat = handle.call(Call::MakeConsumer, &Place::Nobody, |state, _| {
            for topic in &config.topics {
                state.partition(&TopicPartition::new(topic.clone(), 0))?;
            }
            Ok::<_, Error>(join(state, &config))
        })?;
        Ok(Self {
            handle,
            config,
            seat,
            cursors: Cursors::default(),
            hold: Hold::Nothing,
            left: false,
        })
    }

    fn leave(&mut self, keep_place: bool) {
        if self.left {
            return;
        }
        self.left = true;
        // A dead client cannot even say that it leaves.
        let _ = self.handle.call(Call::Close, &Place::Nobody, |state, _| {
            let now = state.now;
            let group = state.group(&self.seat.group);
            group.leave(&self.seat, keep_place, now);
            Ok::<_, Error>(())
        });
    }
}

impl Consumer for SimConsumer {
    fn poll(&mut self, _wait: Duration, limit: usize, into: &mut Vec<Fetched>) -> Result<Event> {
        let place = self.seat.clone();
        let Self {
            handle,
            config,
            seat,
            cursors,
            hold,
            ..
        } = self;
        handle.call(Call::Poll, &Place::Seat(&place), |state, fault| {
            if *hold == Hold::Lost {
                return Ok(Event::Records);
            }
            let now = state.now;
            let topics = &state.topics;
            let count = |topic: &str| topics.get(topic).map_or(0, |t| t.partitions.len() as u32);
            let away = state.coordinator_is_away();
            let group = state.groups.get_mut(&seat.group);
            let group = group.expect("a group stays once it was joined");
            let news = if away {
                News::Nothing
            } else {
                group.poll(seat, now, count)
            };
            match news {
                News::Event(event) => {
                    *hold = match &event {
                        Event::Assigned(_) => Hold::Assigned,
                        Event::Revoked { .. } => Hold::Revoked,
                        Event::Records => *hold,
                    };
                    return Ok(event);
                }
                News::Fenced => {
                    cursors.list.clear();
                    return Err(Error::Fenced(seat.instance_id.clone()));
                }
                News::Dropped if *hold == Hold::Nothing => *seat = join(state, config),
                News::Dropped => {
                    cursors.list.clear();
                    *hold = Hold::Lost;
                    return Ok(Event::Revoked { lost: true });
                }
                News::Nothing => {}
            }
            if *hold == Hold::Assigned {
                cursors.fetch(state, fault, limit, true, into)?;
            }
            Ok(Event::Records)
        })
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        if self.hold != Hold::Assigned {
            return Err(Error::State("nothing was assigned"));
        }
        let cursors = &mut self.cursors;
        self.handle.call(Call::Assign, &Place::Nobody, |state, _| {
            cursors.assign(state, partitions)
        })
    }

    fn unassign(&mut self) -> Result<()> {
        let Self {
            handle,
            config,
            seat,
            cursors,
            hold,
            ..
        } = self;
        handle.call(Call::Unassign, &Place::Nobody, |state, _| {
            let now = state.now;
            match *hold {
                Hold::Revoked => state.group(&seat.group).unassign(seat, now),
                Hold::Lost => *seat = join(state, config),
                Hold::Nothing | Hold::Assigned => {
                    return Err(Error::State("nothing was revoked"));
                }
            }
            *hold = Hold::Nothing;
            cursors.list.clear();
            Ok(())
        })
    }

    fn pause(&mut self, partition: PartitionIx) -> Result<()> {
        let cursors = &mut self.cursors;
        self.handle.call(Call::Pause, &Place::Nobody, |_, _| {
            cursors.get(partition)?.paused = true;
            Ok(())
        })
    }

    fn resume(&mut self, partition: PartitionIx) -> Result<()> {
        let cursors = &mut self.cursors;
        self.handle.call(Call::Resume, &Place::Nobody, |_, _| {
            cursors.get(partition)?.paused = false;
            Ok(())
        })
    }

    fn seek(&mut self, partition: PartitionIx, offset: i64) -> Result<()> {
        let cursors = &mut self.cursors;
        self.handle.call(Call::Seek, &Place::Nobody, |_, _| {
            cursors.get(partition)?.position = offset;
            Ok(())
        })
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
        _wait: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let group = &self.seat.group;
        self.handle
            .call(Call::Committed, &Place::Nobody, |state, _| {
                state.stable_offsets(group, partitions)
            })
    }

    fn group_metadata(&self) -> Result<GroupMetadata> {
        let seat = &self.seat;
        self.handle
            .call(Call::GroupMetadata, &Place::Nobody, |state, _| {
                let group = state.group(&seat.group);
                if !group.member_is_in(seat) {
                    return Err(Error::State("the member is not in its group"));
                }
                Ok(GroupMetadata::new(Proof {
                    seat: seat.clone(),
                    generation: group.generation,
                }))
            })
    }

    fn is_replaced(&mut self, _wait: Duration) -> Result<bool> {
        let seat = &self.seat;
        self.handle
            .call(Call::GroupMetadata, &Place::Nobody, |state, _| {
                Ok(state.group(&seat.group).is_replaced(seat))
            })
    }

    fn close(mut self: Box<Self>, keep_place: bool) {
        self.leave(keep_place);
    }
}

/// A consumer that is dropped keeps its place until its session times out, as if its process had
/// died.
impl Drop for SimConsumer {
    fn drop(&mut self) {
        self.leave(true);
    }
}
