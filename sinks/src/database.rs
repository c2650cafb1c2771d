//! `Database`: MySQL, MariaDB or SQLite behind one door.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Executor, MySqlPool, SqlitePool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    Changes, Dialect, Error, Migration, Result, Row, Value,
    changes::Settled,
    fault::{Fault, classify},
    migrate,
    table::Table,
    transaction::{At, Held, Lease, fetch_mysql, fetch_sqlite},
};

/// Connections that read at the same time.
const READERS_MAX: u32 = 8;
/// Connections that write at the same time in MySQL; SQLite has one writer.
const MYSQL_WRITERS_MAX: u32 = 8;
/// How long to wait for a free connection or for a new one.
const ACQUIRE_MAX: Duration = Duration::from_secs(10);
/// How long one process waits for another's lock on the SQLite file.
const SQLITE_BUSY_MAX: Duration = Duration::from_secs(10);
/// Pages of the write-ahead log before SQLite copies them into the database (64 MiB).
const SQLITE_CHECKPOINT_PAGES: &str = "16384";
/// SQLite's page cache of a connection in KiB, as the pragma wants it.
const SQLITE_CACHE_KIB: &str = "-32768";
/// SQLite's own limit of one value and one row.
const SQLITE_BYTES_MAX: usize = 1_000_000_000;
/// Bytes of a packet that are not left to a statement's arguments: types, lengths, nulls.
const PACKET_ROOM: usize = 16 << 10;
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 512;
/// How often [`Database::write`] tries.
const WRITE_ATTEMPTS_MAX: u32 = 10;
/// First pause between tries; it doubles.
const WRITE_PAUSE: Duration = Duration::from_millis(5);

/// What every writing session of MySQL and MariaDB is set to.
///
/// A writer that hangs in the middle of a transaction loses its connection after `wait_timeout`, so
/// that its locks do not hold up its successor for hours. Strict mode makes data that does not fit
/// an error.
const MYSQL_SESSION: &str = "SET SESSION transaction_isolation='READ-COMMITTED', \
     innodb_lock_wait_timeout=10, wait_timeout=30, \
     sql_mode=CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')";
/// The same where the variable has its old name.
const MARIADB_SESSION: &str = "SET SESSION tx_isolation='READ-COMMITTED', \
     innodb_lock_wait_timeout=10, wait_timeout=30, \
     sql_mode=CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')";

/// A database that sinks write to and queries read from. Cloning it is cheap.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use millstream_sinks::Database;
///
/// let dir = tempfile::tempdir()?;
/// let url = format!("sqlite://{}", dir.path().join("shop.db").display());
/// let database = Database::connect(&url).await?;
/// let ones = database.rows("SELECT 1", &[], |row| row.int(0)).await?;
/// assert_eq!(ones, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    pools: Pools,
    dialect: Dialect,
    /// Most bytes of a statement, [`PACKET_ROOM`] included.
    packet_bytes_max: usize,
    /// Insert statements by table and number of rows.
    inserts: Mutex<HashMap<(&'static str, usize), Arc<str>>>,
    /// Tables whose keys were looked at.
    checked: Mutex<HashSet<&'static str>>,
    /// What goes wrong, and at which step.
    #[cfg(test)]
    hook: std::sync::OnceLock<crate::tests::Hook>,
}

enum Pools {
    Sqlite { read: SqlitePool, write: SqlitePool },
    MySql { read: MySqlPool, write: MySqlPool },
}

impl Database {
    /// Connects to `mysql://user:password@host:port/database`, `mariadb://…`, or the file of
    /// `sqlite://path`, which is made if it does not exist.
    ///
    /// # Errors
    /// A URL of another kind, and a database that cannot be reached.
    pub async fn connect(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
        let (pools, dialect, packet_bytes_max) = match scheme {
            "sqlite" => (
                connect_sqlite(url, rest.trim_start_matches("//")).await?,
                Dialect::Sqlite,
                SQLITE_BYTES_MAX,
            ),
            "mysql" | "mariadb" => connect_mysql(url).await?,
            _ => {
                return Err(bad_url(
                    url,
                    "begin it with sqlite://, mysql:// or mariadb://",
                ));
            }
        };
        Ok(Self(Arc::new(Inner {
            pools,
            dialect,
            packet_bytes_max,
            inserts: Mutex::default(),
            checked: Mutex::default(),
            #[cfg(test)]
            hook: std::sync::OnceLock::new(),
        })))
    }

    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// Brings a component's tables up to date; what is applied already is left alone. Safe when
    /// several processes start at once.
    ///
    /// # Errors
    /// Migrations that were changed after they were applied, a database newer than the program, and
    /// what the database says.
    pub async fn migrate(&self, component: &str, migrations: &[Migration]) -> Result<()> {
        migrate::run(self, component, migrations).await
    }

