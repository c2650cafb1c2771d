//! Processors with a timer.

use millstream_operators::{Processor, Punctuation};
use millstream_topology::{Record, Result};

use super::{At, In, Own, Timer, count, stored_key};
use crate::{
    functions::cut,
    text::{Key, Text},
};

/// Those whose timer says what has gathered.
pub(super) struct Punctuated {
    timer: Timer,
    kind: Kind,
}

enum Kind {
    /// Counts, and tells all counts.
    Summary { counts: Own, reset: bool },
    /// Forwards, and tells the time.
    Tick,
}

impl Punctuated {
    pub(super) fn summary(counts: Own, timer: Timer, reset: bool) -> Self {
        Self {
            timer,
            kind: Kind::Summary { counts, reset },
        }
    }

    pub(super) fn tick(timer: Timer) -> Self {
        Self {
            timer,
            kind: Kind::Tick,
        }
    }
}

impl Processor for Punctuated {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutKey = Option<Key>;
    type OutValue = Option<Text>;

    fn init(&mut self, cx: &mut At<'_, '_>) -> Result<()> {
        self.timer.start(cx);
        Ok(())
    }

    fn process(&mut self, cx: &mut At<'_, '_>, record: In) -> Result<()> {
        match &self.kind {
            Kind::Summary { counts, .. } => {
                let key = stored_key(&record.key);
                count(cx.store(*counts), &key, record.timestamp).map(drop)
            }
            Kind::Tick => cx.forward(record),
        }
    }

    fn punctuate(&mut self, cx: &mut At<'_, '_>, tick: Punctuation) -> Result<()> {
        let now = tick.time_ms;
        match &self.kind {
            Kind::Summary { counts, reset } => {
                for (key, count, _) in cx.store(*counts).range(None, None, usize::MAX)? {
                    let value = cut(format!("{count}@{now}"));
                    let told = Key::plain(cut(key.clone()));
                    cx.forward(Record::new(Some(told), Some(value), now))?;
                    if *reset {
                        cx.store(*counts).delete(&key, now)?;
                    }
                }
                Ok(())
            }
            Kind::Tick => cx.forward(Record::new(
                Some(Key::plain("tick")),
                Some(now.to_string()),
                now,
            )),
        }
    }
}

/// Forgets keys that have been silent for too long.
pub(super) struct Ttl {
    pub(super) held: Own,
    pub(super) timer: Timer,
    pub(super) ttl_ms: i64,
}

impl Processor for Ttl {
    type Key = Option<Key>;
    type Value = Option<Text>;
    type OutKey = Option<Key>;
    type OutValue = Option<Text>;

    fn init(&mut self, cx: &mut At<'_, '_>) -> Result<()> {
        self.timer.start(cx);
        Ok(())
    }

    fn process(&mut self, cx: &mut At<'_, '_>, record: In) -> Result<()> {
        let key = stored_key(&record.key);
        let at = record.timestamp;
        match &record.value {
            None => cx.store(self.held).delete(&key, at)?,
            Some(value) => cx
                .store(self.held)
                .put(&key, cut(format!("{at}|{value}")), at)?,
        }
        cx.forward(record)
    }

    fn punctuate(&mut self, cx: &mut At<'_, '_>, tick: Punctuation) -> Result<()> {
        let now = tick.time_ms;
        for (key, held, _) in cx.store(self.held).range(None, None, usize::MAX)? {
            let time = held
                .split_once('|')
                .and_then(|(time, _)| time.parse::<i64>().ok());
            if time.is_some_and(|time| time + self.ttl_ms <= now) {
                cx.store(self.held).delete(&key, now)?;
                cx.forward(Record::new(Some(Key::plain(key)), None, now))?;
            }
        }
        Ok(())
    }
}
