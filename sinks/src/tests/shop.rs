//! Small tables for tests: prices by sku, guarded by version, and a ledger of everything seen.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use millstream_broker::TopicPartition;
use millstream_topology::BoxError;

use super::{databases::execute, faults::Chance};
use crate::{
    Database, DeadLetter, DeadLetters, Dialect, Message, Migration, OnConflict, Output, Projection,
    Result, Table, transaction::Transaction,
};

pub(super) static PRICES: Table =
    Table::new("prices", &["sku", "price", "version"], 1, OnConflict::Newer);
pub(super) static SEEN: Table = Table::new(
    "seen",
    &["topic", "partition", "offset"],
    3,
    OnConflict::Keep,
);

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "tables of the test",
    statements: &[
        "CREATE TABLE `prices` (`sku` {id} NOT NULL PRIMARY KEY, `price` {int} NOT NULL \
         CHECK (`price` >= 0), `version` {int} NOT NULL){options}",
        "CREATE TABLE `seen` (`topic` {id} NOT NULL, `partition` {int} NOT NULL, \
         `offset` {int} NOT NULL, PRIMARY KEY (`topic`, `partition`, `offset`)){options}",
        "CREATE TABLE `writes` (`n` {int} NOT NULL PRIMARY KEY, `many` {int} NOT NULL){options}",
        "INSERT INTO `writes` VALUES (1, 0)",
    ],
}];

/// Makes the tables, and a trigger that counts every insert into the ledger, repeated ones too.
pub(super) async fn make_tables(database: &Database) {
    database
        .migrate("test", MIGRATIONS)
        .await
        .expect("migrates");
    let count = "UPDATE `writes` SET `many` = `many` + 1";
    let trigger = match database.dialect() {
        Dialect::Sqlite => format!("CREATE TRIGGER c BEFORE INSERT ON `seen` BEGIN {count}; END"),
        Dialect::MySql | Dialect::MariaDb => {
            format!("CREATE TRIGGER c BEFORE INSERT ON `seen` FOR EACH ROW {count}")
        }
    };
    execute(database, &trigger).await;
}

/// A price over which the projection panics.
pub(super) const PANIC: i64 = 13_131_313;

/// Values are `<price> <version>`; a price below 0 is refused by the table.
pub(super) struct Prices;

impl Projection for Prices {
    fn topics(&self) -> Vec<Arc<str>> {
        vec!["prices".into()]
    }

    fn project(&self, batch: &[&Message], out: &mut Output) {
        for message in batch {
            let sku = message.text_key().expect("tests write text");
            let Some(value) = &message.value else {
                out.changes.clear(&PRICES, [sku.into()]);
                continue;
            };
            match read(value) {
                Some((price, _)) if price == PANIC => panic!("price {PANIC}"),
                Some((price, version)) => {
                    out.changes
                        .put(&PRICES, [sku.into(), price.into(), version.into()]);
                }
                None => {
                    out.reject(message, "no price");
                    continue;
                }
            }
            out.changes.put(
                &SEEN,
                [
                    message.topic.clone().into(),
                    message.partition.into(),
                    message.offset.into(),
                ],
            );
        }
    }
}

fn read(value: &[u8]) -> Option<(i64, i64)> {
    let (price, version) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((price.parse().ok()?, version.parse().ok()?))
}

/// The table as the naive fold over all records makes it.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) prices: BTreeMap<String, (i64, i64)>,
    pub(super) seen: i64,
}

impl Expected {
    pub(super) fn put(&mut self, sku: &str, price: i64, version: i64) {
        self.seen += 1;
        let row = self
            .prices
            .entry(sku.to_owned())
            .or_insert((price, version));
        if version > row.1 {
            *row = (price, version);
        }
    }

    pub(super) async fn check(&self, database: &Database) {
        let prices = database
            .rows(
                "SELECT `sku`, `price`, `version` FROM `prices`",
                &[],
                |row| Ok((row.text(0)?, (row.int(1)?, row.int(2)?))),
            )
            .await
            .expect("reads");
        let prices: BTreeMap<_, _> = prices.into_iter().collect();
        assert_eq!(prices, self.prices);
        assert_eq!(
            count(database, "SELECT COUNT(*) FROM `seen`").await,
            self.seen
        );
        let writes = count(database, "SELECT `many` FROM `writes`").await;
        assert_eq!(writes, self.seen, "rows were written twice");
    }
}

pub(super) async fn count(database: &Database, sql: &'static str) -> i64 {
    database
        .rows(sql, &[], |row| row.int(0))
        .await
        .expect("reads")[0]
}

pub(super) async fn count_in(tx: &mut Transaction<'_>, sql: &'static str) -> Result<i64> {
    Ok(tx.rows(sql, &[], |row| row.int(0)).await?[0])
}

/// Keeps dead letters for a look.
#[derive(Clone, Default)]
pub(super) struct Letters {
    kept: Arc<Mutex<Vec<DeadLetter>>>,
    /// Some are not accepted at the first try.
    chance: Option<Arc<Mutex<Chance>>>,
}

impl Letters {
    /// Every third letter has to be sent again.
    pub(super) fn unreliable(seed: u64) -> Self {
        Self {
            kept: Arc::default(),
            chance: Some(Arc::new(Mutex::new(Chance::new(seed)))),
        }
    }

    /// Offsets and reasons, in order of arrival.
    pub(super) fn list(&self) -> Vec<(TopicPartition, i64, String)> {
        let letters = self.kept.lock().expect("no test panics with it");
        let line = |l: &DeadLetter| {
            let partition = TopicPartition::new(l.message.topic.clone(), l.message.partition);
            (partition, l.message.offset, l.reason.clone())
        };
        letters.iter().map(line).collect()
    }
}

impl DeadLetters for Letters {
    fn put(
        &self,
        letter: DeadLetter,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + '_>> {
        let refuses = |c: &Arc<Mutex<Chance>>| c.lock().expect("no panic").below(3) == 0;
        if self.chance.as_ref().is_some_and(refuses) {
            return Box::pin(async { Err("the dead letters are full".into()) });
        }
        self.kept
            .lock()
            .expect("no test panics with it")
            .push(letter);
        Box::pin(async { Ok(()) })
    }
}