    /// Answers when the database does.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<()> {
        self.rows("SELECT 1", &[], |row| row.int(0)).await.map(drop)
    }

    /// The rows of a query, each through `read`. Placeholders are `?`, names are quoted with
    /// backticks: both kinds of database understand these.
    ///
    /// `sql` is code, never text from outside: that goes into `arguments`.
    ///
    /// # Errors
    /// What the database or `read` says.
    pub async fn rows<T>(
        &self,
        sql: impl Into<Cow<'static, str>>,
        arguments: &[Value],
        mut read: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.for_each(sql, arguments, |row| {
            found.push(read(row)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// As [`rows`](Self::rows), row by row, for results of any size.
    ///
    /// # Errors
    /// What the database or `each` says.
    pub async fn for_each(
        &self,
        sql: impl Into<Cow<'static, str>>,
        arguments: &[Value],
        each: impl FnMut(&Row) -> Result<()>,
    ) -> Result<()> {
        let failed = Error::database("connecting");
        match &self.0.pools {
            Pools::Sqlite { read, .. } => {
                let mut connection = read.acquire().await.map_err(failed)?;
                fetch_sqlite(&mut connection, sql.into(), arguments, each).await
            }
            Pools::MySql { read, .. } => {
                let mut connection = read.acquire().await.map_err(failed)?;
                fetch_mysql(&mut connection, sql.into(), arguments, each).await
            }
        }
    }

    /// Writes changes in one transaction, and again when another writer was in the way. For writers
    /// without a topic; sinks do more.
    ///
    /// The outcome of a COMMIT whose answer was lost is not looked up: make the changes repeatable
    /// ([`OnConflict::Keep`](crate::OnConflict) or a version).
    ///
    /// # Errors
    /// What the database says, at last.
    pub async fn write(&self, changes: Changes) -> Result<()> {
        let changes = changes.settle();
        let mut pause = WRITE_PAUSE;
        for attempt in 1.. {
            let Err(error) = self.write_once(&changes).await else {
                break;
            };
            let again = match classify(&error) {
                Fault::Conflict | Fault::Unavailable => attempt < WRITE_ATTEMPTS_MAX,
                Fault::Data | Fault::Defect => false,
            };
            if !again {
                return Err(Error::database("writing")(error));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    async fn write_once(&self, changes: &Settled) -> Result<(), sqlx::Error> {
        let mut lease = self.lease().await?;
        let mut tx = lease.begin().await?;
        changes.write(&mut tx).await?;
        tx.commit().await?;
        lease.give_back();
        Ok(())
    }

    /// Closes all connections, waiting for those in use.
    pub async fn close(&self) {
        match &self.0.pools {
            Pools::Sqlite { read, write } => {
                write.close().await;
                read.close().await;
            }
            Pools::MySql { read, write } => {
                write.close().await;
                read.close().await;
            }
        }
    }

    /// A connection for writing; it is thrown away unless given back.
    pub(crate) async fn lease(&self) -> Result<Lease, sqlx::Error> {
        let acquire = async {
            Ok(match &self.0.pools {
                Pools::Sqlite { write, .. } => Held::Sqlite(write.acquire().await?),
                Pools::MySql { write, .. } => Held::MySql(write.acquire().await?),
            })
        };
        let held = self.step(At::Connect, acquire).await?;
        Ok(Lease::new(held, self.clone()))
    }

    /// Most bytes of arguments in one statement.
    pub(crate) fn argument_bytes_max(&self) -> usize {
        self.0.packet_bytes_max.saturating_sub(PACKET_ROOM)
    }

    /// Refuses tables that an upsert of MySQL's could damage; each is looked at once.
    pub(crate) async fn check(
        &self,
        lease: &mut Lease,
        tables: impl Iterator<Item = &'static Table>,
    ) -> Result<()> {
        const KEYS: &str = "SELECT `INDEX_NAME` FROM `information_schema`.`STATISTICS` \
            WHERE `TABLE_SCHEMA` = DATABASE() AND `TABLE_NAME` = ? AND `NON_UNIQUE` = 0 \
            AND `INDEX_NAME` <> 'PRIMARY' LIMIT 1";
        if self.dialect() == Dialect::Sqlite {
            // Its upsert names the key it means.
            return Ok(());
        }
        // A thread that panicked here left a complete set behind.
        let checked = || {
            self.0
                .checked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        for table in tables.map(Table::name) {
            if checked().contains(table) {
                continue;
            }
            let arguments = [table.into()];
            let keys = lease.rows(KEYS, &arguments, |row| row.text(0));
            if let Some(key) = keys.await?.pop() {
                return Err(Error::SecondKey { table, key });
            }
            checked().insert(table);
        }
        Ok(())
    }

    /// Runs a step of a connection.
    #[cfg(not(test))]
    pub(crate) async fn step<T>(
        &self,
        _: At,
        step: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        step.await
    }

    /// Runs a step of a connection, or what the test makes of it.
    #[cfg(test)]
    pub(crate) async fn step<T>(
        &self,
        at: At,
        step: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match self.0.hook.get() {
            Some(hook) => hook(at).apply(step).await,
            None => step.await,
        }
    }

    /// From now on every step of this database's leases asks the hook first.
    #[cfg(test)]
    pub(crate) fn hook(&self, hook: crate::tests::Hook) {
        assert!(self.0.hook.set(hook).is_ok(), "one hook a database");
    }

    /// The insert of so many rows, made once, so that connections find it among their prepared
    /// statements.
    pub(crate) fn insert(&self, table: &'static Table, rows: usize) -> Arc<str> {
        // A thread that panicked here left a complete map behind.
        let mut inserts = self
            .0
            .inserts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inserts
            .entry((table.name(), rows))
            .or_insert_with(|| table.insert(self.0.dialect, rows).into())
            .clone()
    }
}

fn bad_url(url: &str, reason: impl ToString) -> Error {
    Error::Url {
        url: without_password(url),
        reason: reason.to_string(),
    }
}

/// Hides what stands between `//` and `@`.
fn without_password(url: &str) -> String {
    match (url.split_once("//"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}//***@{host}"),
        _ => url.to_owned(),
    }
}

async fn connect_sqlite(url: &str, path: &str) -> Result<Pools> {
    let file = path.split('?').next().unwrap_or_default();
    if file.is_empty() || file.contains(":memory:") || path.contains("mode=memory") {
        let reason = "name a file: readers and the writer are connections of their own";
        return Err(bad_url(url, reason));
    }
    if let Some(folder) = Path::new(file).parent() {
        std::fs::create_dir_all(folder).map_err(|e| bad_url(url, e))?;
    }
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|e| bad_url(url, e))?
        .create_if_missing(true)
        .busy_timeout(SQLITE_BUSY_MAX)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .statement_cache_capacity(STATEMENTS_MAX)
        .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT_PAGES)
        .pragma("cache_size", SQLITE_CACHE_KIB)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .acquire_timeout(ACQUIRE_MAX)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false);
    let failed = || Error::database("opening the file");
    // The writer first: it makes the file and sets its journal mode.
    let write = pool.clone().max_connections(1);
    let write = write
        .connect_with(options.clone())
        .await
        .map_err(failed())?;
    let read = pool.max_connections(READERS_MAX);
    let read = read
        .connect_with(options.pragma("query_only", "ON"))
        .await
        .map_err(failed())?;
    Ok(Pools::Sqlite { read, write })
}

async fn connect_mysql(url: &str) -> Result<(Pools, Dialect, usize)> {
    let options = MySqlConnectOptions::from_str(url)
        .map_err(|e| bad_url(url, e))?
        .statement_cache_capacity(STATEMENTS_MAX)
        .disable_statement_logging();
    if options.get_database().is_none() {
        return Err(bad_url(url, "name a database behind the host"));
    }
    // A connection outside the pools first: it says why it is refused, while a pool tries again
    // for as long as it may and then says only that this took too long.
    let ask = async {
        let mut connection = options.connect().await?;
        let told = sqlx::query_as("SELECT VERSION(), CAST(@@max_allowed_packet AS UNSIGNED)")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(told)
    };
    let (version, packet): (String, u64) = tokio::time::timeout(ACQUIRE_MAX, ask)
        .await
        .map_err(|_| Error::Timeout("connecting"))?
        .map_err(Error::database("connecting"))?;
    let pool = MySqlPoolOptions::new().acquire_timeout(ACQUIRE_MAX);
    let read = pool.clone().max_connections(READERS_MAX);
    let read = read.connect_lazy_with(options.clone());
    let (dialect, session) = if version.contains("MariaDB") {
        (Dialect::MariaDb, MARIADB_SESSION)
    } else {
        (Dialect::MySql, MYSQL_SESSION)
    };
    let write = pool
        .max_connections(MYSQL_WRITERS_MAX)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(session).await.map(drop) })
        })
        .connect_lazy_with(options);
    let packet = usize::try_from(packet).unwrap_or(usize::MAX);
    Ok((Pools::MySql { read, write }, dialect, packet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_url_is_named_without_its_password() {
        let cases = [
            (
                "postgres://u:secret@h/db",
                "sqlite://, mysql:// or mariadb://",
            ),
            ("mysql://u:secret@h", "name a database"),
            ("sqlite::memory:", "name a file"),
            ("nonsense", "sqlite://, mysql:// or mariadb://"),
        ];
        for (url, reason) in cases {
            let Err(error) = Database::connect(url).await else {
                panic!("{url} was taken");
            };
            let message = error.to_string();
            assert!(message.contains(reason), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
