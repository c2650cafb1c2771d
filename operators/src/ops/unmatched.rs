//! Records of a left or outer stream–stream join that have met nobody yet.

use std::{cmp::Ordering, collections::VecDeque};

use bytes::Bytes;
use millstream_topology::{KvStore, Result, Serde, StoreId, WindowStore};

use crate::{Cx, JoinWindow, build::TaskBuild, ops::source::bad};

/// The side of a join that a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    Right,
    Left,
}

impl Whose {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Right => Self::Left,
            Self::Left => Self::Right,
        }
    }

    /// First byte of an entry's key: no key of a buffer begins with a zero.
    fn tag(self) -> u8 {
        match self {
            Self::Right => 1,
            Self::Left => 2,
        }
    }
}

/// A record that nobody can meet any more.
pub(crate) struct Released<K, L, R> {
    pub(crate) key: K,
    pub(crate) left: Option<L>,
    pub(crate) right: Option<R>,
    pub(crate) timestamp: i64,
}

/// Upper bound of records read in one go.
const RELEASE_BATCH: usize = 256;
const TAG_BYTES: usize = 1;
const TIME_BYTES: usize = 8;
const NUMBER_BYTES: usize = 4;

/// Records that have met nobody yet, each side's by time, then key, then arrival.
///
/// A key of the store is the side (1 byte), the time (8 bytes, big-endian), the record's key, and a
/// number (4 bytes, big-endian) that tells records of one key and time apart.
pub(crate) struct Unmatched<K: 'static, L: 'static, R: 'static, I = StoreId> {
    pub(crate) id: I,
    pub(crate) store: KvStore<Bytes, Bytes>,
    pub(crate) left: WindowStore<K, L>,
    pub(crate) right: WindowStore<K, R>,
    pub(crate) window: JoinWindow,
}

impl<K, L, R, I: Clone> Clone for Unmatched<K, L, R, I> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            ..*self
        }
    }
}

impl<K, L, R> Unmatched<K, L, R> {
    /// The same, with the store's index in the task's state.
    pub(crate) fn open(self, build: &TaskBuild<'_>) -> Unmatched<K, L, R, usize> {
        Unmatched {
            id: build.store(self.id),
            store: self.store,
            left: self.left,
            right: self.right,
            window: self.window,
        }
    }
}

