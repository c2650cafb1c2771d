//! Reads that standbys answer, over HTTP, where the task itself does not: several instances on one
//! embedded log.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use bytes::Bytes;
use millstream_api::{AdminState, ServeLimits, admin_router, serve};
use millstream_broker::{
    Admin, Appender, Broker, Cleanup, Consumer, ConsumerConfig, Fetched, NewTopic, OwnedRecord,
    PartitionIx, Producer, Reader, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, Health, StateKind};
use millstream_topology::{
    Headers, KvStore, SessionStore, Sessions, Topic, Tumbling, WindowStore, mins,
    partition_for_key, text, u64_be,
};
use serde_json::Value as JsonValue;
use tower::ServiceExt;

const WORDS: Topic<String, String> = Topic::new("words", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const PER_MINUTE: WindowStore<String, u64> = WindowStore::new("per-minute", text(), u64_be());
const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
const APP: &str = "words-app";
const PARTITIONS: u32 = 6;
const KEYS: usize = 40;
const DEADLINE: Duration = Duration::from_secs(60);

fn topology() -> Topology {
    let b = StreamsBuilder::new();
    let words = b.stream(WORDS);
    words.clone().group_by_key().count(COUNTS);
    words
        .clone()
        .group_by_key()
        .windowed_by(Sessions::of(mins(30)))
        .count(VISITS);
    words
        .group_by_key()
        .windowed_by(Tumbling::of(mins(1)).grace(mins(10)))
        .count(PER_MINUTE);
    b.build().expect("a topology")
}

fn open_log(dir: &Path) -> Arc<dyn Broker> {
    let log = EmbeddedBroker::open(&dir.join("log"), EmbeddedConfig::default()).expect("a log");
    let words = NewTopic {
        name: WORDS.name().into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Delete { retention_ms: None },
    };
    let admin = log.admin().expect("admin");
    admin.create_topics(&[words]).expect("created");
    log
}

/// One word a key.
fn write_words(log: &dyn Broker) {
    let appender = log.appender().expect("appender");
    let (done, written) = std::sync::mpsc::channel();
    for i in 0..KEYS {
        let key = key(i);
        let record = OwnedRecord {
            to: TopicPartition::new(WORDS.name(), partition_for_key(key.as_bytes(), PARTITIONS)),
            timestamp: 1_000,
            key: Some(Bytes::from(key)),
            value: Some(Bytes::from("word")),
            headers: Headers::default(),
        };
        let done = done.clone();
        let told = Box::new(move |result| done.send(result).expect("awaited"));
        appender.append(record, told).expect("room");
    }
    for _ in 0..KEYS {
        let told = written.recv_timeout(DEADLINE).expect("told");
        told.expect("written");
    }
}

fn key(i: usize) -> String {
    format!("key-{i:02}")
}

fn start(log: Arc<dyn Broker>, name: &str, endpoint: Option<String>) -> Arc<Application> {
    let mut config = Config::new(APP, "unused");
    config.state = StateKind::Memory;
    config.instance_id = name.to_owned();
    config.endpoint = endpoint;
    config.num_standby_replicas = 1;
    Arc::new(Application::start(&topology(), log, config).expect("started"))
}

/// An instance that answers over HTTP.
struct Served {
    application: Arc<Application>,
    router: Router,
    _server: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn served(log: &Arc<dyn Broker>, broker: Arc<dyn Broker>, name: &str) -> Served {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    let application = start(broker, name, Some(endpoint));
    let state = AdminState::new(&application, APP, log.admin().expect("admin"));
    let router = admin_router(state);
    let never = std::future::pending();
    let serve = serve(listener, router.clone(), ServeLimits::default(), never);
    Served {
        application,
        router,
        _server: tokio::spawn(serve),
    }
}

/// An address where nobody answers.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let address = listener.expect("a port").local_addr();
    address.expect("an address").to_string()
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> JsonValue {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name}: {} {}", self.status, self.text));
        value.to_str().expect("text")
    }

    fn number(&self, name: &str) -> u64 {
        let text = self.header(name);
        text.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
    }

    /// It is of a standby that is level, and says how long ago that was.
    fn assert_fresh(&self) {
        assert_eq!(self.header("millstream-role"), "standby");
        assert!(self.number("millstream-stale-ms") > 0);
        assert!(self.number("millstream-stale-ms") < DEADLINE.as_millis() as u64);
        assert_eq!(self.number("millstream-lag"), 0);
        assert!(!self.header("millstream-position").is_empty());
    }
}

