//! `Stores`: changelogs against the recomputed state, live stores against their changelogs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_broker::TopicPartition;
use millstream_topology::CHANGELOG_SUFFIX;

use super::{
    Dump,
    part::{Part, Task},
    promises::{CHANGELOG, STORES},
    reference::{State, apply},
};
use crate::{Error, Result, Row, Scan, scan::Range};

/// Bytes of a key or value that an example shows.
const SHOWN_BYTES_MAX: usize = 80;

pub(super) struct Stores<'a> {
    scan: &'a Scan<'a>,
    application_id: Arc<str>,
    dumps: Vec<Dump<'a>>,
    silence: Duration,
    changelogs: Row,
    stores: Option<Row>,
}

impl<'a> Stores<'a> {
    pub(super) fn new(
        scan: &'a Scan<'a>,
        application_id: &Arc<str>,
        dumps: Vec<Dump<'a>>,
        silence: Duration,
    ) -> Self {
        let stores = (!dumps.is_empty()).then(|| Row::new(STORES));
        Self {
            scan,
            application_id: application_id.clone(),
            dumps,
            silence,
            changelogs: Row::new(CHANGELOG),
            stores,
        }
    }

    /// Compares the stores of a task.
    pub(super) fn check(&mut self, part: &Part<'_>, mut task: Task<'_>) -> Result {
        for store in &part.stores {
            let partition = self.changelog(store, task.partition);
            let logged = self.fold(&partition)?;
            let recomputed = task.reference.state(store)?;
            match recomputed.filter(|_| task.input.whole) {
                Some(due) => compare(&mut self.changelogs, &partition, &due, &logged),
                None => self
                    .changelogs
                    .bound(|| format!("nothing says what it must hold. changelog=`{partition}`")),
            }
            let own = |dump: &Dump<'_>| dump.store == *store && dump.partition == task.partition;
            while let Some(at) = self.dumps.iter().position(own) {
                let dump = self.dumps.swap_remove(at);
                self.compare_dump(dump, &logged);
            }
        }
        Ok(())
    }

    /// Compares the live stores that belong to no part, and tells what was found.
    pub(super) fn finish(mut self) -> Result<impl Iterator<Item = Row>> {
        for dump in std::mem::take(&mut self.dumps) {
            let logged = self.fold(&self.changelog(&dump.store, dump.partition))?;
            self.compare_dump(dump, &logged);
        }
        Ok([self.changelogs].into_iter().chain(self.stores))
    }

    fn changelog(&self, store: &str, partition: i32) -> TopicPartition {
        let name = format!("{}-{store}{CHANGELOG_SUFFIX}", self.application_id);
        TopicPartition::new(name, partition)
    }

    fn fold(&self, partition: &TopicPartition) -> Result<State> {
        let ends = self.scan.admin().watermarks(partition)?;
        let ranges = [Range {
            partition: partition.clone(),
            from: ends.low,
            to: ends.high,
        }];
        let mut state = State::new();
        // Copies, since a record may keep the whole answer of the log in memory.
        let copy = |bytes: &Option<Bytes>| bytes.as_deref().map(Bytes::copy_from_slice);
        self.scan
            .until_silent(&ranges, self.silence, &mut |_, record| {
                let (key, value) = (copy(&record.key), copy(&record.value));
                apply(&mut state, key, value, record.timestamp);
                Ok::<_, Error>(())
            })?;
        Ok(state)
    }

    fn compare_dump(&mut self, dump: Dump<'_>, logged: &State) {
        let row = self.stores.get_or_insert_with(|| Row::new(STORES));
        let live = dump.entries.map(|(key, value, at)| (key, (value, at)));
        let live = live.collect();
        let place = TopicPartition::new(dump.store, dump.partition);
        compare(row, &place, logged, &live);
    }
}

/// Compares what holds with what was found, key by key.
fn compare(row: &mut Row, place: &TopicPartition, due: &State, found: &State) {
    for (key, due) in due {
        let found = found.get(key);
        row.expect(found == Some(due), || {
            let key = shown(key);
            format!(
                "partition=`{place}`, key=`{key}`, due={}, found={}",
                entry(Some(due)),
                entry(found)
            )
        });
    }
    for (key, found) in found.iter().filter(|(key, _)| !due.contains_key(*key)) {
        row.expect(false, || {
            let key = shown(key);
            format!(
                "partition=`{place}`, key=`{key}`, due=nothing, found={}",
                entry(Some(found))
            )
        });
    }
}

fn entry(entry: Option<&(Bytes, i64)>) -> String {
    match entry {
        Some((value, timestamp)) => format!("`{}`@{timestamp}", shown(value)),
        None => "nothing".to_owned(),
    }
}

fn shown(bytes: &Bytes) -> String {
    let part = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    part.escape_ascii().to_string()
}
