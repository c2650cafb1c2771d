//! Migrations run once, whoever comes first.

use super::{databases::TestDatabase, shop::count};
use crate::{Database, Error, Migration};

const FIRST: Migration = Migration {
    version: 1,
    name: "a table",
    statements: &[
        "CREATE TABLE `t` (`a` {id} NOT NULL PRIMARY KEY, `b` {int} NOT NULL){options}",
        "CREATE INDEX `t_b` ON `t` (`b`)",
    ],
};
const SECOND: Migration = Migration {
    version: 2,
    name: "another column",
    statements: &["ALTER TABLE `t` ADD COLUMN `c` {int}"],
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_start_at_once_and_each_step_is_applied_once() {
    for test in TestDatabase::all().await {
        let mut others = Vec::new();
        for _ in 0..6 {
            let url = test.url.clone();
            others.push(tokio::spawn(async move {
                let database = Database::connect(&url).await?;
                database.migrate("t", &[FIRST, SECOND]).await?;
                database.close().await;
                Ok::<_, Error>(())
            }));
        }
        for other in others {
            other.await.expect("no panic").expect("migrates");
        }
        let applied = "SELECT COUNT(*) FROM `millstream_migrations` WHERE `component` = 't'";
        assert_eq!(count(&test.database, applied).await, 2);
        assert_eq!(count(&test.database, "SELECT COUNT(`c`) FROM `t`").await, 0);
        test.remove().await;
    }
}

#[tokio::test]
async fn a_changed_step_and_a_newer_database_are_refused() {
    for test in TestDatabase::all().await {
        let database = &test.database;
        database
            .migrate("t", &[FIRST, SECOND])
            .await
            .expect("migrates");
        let older = database.migrate("t", &[FIRST]).await;
        assert!(
            matches!(older, Err(Error::DatabaseNewer { database: 2, .. })),
            "{older:?}"
        );
        let changed = Migration {
            statements: &["CREATE TABLE `t` (`a` {int})"],
            ..FIRST
        };
        let changed = database.migrate("t", &[changed, SECOND]).await;
        assert!(
            matches!(changed, Err(Error::MigrationChanged { version: 1, .. })),
            "{changed:?}"
        );
        database
            .migrate("t", &[FIRST, SECOND])
            .await
            .expect("as before");
        test.remove().await;
    }
}

#[tokio::test]
async fn a_step_that_was_interrupted_is_run_again() {
    let Some(test) = TestDatabase::server().await else {
        return;
    };
    // As after a crash between the table and its index.
    super::databases::execute(
        &test.database,
        "CREATE TABLE `t` (`a` VARCHAR(255) NOT NULL PRIMARY KEY, `b` BIGINT NOT NULL)",
    )
    .await;
    test.database
        .migrate("t", &[FIRST, SECOND])
        .await
        .expect("migrates");
    assert_eq!(count(&test.database, "SELECT COUNT(`c`) FROM `t`").await, 0);
    test.remove().await;
}
