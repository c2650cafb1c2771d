//! Records, the tables they mean, and the check that a database holds just these.

use std::collections::{BTreeMap, BTreeSet};

use millstream_broker::TopicPartition;

use super::{
    databases::execute,
    faults::Chance,
    log::ScriptedLog,
    shop::{count_in, make_tables},
};
use crate::{
    Database, Dialect, Error, Progress, Result,
    progress::{COMPONENT, MIGRATIONS},
};

pub(super) fn partition(n: i32) -> TopicPartition {
    TopicPartition::new("prices", n)
}

/// A record of the log.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) sku: String,
    pub(super) value: Option<String>,
}

/// Records of a seed: prices with versions in any order, tombstones, gaps, and bad ones if wanted.
pub(super) fn records(seed: u64, n: usize, partitions: i32, with_bad: bool) -> Vec<Record> {
    let mut chance = Chance::new(seed ^ 0xdead_beef);
    let mut next = vec![0; partitions as usize];
    let mut record = |i: usize| {
        let sku = chance.below(9) as i32;
        let partition = sku % partitions;
        let offset = next[partition as usize] + chance.below(3) as i64;
        next[partition as usize] = offset + 1;
        let version = i as u64 + chance.below(8);
        let sku = format!("sku-{sku}");
        let (sku, value) = match chance.below(40) {
            0..3 => (sku, None),
            // A key of its own: a row that a later one of its batch replaces is never sent.
            3 if with_bad => (format!("bad-{i}"), Some(format!("-1 {version}"))),
            4 if with_bad => (sku, Some("what?".to_owned())),
            _ => (sku, Some(format!("{i} {version}"))),
        };
        Record {
            partition,
            offset,
            sku,
            value,
        }
    };
    (0..n).map(&mut record).collect()
}

pub(super) fn log_of(records: &[Record], partitions: i32) -> ScriptedLog {
    let log = ScriptedLog::new(&(0..partitions).map(partition).collect::<Vec<_>>());
    let mut next = vec![0; partitions as usize];
    for record in records {
        let next = &mut next[record.partition as usize];
        let gap = record.offset - *next;
        *next = record.offset + 1;
        let to = partition(record.partition);
        log.append(&to, gap, &record.sku, record.value.as_deref());
    }
    log
}

/// The end of each partition.
pub(super) fn ends(records: &[Record]) -> BTreeMap<i32, i64> {
    records
        .iter()
        .map(|r| (r.partition, r.offset + 1))
        .collect()
}

/// What tables hold, or should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) prices: BTreeMap<String, (i64, i64)>,
    /// Partition and offset of what made rows.
    pub(super) seen: BTreeSet<(i32, i64)>,
    /// How often rows of `seen` were written.
    pub(super) writes: i64,
    /// Partition and offset of what was set aside.
    pub(super) letters: BTreeSet<(i32, i64)>,
}

/// The tables as the naive fold makes them, of the records before the given offsets. Knows nothing
/// of batches, and reads values in its own way.
pub(super) fn fold(records: &[Record], next: &BTreeMap<i32, i64>) -> Tables {
    let mut tables = Tables::default();
    for record in records {
        if record.offset >= next.get(&record.partition).copied().unwrap_or(0) {
            continue;
        }
        let at = (record.partition, record.offset);
        let Some(value) = &record.value else {
            tables.prices.remove(&record.sku);
            continue;
        };
        let numbers: Vec<i64> = value.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [price, version] = numbers[..] else {
            tables.letters.insert(at);
            continue;
        };
        if price < 0 {
            tables.letters.insert(at);
            continue;
        }
        tables.seen.insert(at);
        tables.writes += 1;
        let row = tables.prices.entry(record.sku.clone());
        let row = row.or_insert((price, version));
        if version > row.1 {
            *row = (price, version);
        }
    }
    tables
}

/// A committed change of one partition's progress, as a trigger in the database wrote it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) partition: i32,
    pub(super) epoch: i64,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A database at one moment.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) progress: Vec<Progress>,
    pub(super) tables: Tables,
    /// In the order of the commits, as far as one partition goes.
    pub(super) moves: Vec<Move>,
}

/// Makes the tables and the triggers.
pub(super) async fn make_world(database: &Database) {
    make_tables(database).await;
    let migrated = database.migrate(COMPONENT, MIGRATIONS).await;
    migrated.expect("migrates");
    let (id, each) = match database.dialect() {
        Dialect::Sqlite => ("INTEGER PRIMARY KEY", ""),
        Dialect::MySql | Dialect::MariaDb => ("BIGINT PRIMARY KEY AUTO_INCREMENT", "FOR EACH ROW"),
    };
    execute(
        database,
        &format!(
            "CREATE TABLE `moves` (`id` {id}, `partition` BIGINT, `epoch` BIGINT, `start` BIGINT, \
             `stop` BIGINT)"
        ),
    )
    .await;
    for (name, when, start) in [
        ("claimed_first", "INSERT", "0"),
        ("moved", "UPDATE", "OLD.`next_offset`"),
    ] {
        let insert = format!(
            "INSERT INTO `moves` (`partition`, `epoch`, `start`, `stop`) \
             VALUES (NEW.`partition`, NEW.`epoch`, {start}, NEW.`next_offset`)"
        );
        let body = match database.dialect() {
            Dialect::Sqlite => format!("BEGIN {insert}; END"),
            Dialect::MySql | Dialect::MariaDb => insert,
        };
        let trigger =
            format!("CREATE TRIGGER {name} AFTER {when} ON `sink_progress` {each} {body}");
        execute(database, &trigger).await;
    }
}

