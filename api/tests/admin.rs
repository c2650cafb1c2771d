//! The operations routes over a real application on the embedded log, alone and with a second
//! instance.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use bytes::Bytes;
use millstream_api::{
    AdminState, Check, Figure, FigureKind, FrontLimits, ServeLimits, admin_router, front, serve,
};
use millstream_broker::{
    Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_operators::{StreamsBuilder, Topology};
use millstream_runtime::{Application, Config, Health, StateKind};
use millstream_topology::{
    Headers, KvStore, Topic, Tumbling, WindowStore, mins, partition_for_key, text, u64_be,
};
use serde_json::Value as JsonValue;
use tower::ServiceExt;

const WORDS: Topic<String, String> = Topic::new("words", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const PER_MINUTE: WindowStore<String, u64> = WindowStore::new("per-minute", text(), u64_be());
const PARTITIONS: u32 = 4;
const KEYS: usize = 40;
const DEADLINE: Duration = Duration::from_secs(60);

fn topology() -> Topology {
    let b = StreamsBuilder::new();
    let words = b.stream(WORDS);
    words.clone().group_by_key().count(COUNTS);
    words
        .group_by_key()
        .windowed_by(Tumbling::of(mins(1)).grace(mins(10)))
        .count(PER_MINUTE);
    b.build().expect("a topology")
}

fn open_log(dir: &std::path::Path) -> Arc<dyn Broker> {
    let log = EmbeddedBroker::open(dir, EmbeddedConfig::default()).expect("a log");
    let cleanup = Cleanup::Delete { retention_ms: None };
    let words = NewTopic {
        name: WORDS.name().into(),
        partitions: PARTITIONS,
        cleanup,
    };
    log.admin()
        .expect("admin")
        .create_topics(&[words])
        .expect("created");
    log
}

/// Two words a key: one in the first minute, one in the second.
fn write_words(log: &dyn Broker) {
    let appender = log.appender().expect("appender");
    let (done, written) = std::sync::mpsc::channel();
    for i in 0..KEYS {
        let key = format!("key-{i:02}");
        let partition = partition_for_key(key.as_bytes(), PARTITIONS);
        for timestamp in [1_000, 61_000] {
            let record = OwnedRecord {
                to: TopicPartition::new(WORDS.name(), partition),
                timestamp,
                key: Some(Bytes::from(key.clone())),
                value: Some(Bytes::from("word")),
                headers: Headers::default(),
            };
            let done = done.clone();
            let told = Box::new(move |result| done.send(result).expect("awaited"));
            appender.append(record, told).expect("room");
        }
    }
    for _ in 0..KEYS * 2 {
        written
            .recv_timeout(DEADLINE)
            .expect("told")
            .expect("written");
    }
}

fn start(log: &Arc<dyn Broker>, instance: &str, endpoint: Option<String>) -> Arc<Application> {
    let mut config = Config::new("words-app", "unused");
    config.state = StateKind::Memory;
    config.instance_id = instance.to_owned();
    config.endpoint = endpoint;
    Arc::new(Application::start(&topology(), log.clone(), config).expect("started"))
}

fn admin(log: &Arc<dyn Broker>, application: &Arc<Application>) -> AdminState {
    AdminState::new(application, "words-app", log.admin().expect("admin"))
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
}

async fn get(router: &Router, path: &str) -> Answer {
    ask(
        router,
        Request::get(path).body(Body::empty()).expect("a request"),
    )
    .await
}

/// Posts JSON, with these headers beside it.
async fn post(router: &Router, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::post(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned()));
    ask(router, request.expect("a request")).await
}

async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let response = router
        .clone()
        .oneshot(request)
        .await
        .expect("routers do not fail");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(response.into_body(), 16 << 20)
        .await
        .expect("a body");
    Answer {
        status,
        headers,
        text: String::from_utf8(body.to_vec()).expect("text"),
    }
}

/// Asks until the answer is as it should be.
async fn eventually(router: &Router, path: &str, good: impl Fn(&Answer) -> bool) -> Answer {
    let begin = Instant::now();
    loop {
        let answer = get(router, path).await;
        if good(&answer) {
            return answer;
        }
        assert!(
            begin.elapsed() < DEADLINE,
            "{path}: {} {}",
            answer.status,
            answer.text
        );
        tokio::task::yield_now().await;
    }
}

async fn all_counted(router: &Router) {
    let counted = |a: &Answer| {
        let items = a.json()["items"].as_array().cloned().unwrap_or_default();
        a.status == StatusCode::OK && items.iter().filter(|i| i["value"] == 2).count() == KEYS
    };
    eventually(router, "/stores/counts/range?limit=1000", counted).await;
}

