//! Two processes of a shop on Kafka and MariaDB share the work, and lose nothing when they are
//! killed.
//!
//! `MILLSTREAM_TEST_KAFKA` names a broker as host:port, `MILLSTREAM_TEST_MYSQL` a database server.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_broker::{
    Broker,
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_sinks::Database;
use millstream_tests::{Program, eventually, get};

use crate::shop::{Shop, binary, succeeds};

/// Orders that are placed while processes are killed.
const ORDERS: usize = 2_000;

/// A broker and a database server for one test at a time: the names of the shop's topics are fixed.
pub(crate) struct Services {
    /// As host:port.
    pub(crate) kafka: String,
    /// Its URL.
    pub(crate) database: String,
    _turn: MutexGuard<'static, ()>,
}

/// Waits for its turn. `None`, with a line, where no services are offered; CI must offer them.
pub(crate) fn services() -> Option<Services> {
    static TURN: Mutex<()> = Mutex::new(());
    let service = |name: &str| {
        let found = std::env::var(name).ok();
        assert!(
            found.is_some() || std::env::var("CI").is_err(),
            "CI must set {name}"
        );
        if found.is_none() {
            eprintln!("{name} is not set: not tested on Kafka and MariaDB");
        }
        found
    };
    Some(Services {
        kafka: service("MILLSTREAM_TEST_KAFKA")?,
        database: service("MILLSTREAM_TEST_MYSQL")?,
        // A test that failed with its turn has left nothing behind that `clear` does not clear.
        _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
    })
}

/// Deletes what an earlier run has left on the broker: the names of the shop's topics are fixed.
pub(crate) fn clear(kafka: &str) {
    let log = KafkaBroker::new(KafkaConfig::new(kafka)).expect("legal");
    let admin = log.admin().expect("a client");
    let topics = admin.topics().expect("the broker answers");
    let names = topics.iter().map(|topic| &*topic.name);
    let of_shop: Vec<&str> = names
        .filter(|name| name.starts_with("shop.") || name.starts_with("shop-"))
        .collect();
    admin.delete_topics(&of_shop).expect("deleted");
    eventually(Duration::from_secs(30), "the topics are gone", || {
        let topics = admin.topics().expect("the broker answers");
        let left = topics.iter().any(|topic| topic.name.starts_with("shop"));
        (!left).then_some(())
    });
}

/// A database of this run's own, which goes when this is dropped.
pub(crate) struct OwnDatabase {
    server: String,
    name: String,
}

impl OwnDatabase {
    pub(crate) fn create(server: String) -> Self {
        let name = format!("millstream_program_{}", std::process::id());
        let database = Self { server, name };
        database.execute("CREATE DATABASE");
        database
    }

    pub(crate) fn url(&self) -> String {
        let (server, _) = self
            .server
            .rsplit_once('/')
            .expect("the URL names a database");
        format!("{server}/{}", self.name)
    }

    fn execute(&self, what: &str) {
        let statement = format!("{what} `{}`", self.name);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let database = Database::connect(&self.server)
                .await
                .expect("the server answers");
            database
                .rows(statement, &[], |_| Ok(()))
                .await
                .expect("done");
            database.close().await;
        });
    }
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        self.execute("DROP DATABASE");
    }
}

/// The tasks that a process says it runs.
fn tasks(shop: &Shop) -> BTreeSet<String> {
    let threads = get(&format!("{}/tasks", shop.admin_url()))
        .expect("an answer")
        .body;
    let threads = threads["threads"].as_array().expect("threads").clone();
    let tasks = threads
        .iter()
        .flat_map(|thread| thread["tasks"].as_array().expect("tasks").clone());
    tasks
        .map(|task| task["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn two_processes_share_the_work_and_lose_nothing() {
    let Some(services) = services() else {
        return;
    };
    let kafka = services.kafka.clone();
    clear(&kafka);
    let database = OwnDatabase::create(services.database.clone());
    let database_url = database.url();
    let flags = [
        "--bootstrap-servers",
        &kafka,
        "--database-url",
        &database_url,
        "--set",
        "streams.session_timeout=6s",
        "--set",
        "payment.deadline=15s",
    ];
    let (mut one, mut two) = (Shop::start(&flags), Shop::start(&flags));
    let shared = eventually(Duration::from_secs(60), "both have tasks", || {
        let (one, two) = (tasks(&one), tasks(&two));
        (!one.is_empty() && !two.is_empty() && one.is_disjoint(&two))
            .then_some(one.len() + two.len())
    });

    let (url, orders) = (one.url(), ORDERS.to_string());
    let acked = one.file("acked").display().to_string();
    let arguments = [
        "load",
        "--url",
        &url,
        "--orders",
        &orders,
        "--rate",
        "200",
        "--setup",
        "--mixed-payments",
        "--acked",
        &acked,
        "--final-within",
        "180s",
    ];
    let mut load = Program::start(binary(), &arguments, &one.file("load"));
    load.line("stock ", Duration::from_secs(180));
    let acked_orders = || {
        std::fs::read_to_string(&acked)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let reached = |share: usize| {
        let wanted = ORDERS * share / 4;
        eventually(Duration::from_secs(120), "orders come", || {
            (acked_orders() >= wanted).then_some(())
        });
    };
    reached(1);
    one.kill();
    one.start_again();
    reached(2);
    two.kill();
    two.start_again();
    reached(3);
    two.stop();
    eventually(Duration::from_secs(60), "the tasks move", || {
        (tasks(&one).len() == shared).then_some(())
    });
    let ended = load.wait(Duration::from_secs(300));
    assert!(ended.success(), "{ended}: {}", load.errors());
    assert_eq!(acked_orders(), ORDERS);

    // On Kafka the shop goes on while it is verified.
    let folder = one.data_dir();
    let verdict = succeeds(&[
        "verify",
        "--bootstrap-servers",
        &kafka,
        "--database-url",
        &database_url,
        "--data-dir",
        &folder,
        "--wait",
        "60s",
    ]);
    assert!(verdict.ends_with("all promises hold\n"), "{verdict}");
    one.stop();
    for shop in [&one, &two] {
        let log = shop.log();
        assert!(
            !log.contains(" ERROR ") && !log.contains("panicked"),
            "{log}"
        );
    }
}
