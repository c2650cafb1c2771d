//! `Closing`: the windows that an aggregation passes on when they close.

use std::collections::BTreeSet;

use millstream_topology::{Result, Serde};

use crate::ops::source::bad;

/// The time that a window closes by, what orders those of one time, and the encoded key.
type Waiting = (i64, i64, Box<[u8]>);

/// The open windows of a task, in the order in which they are passed on: by time, rank and key. Of
/// windows the time is their start and the rank 0; of sessions they are end and start.
///
/// Invariant: each window of the store that has not been passed on is in here once it is loaded;
/// there are as many as the live layer of the store holds. It lives as long as the task's nodes,
/// which an abort throws away, so it never knows more than the store.
#[derive(Default)]
pub(crate) struct Closing {
    waiting: BTreeSet<Waiting>,
    loaded: bool,
    scratch: Vec<u8>,
}

impl Closing {
    /// Takes over, at the first record of a task, what the store has. `each` calls its argument
    /// with the windows that have not been passed on.
    pub(crate) fn load_once(
        &mut self,
        each: impl FnOnce(&mut dyn FnMut(i64, i64, &[u8])) -> Result<()>,
    ) -> Result<()> {
        if self.loaded {
            return Ok(());
        }
        each(&mut |time, rank, key| {
            self.waiting.insert((time, rank, key.into()));
        })?;
        self.loaded = true;
        Ok(())
    }

    /// A window that is new.
    pub(crate) fn add<K>(
        &mut self,
        (time, rank): (i64, i64),
        key: &K,
        serde: Serde<K>,
    ) -> Result<()> {
        self.scratch.clear();
        serde.encode(key, &mut self.scratch).map_err(bad("key"))?;
        self.waiting
            .insert((time, rank, self.scratch.as_slice().into()));
        Ok(())
    }

    /// Takes out the first window whose time lies before `time`: its time, its rank and its key.
    pub(crate) fn pop_before<K>(
        &mut self,
        time: i64,
        serde: Serde<K>,
    ) -> Result<Option<(i64, i64, K)>> {
        if self.waiting.first().is_none_or(|first| first.0 >= time) {
            return Ok(None);
        }
        let Some((time, rank, key)) = self.waiting.pop_first() else {
            return Ok(None);
        };
        Ok(Some((
            time,
            rank,
            serde.decode(Some(&key)).map_err(bad("key"))?,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_topology::{Codec, Text};

    #[test]
    fn windows_close_by_time_then_rank_then_key() -> Result<()> {
        let serde: Serde<String> = Serde::of(millstream_topology::text());
        let mut closing = Closing::default();
        for (time, rank, key) in [
            (5, 0, "b"),
            (5, 0, "a"),
            (4, 2, "z"),
            (4, 1, "z"),
            (6, 0, ""),
        ] {
            closing.add((time, rank), &key.to_owned(), serde)?;
        }
        closing.add((5, 0), &"a".to_owned(), serde)?;
        let mut popped = Vec::new();
        while let Some((time, rank, key)) = closing.pop_before(6, serde)? {
            popped.push(format!("{key}{time}{rank}"));
        }
        assert_eq!(popped, ["z41", "z42", "a50", "b50"]);
        let key = Text::<String>::to_json(&String::new());
        assert_eq!(key, "", "the last one stays");
        assert!(closing.pop_before(7, serde)?.is_some());
        Ok(())
    }
}