impl<K: 'static, L: 'static, R: 'static> Unmatched<K, L, R, usize> {
    /// The first time of a side's records that can still meet somebody.
    fn open_from(&self, whose: Whose, now: i64) -> i64 {
        let ahead = match whose {
            Whose::Left => self.window.after_ms,
            Whose::Right => self.window.before_ms,
        };
        now - ahead - self.window.grace_ms
    }

    /// True when a record of that time may still meet somebody.
    pub(crate) fn is_open(&self, whose: Whose, now: i64, timestamp: i64) -> bool {
        timestamp >= self.open_from(whose, now)
    }

    fn prefix(&self, whose: Whose, key: &K, timestamp: i64) -> Result<Vec<u8>> {
        let mut place = head(whose, timestamp);
        let encoded = self.left.key().encode(key, &mut place);
        encoded.map_err(bad("key"))?;
        Ok(place)
    }

    /// The entries of a key and time.
    fn of(&self, cx: &mut Cx<'_>, prefix: &[u8]) -> Result<Vec<Bytes>> {
        let found = cx
            .state
            .kv(self.id, &self.store)
            .prefix(prefix, usize::MAX)?;
        let places = found.into_iter().map(|(place, ..)| place);
        Ok(places
            .filter(|place| place.len() == prefix.len() + NUMBER_BYTES)
            .collect())
    }

    pub(crate) fn add<V>(
        &self,
        cx: &mut Cx<'_>,
        whose: Whose,
        key: &K,
        serde: &Serde<V>,
        value: &V,
        timestamp: i64,
    ) -> Result<()> {
        let mut place = self.prefix(whose, key, timestamp)?;
        // All entries of a key and time go at once, so their number is the next one's.
        let number = self.of(cx, &place)?.len() as u32;
        place.extend_from_slice(&number.to_be_bytes());
        let mut bytes = Vec::new();
        serde.encode(value, &mut bytes).map_err(bad("value"))?;
        let mut entries = cx.state.kv(self.id, &self.store);
        entries.put(&place.into(), bytes.into(), timestamp)
    }

    /// Takes out the records of a side that have met somebody.
    pub(crate) fn remove(
        &self,
        cx: &mut Cx<'_>,
        whose: Whose,
        key: &K,
        timestamp: i64,
    ) -> Result<()> {
        let prefix = self.prefix(whose, key, timestamp)?;
        let met = self.of(cx, &prefix)?;
        let mut entries = cx.state.kv(self.id, &self.store);
        met.iter()
            .try_for_each(|place| entries.delete(place, timestamp))
    }

    /// Passes on what can meet nobody any more: by time, right ones first, then by key, then in the
    /// order of their arrival.
    pub(crate) fn release(
        &self,
        cx: &mut Cx<'_>,
        now: i64,
        pass_on: &mut dyn FnMut(&mut Cx<'_>, Released<K, L, R>) -> Result<()>,
    ) -> Result<()> {
        let mut right = Queue::new(Whose::Right, self.open_from(Whose::Right, now));
        let mut left = Queue::new(Whose::Left, self.open_from(Whose::Left, now));
        loop {
            right.fill(self, cx)?;
            left.fill(self, cx)?;
            let first = match (right.entries.front(), left.entries.front()) {
                (None, None) => return Ok(()),
                (Some(_), None) => &mut right,
                (None, Some(_)) => &mut left,
                (Some((.., r)), Some((.., l))) => match r.cmp(l) {
                    Ordering::Less | Ordering::Equal => &mut right,
                    Ordering::Greater => &mut left,
                },
            };
            let whose = first.whose;
            let Some((place, bytes, timestamp)) = first.entries.pop_front() else {
                return Ok(());
            };
            cx.state
                .kv(self.id, &self.store)
                .delete(&place, timestamp)?;
            let released = self.decode(whose, &place, &bytes, timestamp)?;
            pass_on(cx, released)?;
        }
    }

    fn decode(
        &self,
        whose: Whose,
        place: &[u8],
        bytes: &[u8],
        timestamp: i64,
    ) -> Result<Released<K, L, R>> {
        let key = &place[TAG_BYTES + TIME_BYTES..place.len() - NUMBER_BYTES];
        let key = self.left.key().decode(Some(key)).map_err(bad("key"))?;
        let (left, right) = match whose {
            Whose::Left => (Some(self.left.value().decode(Some(bytes))), None),
            Whose::Right => (None, Some(self.right.value().decode(Some(bytes)))),
        };
        Ok(Released {
            key,
            left: left.transpose().map_err(bad("value"))?,
            right: right.transpose().map_err(bad("value"))?,
            timestamp,
        })
    }
}

fn head(whose: Whose, timestamp: i64) -> Vec<u8> {
    let mut place = vec![whose.tag()];
    place.extend_from_slice(&timestamp.to_be_bytes());
    place
}

/// One side's records that are due, read a batch at a time. Every one of a batch is deleted before
/// the next is read.
struct Queue {
    whose: Whose,
    until: i64,
    entries: VecDeque<(Bytes, Bytes, i64)>,
    ended: bool,
}

impl Queue {
    /// Records before the time `until`.
    fn new(whose: Whose, until: i64) -> Self {
        Self {
            whose,
            until,
            entries: VecDeque::new(),
            ended: until <= 0,
        }
    }

    fn fill<K: 'static, L: 'static, R: 'static>(
        &mut self,
        of: &Unmatched<K, L, R, usize>,
        cx: &mut Cx<'_>,
    ) -> Result<()> {
        if self.ended || !self.entries.is_empty() {
            return Ok(());
        }
        let (from, to) = (
            head(self.whose, 0).into(),
            head(self.whose, self.until).into(),
        );
        let mut store = cx.state.kv(of.id, &of.store);
        self.entries = store.range(Some(&from), Some(&to), RELEASE_BATCH)?.into();
        self.ended = self.entries.len() < RELEASE_BATCH;
        Ok(())
    }
}
