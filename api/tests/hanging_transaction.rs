//! What operators see of a restore that a hanging transaction keeps waiting (F16).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use millstream_api::{AdminState, admin_router};
use millstream_broker::{
    Broker, Cleanup, NewTopic, Outgoing, Producer,
    sim::{SimClient, SimConfig, SimLog},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, StateKind, WallClock};
use millstream_topology::{Headers, KvStore, Topic, text, u64_be};
use tower::ServiceExt;

const WORDS: Topic<String, String> = Topic::new("words", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const DEADLINE: Duration = Duration::from_secs(60);

/// The log's time, which passes a hundred times as fast as any other.
struct Fast(SimLog, SimClient);

impl WallClock for Fast {
    fn now_ms(&self) -> i64 {
        self.1.now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.0.now()
    }

    fn wait(&self, _: Duration) {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn counting() -> Topology {
    let b = StreamsBuilder::new();
    b.stream(WORDS).group_by_key().count(COUNTS);
    b.build().expect("builds")
}

/// A transaction of somebody else that is open on the changelog.
fn hang(broker: &dyn Broker) -> Box<dyn Producer> {
    let mut producer = broker.producer("somebody else").expect("a producer");
    producer.init().expect("ready");
    producer.begin().expect("begun");
    let topic = producer.topic(&COUNTS.changelog("app"));
    let record = Outgoing {
        topic,
        partition: 0,
        timestamp: 1,
        key: Some(b"foreign"),
        value: None,
        headers: &Headers::default(),
    };
    producer.send(record).expect("sent");
    producer
}

async fn get(router: &Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = router.clone().oneshot(request).await;
    let response = response.expect("routers do not fail");
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20)
        .await
        .expect("a body");
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn eventually(router: &Router, path: &str, good: impl Fn(&(StatusCode, String)) -> bool) {
    let until = Instant::now() + DEADLINE;
    loop {
        let answer = get(router, path).await;
        if good(&answer) {
            return;
        }
        assert!(Instant::now() < until, "{path}: {answer:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_waits_for_a_transaction_is_not_ready_and_says_why() {
    let config = SimConfig {
        transaction_timeout: Duration::from_secs(1000),
        ..SimConfig::default()
    };
    let log = SimLog::new(1, config);
    let client = log.client("one");
    let changelog: Arc<str> = COUNTS.changelog("app").into();
    let topic = |name: Arc<str>, cleanup| NewTopic {
        name,
        partitions: 1,
        cleanup,
    };
    let topics = [
        topic("words".into(), Cleanup::Delete { retention_ms: None }),
        topic(changelog.clone(), Cleanup::Compact),
    ];
    let admin = client.admin().expect("admin");
    admin.create_topics(&topics).expect("created");
    let mut foreign = hang(&log.client("foreign"));
    let over = Arc::new(AtomicBool::new(false));
    let time = std::thread::spawn({
        let (log, over) = (log.clone(), over.clone());
        move || {
            while !over.load(Ordering::Acquire) {
                log.advance(Duration::from_millis(100));
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    });

    let mut config = Config::new("app", "unused");
    config.state = StateKind::Memory;
    let clock = Arc::new(Fast(log.clone(), client.clone()));
    let app = Application::start_with_clock(&counting(), Arc::new(client), config, clock);
    let app = Arc::new(app.expect("starts"));
    let router = admin_router(AdminState::new(&app, "app", admin));
    let told = format!("no_progress=`{changelog}-0 at 0 of 1`; is a transaction open");
    eventually(&router, "/ready", |(status, text)| {
        *status == StatusCode::SERVICE_UNAVAILABLE && text.contains(&told)
    })
    .await;
    let stuck = r#"millstream_task_restore_stuck{task="0_0"}"#;
    eventually(&router, "/metrics", |(_, text)| {
        text.contains(&format!("{stuck} 1"))
    })
    .await;
    foreign.abort().expect("aborted");
    eventually(&router, "/ready", |(status, _)| *status == StatusCode::OK).await;
    eventually(&router, "/metrics", |(_, text)| {
        text.contains(&format!("{stuck} 0"))
    })
    .await;
    drop(app);
    over.store(true, Ordering::Release);
    time.join().expect("no panic");
}
