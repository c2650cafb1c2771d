//! Databases for tests, each empty and of its own.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::Database;

/// A database that vanishes with the test.
pub(super) struct TestDatabase {
    pub(super) database: Database,
    pub(super) url: String,
    kind: Kind,
}

enum Kind {
    Sqlite(#[expect(dead_code, reason = "deleted when dropped")] TempDir),
    Server { admin: Database, name: String },
}

impl TestDatabase {
    pub(super) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("t.db").display());
        Self {
            database: Database::connect(&url).await.expect("opens"),
            url,
            kind: Kind::Sqlite(dir),
        }
    }

    /// `None`, with a line, where no server is offered; CI must offer one.
    pub(super) async fn server() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Ok(base) = std::env::var("MILLSTREAM_TEST_MYSQL") else {
            assert!(
                std::env::var("CI").is_err(),
                "CI must set MILLSTREAM_TEST_MYSQL"
            );
            eprintln!("MILLSTREAM_TEST_MYSQL is not set: not tested with MariaDB");
            return None;
        };
        let admin = Database::connect(&base).await.expect("the server answers");
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("millstream_sinks_{}_{n}", std::process::id());
        execute(
            &admin,
            &format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4"),
        )
        .await;
        let (server, _) = base.rsplit_once('/').expect("the URL names a database");
        let url = format!("{server}/{name}");
        Some(Self {
            database: Database::connect(&url).await.expect("connects"),
            url,
            kind: Kind::Server { admin, name },
        })
    }

    /// Every kind that can be had.
    pub(super) async fn all() -> Vec<Self> {
        let mut all = vec![Self::sqlite().await];
        all.extend(Self::server().await);
        all
    }

    pub(super) async fn remove(self) {
        self.database.close().await;
        if let Kind::Server { admin, name } = &self.kind {
            execute(admin, &format!("DROP DATABASE `{name}`")).await;
            admin.close().await;
        }
    }
}

/// Runs a statement as it stands.
pub(super) async fn execute(database: &Database, sql: &str) {
    let mut lease = database.lease().await.expect("connects");
    lease.execute(sql.to_owned()).await.expect(sql);
    lease.give_back();
}

/// Waits for something to become true.
#[track_caller]
pub(super) fn until(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    async move {
        while !condition() {
            assert!(Instant::now() < deadline, "{what} did not happen");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