#[track_caller]
fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_answers_everything() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_log(dir.path());
    write_words(&*log);
    let application = start(&log, "a", None);
    let state = admin(&log, &application)
        .with_figure(Figure {
            name: "words_sunk_total".to_owned(),
            help: "Words in the sink.".to_owned(),
            kind: FigureKind::Counter,
            labels: vec![("sink".to_owned(), "a".to_owned())],
            read: Box::new(|| 7.0),
        })
        .with_check(Check {
            name: "always",
            run: Box::new(|| Ok(())),
        });
    let router = front(admin_router(state), FrontLimits::default());
    eventually(&router, "/ready", |a| a.status == StatusCode::OK).await;
    all_counted(&router).await;

    points(&router).await;
    ranges(&router).await;
    windows(&router).await;
    pages(&router).await;

    let failing = Check {
        name: "sink",
        run: Box::new(|| Err("is behind".to_owned())),
    };
    let state = admin(&log, &application).with_check(failing);
    let unready = get(&admin_router(state), "/ready").await;
    is_problem(&unready, 503);
    assert!(unready.text.contains("sink: is behind"), "{}", unready.text);
    let behind = Check {
        name: "sink",
        run: Box::new(|| Err("database is away".to_owned())),
    };
    let state = admin(&log, &application).with_notice(behind);
    let ready = get(&admin_router(state), "/ready").await;
    assert_eq!(ready.status, StatusCode::OK, "{}", ready.text);
    assert_eq!(ready.json()["not_well"]["sink"], "database is away");

    drop(application);
    is_problem(&get(&router, "/ready").await, 503);
    assert_eq!(get(&router, "/live").await.status, StatusCode::OK);
}

async fn points(router: &Router) {
    let answer = get(router, "/stores/counts/keys/key-07").await;
    assert_eq!(answer.status, StatusCode::OK);
    let json = answer.json();
    assert_eq!(
        (&json["key"], &json["value"]),
        (&"key-07".into(), &2.into())
    );
    assert_eq!(json["timestamp"], "1970-01-01T00:01:01.000Z");
    assert_eq!(answer.headers["millstream-role"], "active");
    assert_eq!(answer.headers["millstream-stale-ms"], "0");
    assert!(
        answer.headers["millstream-position"]
            .to_str()
            .expect("text")
            .contains(':')
    );
    let bounded = get(router, "/stores/counts/keys/key-07?max_stale_ms=100").await;
    assert_eq!(bounded.status, StatusCode::OK);
    for (path, status) in [
        ("/stores/counts/keys/nobody", 404),
        ("/stores/counts/keys/a%2Fb", 404),
        ("/stores/nothing/keys/key-07", 404),
        ("/stores/per-minute/keys/key-07", 404),
        ("/stores/counts/sessions/key-07", 404),
        ("/stores/counts/windows/key-07", 404),
        ("/stores/nothing/sessions/key-07", 404),
        ("/stores/counts/keys/key-07?max_stale_ms=soon", 400),
        ("/stores/counts/range?limit=0", 400),
        ("/stores/counts/range?limit=many", 400),
        ("/stores/counts/range?cursor=xyz", 400),
        ("/stores/per-minute/windows/key-07?from=noon", 400),
    ] {
        is_problem(&get(router, path).await, status);
    }
}