async fn get(router: &Router, path: &str) -> Answer {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = router.clone().oneshot(request).await;
    let response = response.expect("routers do not fail");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(response.into_body(), 16 << 20).await;
    Answer {
        status,
        headers,
        text: String::from_utf8(body.expect("a body").to_vec()).expect("text"),
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn tasks(application: &Application) -> usize {
    let threads = application.status().threads;
    threads.iter().map(|t| t.tasks.len()).sum()
}

/// All partitions are processed, and each has a standby that is level.
fn are_settled(applications: &[&Application]) -> bool {
    let level = |a: &&Application| {
        let standbys = a.status().standbys;
        let level = standbys
            .iter()
            .filter(|s| s.lag == 0 && s.stale_ms.is_some());
        level.count()
    };
    let running = |a: &&Application| a.health() == Health::Running && tasks(a) > 0;
    applications.iter().all(running)
        && applications.iter().map(|a| tasks(a)).sum::<usize>() == PARTITIONS as usize
        && applications.iter().map(level).sum::<usize>() == PARTITIONS as usize
}

#[track_caller]
fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[track_caller]
fn is_not_served(answer: &Answer) {
    is_problem(answer, 503);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(
        answer.json()["type"]
            .as_str()
            .map(|t| t.starts_with("/problems/")),
        Some(true)
    );
}

/// Whether every key is counted up to `count`, whoever says so.
async fn all_counted(router: &Router, count: u64) -> bool {
    let answer = get(router, "/stores/counts/range?limit=1000&stale=true").await;
    if answer.status != StatusCode::OK {
        return false;
    }
    let json = answer.json();
    let items = json["items"].as_array().expect("items");
    items.len() == KEYS && items.iter().all(|item| item["value"] == count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standbys_answer_for_an_owner_that_does_not() {
    // One owner is said to be where nobody answers, the other does not say where it is.
    for endpoint in [Some(nobody().await), None] {
        let dir = tempfile::tempdir().expect("a folder");
        let log = open_log(dir.path());
        let lost = start(log.clone(), "a", endpoint);
        let (b, c) = (
            served(&log, log.clone(), "b").await,
            served(&log, log.clone(), "c").await,
        );
        let all = [&*lost, &*b.application, &*c.application];
        until("all have tasks", async || are_settled(&all)).await;
        write_words(&*log);
        for router in [&b.router, &c.router] {
            until("all is counted", async || all_counted(router, 1).await).await;
        }
        until("standbys are level", async || are_settled(&all)).await;
        for instance in [&b, &c] {
            reads_of_the_lost(&lost, instance).await;
        }
        pages(&b).await;
    }
}

async fn reads_of_the_lost(lost: &Application, asked: &Served) {
    let router = &asked.router;
    let mut of_the_lost = 0;
    for i in 0..KEYS {
        let key = key(i);
        let point = format!("/stores/counts/keys/{key}");
        let windows = format!("/stores/per-minute/windows/{key}");
        let sessions = format!("/stores/visits/sessions/{key}");
        let plain = get(router, &point).await;
        let is_lost = lost.queries().get(&COUNTS, &key).is_ok();
        of_the_lost += usize::from(is_lost);
        for param in [
            "stale=true",
            "max_stale_ms=600000",
            "stale=true&max_stale_ms=600000",
        ] {
            let stale = get(router, &format!("{point}?{param}")).await;
            assert_eq!(stale.status, StatusCode::OK, "{}", stale.text);
            assert_eq!(stale.json()["value"], 1);
            let minutes = get(router, &format!("{windows}?{param}")).await;
            assert_eq!(minutes.json()["items"][0]["value"], 1, "{}", minutes.text);
            let visits = get(router, &format!("{sessions}?{param}")).await;
            assert_eq!(visits.json()["items"][0]["value"], 1, "{}", visits.text);
            if is_lost {
                stale.assert_fresh();
                minutes.assert_fresh();
                visits.assert_fresh();
            } else {
                // Who asks for less takes the best.
                assert_eq!(stale.header("millstream-role"), "active");
                assert_eq!(stale.number("millstream-stale-ms"), 0);
                assert_eq!(minutes.header("millstream-role"), "active");
            }
        }
        if is_lost {
            is_not_served(&plain);
            is_not_served(&get(router, &windows).await);
            is_not_served(&get(router, &sessions).await);
            for param in [
                "max_stale_ms=0",
                "stale=false",
                "stale=false&max_stale_ms=9999",
            ] {
                is_not_served(&get(router, &format!("{point}?{param}")).await);
                is_not_served(&get(router, &format!("{windows}?{param}")).await);
            }
        } else {
            assert_eq!(plain.json()["value"], 1, "{}", plain.text);
        }
    }
    assert!(of_the_lost > 0 && of_the_lost < KEYS, "{of_the_lost}");

    is_not_served(&get(router, "/stores/counts/range").await);
    is_not_served(&get(router, "/stores/counts/range?max_stale_ms=0").await);
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/stores/counts/range?stale=true&limit=7{cursor}");
        let page = get(router, &path).await;
        page.assert_fresh();
        let json = page.json();
        let items = json["items"].as_array().expect("items").iter();
        found.extend(items.map(|item| item["key"].as_str().expect("text").to_owned()));
        match json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, (0..KEYS).map(key).collect::<Vec<_>>());

    // That a key is not there, is told by whoever has looked.
    is_not_served(&get(router, "/stores/counts/keys/nobody").await);
    let none = get(router, "/stores/counts/keys/nobody?stale=true").await;
    is_problem(&none, 404);
    assert_eq!(none.header("millstream-role"), "standby");
    for (path, status) in [
        ("/stores/nothing/keys/key-07?stale=true", 404),
        ("/stores/nothing/range?stale=true", 404),
        ("/stores/nothing/windows/key-07?stale=true", 404),
        ("/stores/per-minute/windows/nobody?stale=true", 404),
        ("/stores/per-minute/sessions/key-07?stale=true", 404),
        ("/stores/visits/keys/key-07?stale=true", 404),
        ("/stores/counts/keys/key-07?stale=maybe", 400),
        ("/stores/counts/range?max_stale_ms=soon", 400),
        ("/stores/per-minute/windows/key-07?max_stale_ms=-1", 400),
    ] {
        is_problem(&get(router, path).await, status);
    }
}

/// What the pages tell of standbys.
async fn pages(instance: &Served) {
    let standbys = instance.application.status().standbys;
    assert!(!standbys.is_empty());
    let metrics = get(&instance.router, "/metrics").await.text;
    let told = get(&instance.router, "/tasks").await.json();
    for standby in &standbys {
        let line = format!(
            "millstream_standby_lag_records{{task=\"{}\"}} 0",
            standby.id
        );
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
        let line = format!(
            "millstream_standby_stale_seconds{{task=\"{}\"}} ",
            standby.id
        );
        let value = metrics.lines().find_map(|l| l.strip_prefix(&line));
        let seconds: f64 = value.expect("the line").parse().expect("a number");
        assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
        let items = told["standbys"].as_array().expect("items");
        let item = items.iter().find(|item| item["id"] == *standby.id);
        let item = item.expect("is told of");
        assert_eq!(item["lag"], 0);
        assert!(item["stale_ms"].as_u64().is_some_and(|ms| ms < 60_000));
        assert!(item["positions"]["counts"].as_i64().is_some());
    }
    let members = get(&instance.router, "/members").await.json();
    let members = members["items"].as_array().expect("items");
    let b = members.iter().find(|member| member["instance_id"] == "b");
    let told = b.expect("itself")["standbys"].as_object().expect("a map");
    assert_eq!(told.len(), standbys.len());
}

/// A log whose readers bring nothing while they are held.
struct Held {
    log: Arc<dyn Broker>,
    holds: Arc<AtomicBool>,
}

impl Broker for Held {
    fn admin(&self) -> millstream_broker::Result<Arc<dyn Admin>> {
        self.log.admin()
    }

    fn consumer(&self, config: ConsumerConfig) -> millstream_broker::Result<Box<dyn Consumer>> {
        self.log.consumer(config)
    }

    fn producer(&self, transactional_id: &str) -> millstream_broker::Result<Box<dyn Producer>> {
        self.log.producer(transactional_id)
    }

    fn reader(&self) -> millstream_broker::Result<Box<dyn Reader>> {
        Ok(Box::new(HeldReader {
            reader: self.log.reader()?,
            holds: self.holds.clone(),
        }))
    }

    fn appender(&self) -> millstream_broker::Result<Arc<dyn Appender>> {
        self.log.appender()
    }
}

struct HeldReader {
    reader: Box<dyn Reader>,
    holds: Arc<AtomicBool>,
}

impl Reader for HeldReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> millstream_broker::Result<()> {
        self.reader.assign(partitions)
    }

    fn poll(
        &mut self,
        wait: Duration,
        limit: usize,
        into: &mut Vec<Fetched>,
    ) -> millstream_broker::Result<()> {
        match self.holds.load(Ordering::Acquire) {
            // As long as a poll takes at most, so that whoever polls does not spin.
            true => std::thread::park_timeout(wait.min(Duration::from_millis(20))),
            false => self.reader.poll(wait, limit, into)?,
        }
        Ok(())
    }

    fn position(&mut self, partition: PartitionIx) -> millstream_broker::Result<i64> {
        self.reader.position(partition)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_held_back_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_log(dir.path());
    let owner = start(log.clone(), "a", Some(nobody().await));
    let holds = Arc::new(AtomicBool::new(false));
    let held = Arc::new(Held {
        log: log.clone(),
        holds: holds.clone(),
    });
    let b = served(&log, held, "b").await;
    write_words(&*log);
    until("all is counted", async || all_counted(&b.router, 1).await).await;
    let both = [&*owner, &*b.application];
    until("standbys are level", async || are_settled(&both)).await;
    let of_owner = |i: &usize| owner.queries().get(&COUNTS, &key(*i)).is_ok();
    let key = key((0..KEYS).find(of_owner).expect("it has some"));
    let path = format!("/stores/counts/keys/{key}?stale=true");

    holds.store(true, Ordering::Release);
    write_words(&*log);
    let committed = async || {
        let found = owner.queries().get(&COUNTS, &key);
        found.is_ok_and(|found| found.is_some_and(|(count, _)| count == 2))
    };
    until("the owner has the news", committed).await;
    let since = Instant::now();
    until("it says that it is behind", async || {
        let missed_ms = since.elapsed().as_millis() as u64;
        let answer = get(&b.router, &path).await;
        assert_eq!(answer.json()["value"], 1, "{}", answer.text);
        let stale_ms = answer.number("millstream-stale-ms");
        assert!(
            stale_ms > missed_ms,
            "{stale_ms} ms, but misses {missed_ms} ms"
        );
        answer.number("millstream-lag") > 0 && missed_ms > 2_500
    })
    .await;
    let bounded = format!("/stores/counts/keys/{key}?max_stale_ms=2500");
    is_not_served(&get(&b.router, &bounded).await);

    holds.store(false, Ordering::Release);
    until("it is level again", async || {
        let answer = get(&b.router, &bounded).await;
        answer.status == StatusCode::OK && answer.json()["value"] == 2
    })
    .await;
    until("it knows the end again", async || {
        get(&b.router, &path).await.number("millstream-lag") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_that_was_rebuilt_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_log(dir.path());
    let start = || {
        let mut config = Config::new(APP, dir.path().join("state"));
        config.instance_id = "a".to_owned();
        let application = Application::start(&topology(), log.clone(), config);
        Arc::new(application.expect("started"))
    };
    let application = start();
    let running = |a: &Application| a.health() == Health::Running && tasks(a) > 0;
    until("it runs", async || running(&application)).await;
    let admin = || log.admin().expect("admin");
    let router = admin_router(AdminState::new(&application, APP, admin()));
    let rebuilds = "millstream_state_rebuilds_total{";
    let metrics = get(&router, "/metrics").await.text;
    assert!(!metrics.contains(rebuilds), "{metrics}");
    assert!(!metrics.contains("millstream_standby_lag_records{"));
    drop(application);

    let current = dir.path().join("state").join(APP).join("0_1/db/CURRENT");
    fs::remove_file(current).expect("the state of a task is there");
    let application = start();
    until("it runs", async || running(&application)).await;
    let router = admin_router(AdminState::new(&application, APP, admin()));
    let metrics = get(&router, "/metrics").await.text;
    let lines: Vec<&str> = metrics
        .lines()
        .filter(|l| l.starts_with(rebuilds))
        .collect();
    assert_eq!(lines, ["millstream_state_rebuilds_total{task=\"0_1\"} 1"]);
}
