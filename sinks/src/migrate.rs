//! Migrations: versioned DDL, applied once, by whichever process comes first.

use std::collections::BTreeMap;

use crate::{
    Database, Dialect, Error, Result, Value,
    transaction::{Lease, Transaction},
};

/// How long to wait for another process that migrates, in seconds.
const MIGRATION_WAIT_S: i64 = 60;

/// One step of a component's schema. Its text is final once it has been applied somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Rises from step to step.
    pub version: i64,
    /// For people.
    pub name: &'static str,
    /// Statements, with the words of [`Dialect::expand`]. MySQL commits each by itself, so an
    /// interrupted migration is run again: tables, columns and indexes that are there already are
    /// no error.
    pub statements: &'static [&'static str],
}

impl Migration {
    /// FNV-1a over the statements.
    fn checksum(&self) -> i64 {
        let bytes = self.statements.iter().flat_map(|s| s.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash.cast_signed()
    }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS `millstream_migrations` (\
    `component` {id} NOT NULL, `version` {int} NOT NULL, `name` {text} NOT NULL, \
    `checksum` {int} NOT NULL, PRIMARY KEY (`component`, `version`)){options}";
const APPLIED: &str =
    "SELECT `version`, `checksum` FROM `millstream_migrations` WHERE `component` = ?";
const RECORD: &str = "INSERT INTO `millstream_migrations` \
    (`component`, `version`, `name`, `checksum`) VALUES (?, ?, ?, ?)";

pub(crate) async fn run(
    database: &Database,
    component: &str,
    migrations: &[Migration],
) -> Result<()> {
    let rising = migrations.windows(2).all(|w| w[0].version < w[1].version);
    assert!(rising, "versions of {component} rise");
    if is_up_to_date(database, component, migrations).await? {
        return Ok(());
    }
    let mut lease = database
        .lease()
        .await
        .map_err(Error::database("connecting"))?;
    match database.dialect() {
        Dialect::Sqlite => run_sqlite(&mut lease, component, migrations).await?,
        Dialect::MySql | Dialect::MariaDb => {
            run_mysql(&mut lease, database.dialect(), component, migrations).await?;
        }
    }
    lease.give_back();
    Ok(())
}

/// The usual case, without a lock.
async fn is_up_to_date(
    database: &Database,
    component: &str,
    migrations: &[Migration],
) -> Result<bool> {
    let applied = database
        .rows(APPLIED, &[component.into()], |row| {
            Ok((row.int(0)?, row.int(1)?))
        })
        .await;
    match applied {
        Ok(rows) => Ok(pending(component, migrations, &rows.into_iter().collect())?.is_empty()),
        // No table yet, most likely; anything else comes up again behind the lock.
        Err(_) => Ok(false),
    }
}

/// All in one transaction, which holds the write lock from its first statement.
async fn run_sqlite(lease: &mut Lease, component: &str, migrations: &[Migration]) -> Result<()> {
    let failed = || Error::database("migrating");
    let mut tx = lease.begin().await.map_err(failed())?;
    let expand = |statement| Dialect::Sqlite.expand(statement);
    tx.execute(expand(TABLE), &[]).await.map_err(failed())?;
    let applied = applied(&mut tx, component).await?;
    for migration in pending(component, migrations, &applied)? {
        for statement in migration.statements {
            tx.execute(expand(statement), &[]).await.map_err(failed())?;
        }
        record(&mut tx, component, migration).await?;
    }
    tx.commit().await.map_err(failed())
}

/// Under a named lock of the server, as MySQL's DDL commits by itself.
async fn run_mysql(
    lease: &mut Lease,
    dialect: Dialect,
    component: &str,
    migrations: &[Migration],
) -> Result<()> {
    const LOCK: &str =
        "SELECT COALESCE(GET_LOCK(LEFT(CONCAT('millstream:', DATABASE()), 64), ?), 0)";
    const UNLOCK: &str =
        "SELECT COALESCE(RELEASE_LOCK(LEFT(CONCAT('millstream:', DATABASE()), 64)), 0)";
    let failed = || Error::database("migrating");
    let got = lease
        .rows(LOCK, &[MIGRATION_WAIT_S.into()], |row| row.int(0))
        .await?;
    if got != [1] {
        return Err(Error::Timeout("the lock for migrations"));
    }
    let expand = |statement| dialect.expand(statement);
    lease.execute(expand(TABLE)).await.map_err(failed())?;
    let mut tx = lease.begin().await.map_err(failed())?;
    let applied = applied(&mut tx, component).await?;
    tx.commit().await.map_err(failed())?;
    for migration in pending(component, migrations, &applied)? {
        for statement in migration.statements {
            match lease.execute(expand(statement)).await {
                Err(error) if !is_there_already(&error) => return Err(failed()(error)),
                _ => {}
            }
        }
        let mut tx = lease.begin().await.map_err(failed())?;
        record(&mut tx, component, migration).await?;
        tx.commit().await.map_err(failed())?;
    }
    lease.rows(UNLOCK, &[], |row| row.int(0)).await?;
    Ok(())
}

async fn applied(tx: &mut Transaction<'_>, component: &str) -> Result<BTreeMap<i64, i64>> {
    let rows = tx
        .rows(APPLIED, &[component.into()], |row| {
            Ok((row.int(0)?, row.int(1)?))
        })
        .await?;
    Ok(rows.into_iter().collect())
}

async fn record(tx: &mut Transaction<'_>, component: &str, migration: &Migration) -> Result<()> {
    let row: [Value; 4] = [
        component.into(),
        migration.version.into(),
        migration.name.into(),
        migration.checksum().into(),
    ];
    tx.execute(RECORD, &row)
        .await
        .map_err(Error::database("migrating"))?;
    Ok(())
}

/// What is still to be applied, after a look at what was.
fn pending<'m>(
    component: &str,
    migrations: &'m [Migration],
    applied: &BTreeMap<i64, i64>,
) -> Result<Vec<&'m Migration>> {
    let program = migrations.last().map_or(0, |m| m.version);
    if let Some((&database, _)) = applied.last_key_value()
        && database > program
    {
        return Err(Error::DatabaseNewer {
            component: component.to_owned(),
            database,
            program,
        });
    }
    let mut pending = Vec::new();
    for migration in migrations {
        match applied.get(&migration.version) {
            None => pending.push(migration),
            Some(&checksum) if checksum == migration.checksum() => {}
            Some(_) => {
                return Err(Error::MigrationChanged {
                    component: component.to_owned(),
                    version: migration.version,
                });
            }
        }
    }
    Ok(pending)
}

/// Table exists, duplicate column, duplicate index: a migration that was interrupted got that far.
fn is_there_already(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>())
        .is_some_and(|e| matches!(e.number(), 1050 | 1060 | 1061))
}
