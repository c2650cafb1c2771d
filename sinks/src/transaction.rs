//! A connection for writing, and a transaction on it.

use std::borrow::Cow;

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Connection, Executor, MySql, MySqlConnection, Sqlite, SqliteConnection,
    pool::PoolConnection,
};

use crate::{
    Database, Dialect, Error, Result, Row, Value,
    table::Table,
    value::{mysql_arguments, sqlite_arguments},
};

/// The steps of a connection between which anything can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Connect,
    Begin,
    /// A statement of the sink's own, above all its progress.
    Progress,
    /// Rows of a projection, written or deleted.
    Rows,
    Read,
    Commit,
}

const HELD: &str = "held until it is given back";

/// A connection for writing. Dropped, it is closed and not used again: nobody knows what it was
/// doing.
pub(crate) struct Lease {
    held: Option<Held>,
    database: Database,
}

pub(crate) enum Held {
    Sqlite(PoolConnection<Sqlite>),
    MySql(PoolConnection<MySql>),
}

impl Lease {
    pub(crate) fn new(held: Held, database: Database) -> Self {
        Self {
            held: Some(held),
            database,
        }
    }

    /// Begins a transaction. SQLite's takes the write lock at once: one that only reads first could
    /// not become a writer later.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_>, sqlx::Error> {
        let Self { held, database } = self;
        let begin = async {
            Ok(match held.as_mut().expect(HELD) {
                Held::Sqlite(connection) => {
                    Open::Sqlite(connection.begin_with("BEGIN IMMEDIATE").await?)
                }
                Held::MySql(connection) => Open::MySql(connection.begin().await?),
            })
        };
        let open = database.step(At::Begin, begin).await?;
        Ok(Transaction {
            open,
            database,
            statements: 0,
        })
    }

    /// Runs a statement outside a transaction.
    pub(crate) async fn execute(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql);
        match self.held.as_mut().expect(HELD) {
            Held::Sqlite(connection) => (**connection).execute(sql).await.map(drop),
            Held::MySql(connection) => (**connection).execute(sql).await.map(drop),
        }
    }

    /// As [`Database::rows`].
    pub(crate) async fn rows<T>(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        arguments: &[Value],
        mut read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let each = |row: &Row| {
            found.push(read(row)?);
            Ok(())
        };
        match self.held.as_mut().expect(HELD) {
            Held::Sqlite(connection) => fetch_sqlite(connection, sql.into(), arguments, each).await,
            Held::MySql(connection) => fetch_mysql(connection, sql.into(), arguments, each).await,
        }?;
        Ok(found)
    }

    /// Lets others use the connection: it is in order.
    pub(crate) fn give_back(mut self) {
        self.held = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.held.take() {
            Some(Held::Sqlite(connection)) => drop(connection.detach()),
            Some(Held::MySql(connection)) => drop(connection.detach()),
            None => {}
        }
    }
}

/// An open transaction; dropped, it is rolled back.
pub(crate) struct Transaction<'c> {
    open: Open<'c>,
    database: &'c Database,
    statements: u32,
}

enum Open<'c> {
    Sqlite(sqlx::Transaction<'c, Sqlite>),
    MySql(sqlx::Transaction<'c, MySql>),
}

impl Transaction<'_> {
    pub(crate) fn dialect(&self) -> Dialect {
        self.database.dialect()
    }

    /// How many statements it has run.
    pub(crate) fn statements(&self) -> u32 {
        self.statements
    }

    /// Most bytes of arguments in one statement.
    pub(crate) fn argument_bytes_max(&self) -> usize {
        self.database.argument_bytes_max()
    }

    /// Runs a statement; answers how many rows it matched.
    pub(crate) async fn execute(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        arguments: &[Value],
    ) -> Result<u64, sqlx::Error> {
        let sql = AssertSqlSafe(sql.into());
        self.run(At::Progress, sql, arguments.iter()).await
    }

    /// Inserts rows with the table's rule for those that are there.
    pub(crate) async fn insert(
        &mut self,
        table: &'static Table,
        rows: &[Vec<Value>],
    ) -> Result<(), sqlx::Error> {
        let bytes: usize = rows.iter().flatten().map(Value::size).sum();
        let bytes_max = self.argument_bytes_max();
        if bytes > bytes_max {
            // MySQL would close the connection in the middle of it, which looks like an outage.
            let line = format!("row is too large for a statement. bytes={bytes}, most={bytes_max}");
            return Err(sqlx::Error::Encode(line.into()));
        }
        let sql = AssertSqlSafe(self.database.insert(table, rows.len()));
        self.run(At::Rows, sql, rows.iter().flatten()).await?;
        Ok(())
    }

    /// Deletes the rows whose key begins like that.
    pub(crate) async fn delete(
        &mut self,
        table: &'static Table,
        key_prefix: &[Value],
    ) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(table.delete(key_prefix.len()));
        self.run(At::Rows, sql, key_prefix.iter()).await?;
        Ok(())
    }

    async fn run<'a>(
        &mut self,
        at: At,
        sql: impl sqlx::SqlSafeStr,
        arguments: impl Iterator<Item = &'a Value>,
    ) -> Result<u64, sqlx::Error> {
        self.statements += 1;
        let open = &mut self.open;
        let run = async {
            match open {
                Open::Sqlite(tx) => {
                    let query = sqlx::query_with(sql, sqlite_arguments(arguments));
                    Ok(query.execute(&mut **tx).await?.rows_affected())
                }
                Open::MySql(tx) => {
                    let query = sqlx::query_with(sql, mysql_arguments(arguments));
                    Ok(query.execute(&mut **tx).await?.rows_affected())
                }
            }
        };
        self.database.step(at, run).await
    }

    /// As [`Database::rows`], within the transaction.
    pub(crate) async fn rows<T>(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        arguments: &[Value],
        mut read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let ready = self.database.step(At::Read, async { Ok(()) });
        ready.await.map_err(Error::database("reading"))?;
        let mut found = Vec::new();
        let each = |row: &Row| {
            found.push(read(row)?);
            Ok(())
        };
        match &mut self.open {
            Open::Sqlite(tx) => fetch_sqlite(tx, sql.into(), arguments, each).await,
            Open::MySql(tx) => fetch_mysql(tx, sql.into(), arguments, each).await,
        }?;
        Ok(found)
    }

    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        let commit = async {
            match self.open {
                Open::Sqlite(tx) => tx.commit().await,
                Open::MySql(tx) => tx.commit().await,
            }
        };
        self.database.step(At::Commit, commit).await
    }

    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self.open {
            Open::Sqlite(tx) => tx.rollback().await,
            Open::MySql(tx) => tx.rollback().await,
        }
    }
}

pub(crate) async fn fetch_sqlite(
    connection: &mut SqliteConnection,
    sql: Cow<'static, str>,
    arguments: &[Value],
    mut each: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let query = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(arguments.iter()));
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(Error::database("reading"))? {
        each(&row.into())?;
    }
    Ok(())
}

pub(crate) async fn fetch_mysql(
    connection: &mut MySqlConnection,
    sql: Cow<'static, str>,
    arguments: &[Value],
    mut each: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let query = sqlx::query_with(AssertSqlSafe(sql), mysql_arguments(arguments.iter()));
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(Error::database("reading"))? {
        each(&row.into())?;
    }
    Ok(())
}
