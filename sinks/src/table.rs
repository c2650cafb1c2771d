//! `Table`: the columns a sink writes, and what happens when a row is there already.

use std::fmt::Write as _;

use crate::Dialect;

/// What happens when a row with the same key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The new row replaces it: for last-write-wins tables whose topic holds each key in one
    /// partition.
    Replace,
    /// The new row replaces it if its version, the last column, is higher: an old writer or a
    /// replay never takes a row back.
    Newer,
    /// The row that is there stays: for append-only ledgers.
    Keep,
}

/// A table as a sink writes it. The first columns are its primary key.
///
/// ```
/// use millstream_sinks::{OnConflict, Table};
/// static STOCK: Table = Table::new("stock", &["sku", "on_hand", "version"], 1, OnConflict::Newer);
/// assert_eq!(STOCK.name(), "stock");
/// ```
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    key: usize,
    on_conflict: OnConflict,
}

impl Table {
    /// A table whose first `key` columns are the primary key.
    ///
    /// # Panics
    /// When there is no key, or [`OnConflict::Newer`] lacks a version column behind the key.
    pub const fn new(
        name: &'static str,
        columns: &'static [&'static str],
        key: usize,
        on_conflict: OnConflict,
    ) -> Self {
        assert!(key > 0 && key <= columns.len(), "a table has a key");
        let plain = matches!(on_conflict, OnConflict::Keep);
        assert!(plain || key < columns.len(), "columns follow the key");
        Self {
            name,
            columns,
            key,
            on_conflict,
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its columns, key first.
    pub const fn columns(&self) -> &'static [&'static str] {
        self.columns
    }

    /// How many columns the key has.
    pub(crate) const fn key(&self) -> usize {
        self.key
    }

    pub(crate) const fn on_conflict(&self) -> OnConflict {
        self.on_conflict
    }

    /// Inserts `rows` rows, with the table's rule for those that are there.
    pub(crate) fn insert(&self, dialect: Dialect, rows: usize) -> String {
        let mut sql = format!("INSERT INTO `{}` (", self.name);
        list(&mut sql, self.columns);
        sql.push_str(") VALUES ");
        for row in 0..rows {
            sql.push_str(if row == 0 { "(?" } else { ",(?" });
            for _ in 1..self.columns.len() {
                sql.push_str(",?");
            }
            sql.push(')');
        }
        match dialect {
            Dialect::Sqlite => self.on_conflict_do(&mut sql),
            Dialect::MySql | Dialect::MariaDb => self.on_duplicate_key(&mut sql),
        }
        sql
    }

    fn on_conflict_do(&self, sql: &mut String) {
        let (keys, others) = self.columns.split_at(self.key);
        sql.push_str(" ON CONFLICT (");
        list(sql, keys);
        if self.on_conflict == OnConflict::Keep {
            sql.push_str(") DO NOTHING");
            return;
        }
        sql.push_str(") DO UPDATE SET ");
        for (i, column) in others.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(sql, "{comma}`{column}`=excluded.`{column}`");
        }
        if self.on_conflict == OnConflict::Newer {
            let version = others[others.len() - 1];
            let _ = write!(
                sql,
                " WHERE excluded.`{version}`>`{}`.`{version}`",
                self.name
            );
        }
    }

    /// MySQL assigns from left to right and reads what it has assigned: the version comes last.
    fn on_duplicate_key(&self, sql: &mut String) {
        let (keys, others) = self.columns.split_at(self.key);
        sql.push_str(" ON DUPLICATE KEY UPDATE ");
        if self.on_conflict == OnConflict::Keep {
            let _ = write!(sql, "`{0}`=`{1}`.`{0}`", keys[0], self.name);
            return;
        }
        let version = others[others.len() - 1];
        for (i, column) in others.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = match self.on_conflict {
                OnConflict::Newer => write!(
                    sql,
                    "{comma}`{column}`=IF(VALUES(`{version}`)>`{version}`,VALUES(`{column}`),`{column}`)"
                ),
                OnConflict::Replace | OnConflict::Keep => {
                    write!(sql, "{comma}`{column}`=VALUES(`{column}`)")
                }
            };
        }
    }

    /// Deletes the rows whose first `columns` columns have given values.
    pub(crate) fn delete(&self, columns: usize) -> String {
        let mut sql = format!("DELETE FROM `{}` WHERE ", self.name);
        for (i, column) in self.columns[..columns].iter().enumerate() {
            let and = if i == 0 { "" } else { " AND " };
            let _ = write!(sql, "{and}`{column}`=?");
        }
        sql
    }
}

fn list(sql: &mut String, columns: &[&str]) {
    for (i, column) in columns.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(sql, "{comma}`{column}`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static STOCK: Table = Table::new("stock", &["sku", "n", "version"], 1, OnConflict::Newer);

    #[test]
    fn sqlite_guards_the_row_by_its_version() {
        assert_eq!(
            STOCK.insert(Dialect::Sqlite, 2),
            "INSERT INTO `stock` (`sku`,`n`,`version`) VALUES (?,?,?),(?,?,?) \
             ON CONFLICT (`sku`) DO UPDATE SET `n`=excluded.`n`,`version`=excluded.`version` \
             WHERE excluded.`version`>`stock`.`version`"
        );
    }

    #[test]
    fn mysql_assigns_the_version_last() {
        let sql = STOCK.insert(Dialect::MySql, 1);
        assert!(
            sql.ends_with(",`version`=IF(VALUES(`version`)>`version`,VALUES(`version`),`version`)"),
            "{sql}"
        );
    }
}