impl State {
    /// Reads everything at one moment: no sink can commit while the progress is locked.
    pub(super) async fn load(database: &Database) -> Result<Self> {
        const PROGRESS: &str = "SELECT `topic`, `partition`, `epoch`, `next_offset` \
            FROM `sink_progress` WHERE `sink` = 'test' ORDER BY `topic`, `partition`";
        let failed = || Error::database("loading");
        let lock = match database.dialect() {
            Dialect::Sqlite => "",
            Dialect::MySql | Dialect::MariaDb => " LOCK IN SHARE MODE",
        };
        let mut lease = database.lease().await.map_err(failed())?;
        let mut tx = lease.begin().await.map_err(failed())?;
        let progress = tx
            .rows(format!("{PROGRESS}{lock}"), &[], |row| {
                Ok(Progress {
                    partition: TopicPartition::new(row.text(0)?, row.int_as(1)?),
                    epoch: row.int(2)?,
                    next_offset: row.int(3)?,
                })
            })
            .await?;
        let prices = "SELECT `sku`, `price`, `version` FROM `prices`";
        let prices = tx.rows(prices, &[], |row| {
            Ok((row.text(0)?, (row.int(1)?, row.int(2)?)))
        });
        let prices = prices.await?.into_iter().collect();
        let seen = "SELECT `partition`, `offset` FROM `seen`";
        let at = |row: &crate::Row| Ok((row.int_as(0)?, row.int(1)?));
        let seen = tx.rows(seen, &[], at).await?.into_iter().collect();
        let letters = "SELECT `partition`, `offset` FROM `sink_dead_letters` WHERE `sink` = 'test'";
        let letters = tx.rows(letters, &[], at).await?.into_iter().collect();
        let writes = count_in(&mut tx, "SELECT `many` FROM `writes`").await?;
        let moves = "SELECT `partition`, `epoch`, `start`, `stop` FROM `moves` ORDER BY `id`";
        let moves = tx.rows(moves, &[], |row| {
            Ok(Move {
                partition: row.int_as(0)?,
                epoch: row.int(1)?,
                from: row.int(2)?,
                to: row.int(3)?,
            })
        });
        let moves = moves.await?;
        tx.rollback().await.map_err(failed())?;
        lease.give_back();
        let tables = Tables {
            prices,
            seen,
            writes,
            letters,
        };
        Ok(Self {
            progress,
            tables,
            moves,
        })
    }

    pub(super) fn next(&self) -> BTreeMap<i32, i64> {
        let next = |p: &Progress| (p.partition.partition, p.next_offset);
        self.progress.iter().map(next).collect()
    }

    /// Finds the first way in which this is not what the records mean up to the progress, or was
    /// not reached by one writer after the other.
    pub(super) fn verify(&self, records: &[Record]) -> Result<(), String> {
        let expected = fold(records, &self.next());
        if self.tables != expected {
            let found = &self.tables;
            return Err(format!("tables are {found:?}, records mean {expected:?}"));
        }
        for progress in &self.progress {
            let moves = self.moves.iter();
            let moves = moves.filter(|m| m.partition == progress.partition.partition);
            let mut at: Option<(i64, i64)> = None;
            for step in moves {
                let (epoch, next) = at.unwrap_or((0, 0));
                let claim = step.epoch == epoch + 1 && step.to == step.from;
                let batch = step.epoch == epoch && step.to > step.from;
                if step.from != next || !(claim || batch) {
                    return Err(format!("{step:?} comes after epoch {epoch}, offset {next}"));
                }
                at = Some((step.epoch, step.to));
            }
            if at != Some((progress.epoch, progress.next_offset)) {
                return Err(format!("moves end at {at:?}, progress is {progress:?}"));
            }
        }
        Ok(())
    }
}

/// Finds progress that went back between two looks.
pub(super) fn went_back(before: &[Progress], after: &[Progress]) -> Option<String> {
    before.iter().find_map(|b| {
        let after = after.iter().find(|a| a.partition == b.partition);
        let fine = after.is_some_and(|a| a.epoch >= b.epoch && a.next_offset >= b.next_offset);
        (!fine).then(|| format!("{b:?} became {after:?}"))
    })
}
