//! `Changes`: the rows that a batch of records means, gathered first and written at once.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::{
    Value,
    table::{OnConflict, Table},
    transaction::Transaction,
};

/// Most rows in one statement. Statements hold a power of two of rows, so that each table has at
/// most ten insert statements and every connection prepares each of them once.
pub const ROWS_PER_STATEMENT_MAX: usize = 512;
/// Most bytes in one statement with several rows, well below every server's packet limit.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// Rows to write and to delete, for any number of tables.
///
/// Order counts: what comes later wins. Within one set the same key is written once.
///
/// ```
/// use millstream_sinks::{Changes, OnConflict, Table};
/// static STOCK: Table = Table::new("stock", &["sku", "n"], 1, OnConflict::Replace);
///
/// let mut changes = Changes::default();
/// changes.put(&STOCK, ["a".into(), 1.into()]);
/// changes.put(&STOCK, ["a".into(), 2.into()]);
/// changes.put(&STOCK, ["b".into(), 1.into()]);
/// changes.clear(&STOCK, ["b".into()]);
/// assert_eq!(changes.len(), 4);
/// ```
#[derive(Debug, Default)]
pub struct Changes {
    tables: Vec<TableChanges>,
}

#[derive(Debug)]
struct TableChanges {
    table: &'static Table,
    rows: Vec<Vec<Value>>,
    /// Key prefixes that were cleared, with the number of rows put before.
    cleared: BTreeMap<Vec<Value>, usize>,
}

impl Changes {
    /// Writes a row; what happens to one with the same key is the table's [`OnConflict`].
    ///
    /// # Panics
    /// When the row has not the table's number of columns.
    pub fn put(&mut self, table: &'static Table, row: impl Into<Vec<Value>>) {
        let row = row.into();
        assert_eq!(row.len(), table.columns().len(), "row of {}", table.name());
        self.of(table).rows.push(row);
    }

    /// Deletes the rows whose key begins with these values, also those put before into this set.
    ///
    /// # Panics
    /// When there are no values or more than the key has.
    pub fn clear(&mut self, table: &'static Table, key_prefix: impl Into<Vec<Value>>) {
        let prefix = key_prefix.into();
        assert!(!prefix.is_empty() && prefix.len() <= table.key());
        let changes = self.of(table);
        let before = changes.rows.len();
        changes.cleared.insert(prefix, before);
    }

    /// How many rows and deletions were asked for.
    pub fn len(&self) -> usize {
        self.tables
            .iter()
            .map(|t| t.rows.len() + t.cleared.len())
            .sum()
    }

    /// True when nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    fn of(&mut self, table: &'static Table) -> &mut TableChanges {
        let found = self
            .tables
            .iter()
            .position(|t| t.table.name() == table.name());
        let at = found.unwrap_or_else(|| {
            self.tables.push(TableChanges {
                table,
                rows: Vec::new(),
                cleared: BTreeMap::new(),
            });
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }

    /// Each key once, rows sorted by key, tables by name: two writers take locks in the same order.
    pub(crate) fn settle(mut self) -> Settled {
        self.tables.sort_by_key(|t| t.table.name());
        for changes in &mut self.tables {
            changes.settle();
        }
        Settled(self.tables)
    }
}

impl TableChanges {
    fn settle(&mut self) {
        self.drop_cleared_rows();
        let key = self.table.key();
        let version = self.table.columns().len() - 1;
        let on_conflict = self.table.on_conflict();
        // Stable: rows of one key stay in the order they were put.
        self.rows.sort_by(|a, b| a[..key].cmp(&b[..key]));
        self.rows.dedup_by(|later, kept| {
            if later[..key] != kept[..key] {
                return false;
            }
            let later_wins = match on_conflict {
                OnConflict::Replace => true,
                OnConflict::Newer => later[version].cmp(&kept[version]) == Ordering::Greater,
                OnConflict::Keep => false,
            };
            if later_wins {
                std::mem::swap(later, kept);
            }
            true
        });
    }

    fn drop_cleared_rows(&mut self) {
        if self.cleared.is_empty() {
            return;
        }
        let mut at = 0;
        let cleared = &self.cleared;
        let key = self.table.key();
        self.rows.retain(|row| {
            let put_at = at;
            at += 1;
            !(1..=key).any(|n| {
                cleared
                    .get(&row[..n])
                    .is_some_and(|&before| put_at < before)
            })
        });
    }
}

/// Changes ready to be written, as often as it takes.
#[derive(Debug)]
pub(crate) struct Settled(Vec<TableChanges>);

impl Settled {
    /// Rows and deletions.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|t| t.rows.len() + t.cleared.len()).sum()
    }