async fn ranges(router: &Router) {
    let keys = |answer: &Answer| -> Vec<String> {
        let json = answer.json();
        let items = json["items"].as_array().expect("items").iter();
        items
            .map(|i| i["key"].as_str().expect("text").to_owned())
            .collect()
    };
    let expect: Vec<String> = (0..KEYS).map(|i| format!("key-{i:02}")).collect();
    let some = get(router, "/stores/counts/range?from=key-03&to=key-05").await;
    assert_eq!(keys(&some), expect[3..=5]);
    for limit in [1, 7, 40, 1000, 5000] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(
                router,
                &format!("/stores/counts/range?limit={limit}{cursor}"),
            )
            .await;
            found.extend(keys(&page));
            match page.json()["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, expect, "limit {limit}");
    }
    let windows = get(router, "/stores/per-minute/range?from=key-03&to=key-03")
        .await
        .json();
    assert_eq!(windows["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        windows["items"][1]["window"]["start"],
        "1970-01-01T00:01:00.000Z"
    );
}

async fn windows(router: &Router) {
    let all = get(router, "/stores/per-minute/windows/key-07").await;
    assert_eq!(all.json()["items"].as_array().map(Vec::len), Some(2));
    for span in [
        "from=60000",
        "from=1970-01-01T00:01:00Z&to=1970-01-01T00:01:00Z",
    ] {
        let answer = get(router, &format!("/stores/per-minute/windows/key-07?{span}")).await;
        let json = answer.json();
        assert_eq!(json["items"].as_array().map(Vec::len), Some(1), "{span}");
        assert_eq!(json["items"][0]["value"], 1);
        assert_eq!(
            json["items"][0]["window"]["start"],
            "1970-01-01T00:01:00.000Z"
        );
    }
    let later = get(router, "/stores/per-minute/windows/key-07?from=600000").await;
    assert_eq!(later.json()["items"].as_array().map(Vec::len), Some(0));
    is_problem(&get(router, "/stores/per-minute/windows/nobody").await, 404);
}

async fn pages(router: &Router) {
    let metrics = get(router, "/metrics").await;
    for line in [
        "words_sunk_total{sink=\"a\"} 7",
        "millstream_health{state=\"running\"} 1",
        "millstream_store_entries{store=\"counts\"} 40",
        "millstream_members 1",
        "# TYPE millstream_commits_total counter",
    ] {
        assert!(
            metrics.text.contains(line),
            "{line} is not in\n{}",
            metrics.text
        );
    }
    let topology = get(router, "/topology").await.json();
    let nodes = topology["nodes"].as_array().expect("nodes");
    let id = |id: &str| nodes.iter().find(|n| n["id"] == id);
    assert_eq!(id("topic:words").expect("the topic")["kind"], "topic");
    assert_eq!(id("store:counts").expect("the store")["name"], "counts");
    let source = nodes
        .iter()
        .find(|n| n["kind"] == "source")
        .expect("a source");
    assert_eq!(source["records"], KEYS * 2);
    for edge in topology["edges"].as_array().expect("edges") {
        for end in ["from", "to"] {
            assert!(id(edge[end].as_str().expect("text")).is_some(), "{edge}");
        }
    }
    assert!(
        get(router, "/topology?format=mermaid")
            .await
            .text
            .starts_with("flowchart")
    );
    assert!(
        get(router, "/topology?format=text")
            .await
            .text
            .starts_with("sub-topology 0")
    );
    is_problem(&get(router, "/topology?format=png").await, 400);
    let drained = |a: &Answer| a.json()["lag"] == 0;
    let lag = eventually(router, "/lag", drained).await.json();
    assert_eq!(
        lag["items"].as_array().map(Vec::len),
        Some(PARTITIONS as usize)
    );
    assert_eq!(get(router, "/tasks").await.json()["health"], "running");
    assert_eq!(
        get(router, "/members").await.json()["items"][0]["instance_id"],
        "a"
    );
    let stores = get(router, "/stores").await.json();
    assert_eq!(stores["items"][0]["name"], "counts");
    let page = get(router, "/").await;
    assert!(page.text.contains("dashboard.js"));
    let policy = page.headers["content-security-policy"]
        .to_str()
        .expect("text");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for file in ["/dashboard.js", "/dashboard.css"] {
        assert_eq!(get(router, file).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_changes_threads_and_pauses() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_log(dir.path());
    write_words(&*log);
    let application = start(&log, "a", None);
    let router = admin_router(admin(&log, &application).with_changes());
    let router = front(router, FrontLimits::default());
    all_counted(&router).await;

    let threads = post(&router, "/threads", r#"{"count":3}"#, &[]).await;
    assert_eq!(
        (threads.status, &threads.json()["count"]),
        (StatusCode::OK, &3.into())
    );
    let tasks = |count: usize| {
        move |a: &Answer| {
            let json = a.json();
            let items = json["items"].as_array().expect("items");
            let mut tasks = items.iter().filter_map(|thread| thread["tasks"].as_u64());
            items.len() == count && tasks.all(|tasks| tasks > 0)
        }
    };
    eventually(&router, "/threads", tasks(3)).await;
    eventually(&router, "/ready", |a| a.status == StatusCode::OK).await;
    let metrics = get(&router, "/metrics").await.text;
    assert!(
        metrics.contains("millstream_commits_total{thread=\"2\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("millstream_threads 3"), "{metrics}");
    post(&router, "/threads", r#"{"count":1}"#, &[]).await;
    eventually(&router, "/threads", tasks(1)).await;
    let gone = get(&router, "/metrics").await.text;
    assert!(!gone.contains("thread=\"2\""), "{gone}");
    eventually(&router, "/ready", |a| a.json()["status"] == "ready").await;

    let paused = post(&router, "/pause", "", &[]).await;
    assert_eq!(
        (paused.status, &paused.json()["paused"]),
        (StatusCode::OK, &true.into())
    );
    eventually(&router, "/threads", |a| {
        a.json()["items"][0]["paused"] == true
    })
    .await;
    let ready = get(&router, "/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["status"]),
        (StatusCode::OK, &"paused".into())
    );
    assert_eq!(get(&router, "/tasks").await.json()["health"], "paused");
    let metrics = get(&router, "/metrics").await.text;
    assert!(
        metrics.contains("millstream_health{state=\"paused\"} 1"),
        "{metrics}"
    );
    all_counted(&router).await;
    post(&router, "/resume", "", &[]).await;
    eventually(&router, "/ready", |a| a.json()["status"] == "ready").await;
    changes_are_refused(&router, &log, &application).await;
}

async fn changes_are_refused(
    router: &Router,
    log: &Arc<dyn Broker>,
    application: &Arc<Application>,
) {
    for (body, status) in [
        (r#"{"count":65}"#, 422),
        (r#"{"count":-1}"#, 422),
        (r#"{"number":1}"#, 422),
        ("", 400),
    ] {
        is_problem(&post(router, "/threads", body, &[]).await, status);
    }
    // A page of another origin, of this one under a name of the attacker's, and a form.
    for header in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "same-origin"),
    ] {
        for (path, body) in [
            ("/threads", r#"{"count":2}"#),
            ("/pause", ""),
            ("/resume", ""),
        ] {
            is_problem(&post(router, path, body, &[header]).await, 403);
        }
    }
    let still = get(router, "/threads").await.json();
    assert_eq!(
        (&still["count"], &still["paused"]),
        (&1.into(), &false.into())
    );
    // Who has not asked for changes has none, but may look.
    let looks = front(
        admin_router(admin(log, application)),
        FrontLimits::default(),
    );
    assert_eq!(get(&looks, "/threads").await.json()["count"], 1);
    is_problem(&post(&looks, "/threads", r#"{"count":2}"#, &[]).await, 405);
    for path in ["/pause", "/resume"] {
        is_problem(&post(&looks, path, "", &[]).await, 404);
    }
    assert!(!application.is_paused());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_instance_holds_is_fetched_from_there_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_log(dir.path());
    write_words(&*log);
    let mut instances = Vec::new();
    for name in ["a", "b"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let application = start(&log, name, Some(endpoint));
        let router = admin_router(admin(&log, &application));
        let never = std::future::pending();
        let server = tokio::spawn(serve(
            listener,
            router.clone(),
            ServeLimits::default(),
            never,
        ));
        instances.push((application, router, server));
    }
    let begin = Instant::now();
    let tasks = |a: &Application| {
        a.status()
            .threads
            .iter()
            .map(|t| t.tasks.len())
            .sum::<usize>()
    };
    while !instances
        .iter()
        .all(|(a, ..)| tasks(a) == 2 && a.health() == Health::Running)
    {
        assert!(
            begin.elapsed() < DEADLINE,
            "the instances share the partitions"
        );
        tokio::task::yield_now().await;
    }
    for (_, router, _) in &instances {
        all_counted(router).await;
        for i in 0..KEYS {
            let answer = get(router, &format!("/stores/counts/keys/key-{i:02}")).await;
            assert_eq!(answer.json()["value"], 2, "{}", answer.text);
            assert_eq!(answer.headers["millstream-role"], "active");
            let windows = get(router, &format!("/stores/per-minute/windows/key-{i:02}")).await;
            assert_eq!(windows.json()["items"].as_array().map(Vec::len), Some(2));
        }
        is_problem(&get(router, "/stores/counts/keys/nobody").await, 404);
        let page = get(router, "/stores/counts/range?limit=7").await.json();
        assert_eq!(page["items"][6]["key"], "key-06");
    }
    // The second instance stops answering: what it holds cannot be told, what is here can.
    instances[1].2.abort();
    let mut seen = [0; 2];
    for i in 0..KEYS {
        let answer = get(&instances[0].1, &format!("/stores/counts/keys/key-{i:02}")).await;
        match answer.status {
            StatusCode::OK => seen[0] += 1,
            _ => {
                is_problem(&answer, 503);
                assert!(answer.headers.contains_key("retry-after"));
                seen[1] += 1;
            }
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    is_problem(&get(&instances[0].1, "/stores/counts/range").await, 503);
}