    /// The tables it writes to.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &'static Table> {
        self.0.iter().map(|t| t.table)
    }

    /// Writes everything within the transaction.
    pub(crate) async fn write(&self, tx: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let bytes_max = STATEMENT_BYTES_MAX.min(tx.argument_bytes_max());
        for changes in &self.0 {
            for prefix in changes.cleared.keys() {
                tx.delete(changes.table, prefix).await?;
            }
            let per_row = changes.table.columns().len();
            let placeholders = tx.dialect().placeholders_max() / per_row;
            let mut rows = &changes.rows[..];
            while !rows.is_empty() {
                let n = chunk(rows, placeholders, bytes_max);
                tx.insert(changes.table, &rows[..n]).await?;
                rows = &rows[n..];
            }
        }
        Ok(())
    }
}

/// How many of the rows go into the next statement: a power of two within all limits.
fn chunk(rows: &[Vec<Value>], placeholders: usize, bytes_max: usize) -> usize {
    let most = rows
        .len()
        .min(ROWS_PER_STATEMENT_MAX)
        .min(placeholders)
        .max(1);
    let mut bytes = 0;
    let fitting = rows[..most]
        .iter()
        .take_while(|row| {
            bytes += row.iter().map(Value::size).sum::<usize>();
            bytes <= bytes_max
        })
        .count()
        .max(1);
    1 << fitting.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    static LAST: Table = Table::new("last", &["k", "v"], 1, OnConflict::Replace);
    static NEWER: Table = Table::new("newer", &["k", "v", "version"], 1, OnConflict::Newer);
    static PAIRS: Table = Table::new("pairs", &["a", "b", "v"], 2, OnConflict::Replace);

    fn rows(settled: &Settled, table: &Table) -> Vec<Vec<Value>> {
        let found = settled.0.iter().find(|t| t.table.name() == table.name());
        found.map(|t| t.rows.clone()).unwrap_or_default()
    }

    #[test]
    fn the_last_row_of_a_key_wins_and_rows_are_sorted() {
        let mut changes = Changes::default();
        for (k, v) in [("b", 1), ("a", 2), ("b", 3)] {
            changes.put(&LAST, [k.into(), v.into()]);
        }
        let expect = vec![vec!["a".into(), 2.into()], vec!["b".into(), 3.into()]];
        assert_eq!(rows(&changes.settle(), &LAST), expect);
    }

    #[test]
    fn the_highest_version_wins_whatever_the_order() {
        let mut changes = Changes::default();
        for (v, version) in [(1, 2), (2, 3), (3, 1)] {
            changes.put(&NEWER, ["a".into(), v.into(), version.into()]);
        }
        let expect = vec![vec!["a".into(), 2.into(), 3.into()]];
        assert_eq!(rows(&changes.settle(), &NEWER), expect);
    }

    #[test]
    fn clearing_a_prefix_drops_rows_put_before_and_keeps_those_after() {
        let mut changes = Changes::default();
        let put = |changes: &mut Changes, b: i64| {
            changes.put(&PAIRS, [1.into(), b.into(), 0.into()]);
        };
        put(&mut changes, 1);
        changes.clear(&PAIRS, [Value::Int(1)]);
        put(&mut changes, 2);
        let settled = changes.settle();
        assert_eq!(rows(&settled, &PAIRS).len(), 1);
        assert_eq!(settled.len(), 2);
    }

    #[test]
    fn chunks_are_powers_of_two_within_rows_bytes_and_placeholders() {
        let small = vec![vec![Value::Int(1)]; 1000];
        assert_eq!(chunk(&small, 10_000, STATEMENT_BYTES_MAX), 512);
        assert_eq!(chunk(&small[..488], 10_000, STATEMENT_BYTES_MAX), 256);
        assert_eq!(chunk(&small[..3], 10_000, STATEMENT_BYTES_MAX), 2);
        assert_eq!(chunk(&small, 100, STATEMENT_BYTES_MAX), 64);
        let large = vec![vec![Value::from("x".repeat(STATEMENT_BYTES_MAX / 3))]; 8];
        assert_eq!(chunk(&large, 10_000, STATEMENT_BYTES_MAX), 2);
        let huge = vec![vec![Value::from("x".repeat(STATEMENT_BYTES_MAX + 1))]; 2];
        assert_eq!(chunk(&huge, 10_000, STATEMENT_BYTES_MAX), 1);
    }
}
