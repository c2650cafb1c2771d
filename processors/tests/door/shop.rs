//! A shop in a folder, and requests to its door.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
    response::Response,
};
use millstream_broker::{
    Broker,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_processors::{
    door::{Door, DoorConfig},
    payment::{GatewayWorker, SimulatedGateway, WorkerConfig},
    sql::{Tables, projections},
    topics::{DEAD_LETTERS, new_topics},
    topology::{ShopPolicy, shop},
};
use millstream_runtime::{Application, Config, ErrorPolicy, Health, Policies, StateKind};
use millstream_sinks::{Database, RunningSink, Sink, SinkConfig, TopicDeadLetters};
use serde_json::{Value as JsonValue, json};
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const PARTITIONS: u32 = 2;

/// A shop that runs, with all its parts.
pub(crate) struct Shop {
    pub(crate) door: Door,
    pub(crate) router: Router,
    pub(crate) application: Option<Application>,
    pub(crate) log: Arc<dyn Broker>,
    pub(crate) tables: Tables,
    _gateway: GatewayWorker,
    _sink: RunningSink,
    _dir: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = to_bytes(response.into_body(), 16 << 20)
            .await
            .expect("a body");
        Self {
            status,
            headers,
            text: String::from_utf8(body.to_vec()).expect("text"),
        }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> JsonValue {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> JsonValue {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() {
            JsonValue::Null
        } else {
            self.json()
        }
    }

    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, kind: &str) -> JsonValue {
        let json = self.is(status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(json["type"], format!("/problems/{kind}"), "{}", self.text);
        assert_eq!(json["status"], status);
        assert!(json["title"].is_string(), "{}", self.text);
        json
    }
}

/// Tables in SQLite, in that folder.
pub(crate) async fn tables(dir: &Path) -> Tables {
    let url = format!("sqlite://{}", dir.join("shop.db").display());
    Tables::open(Database::connect(&url).await.expect("a database"))
        .await
        .expect("tables")
}

pub(crate) fn open_log(dir: &Path) -> Arc<dyn Broker> {
    let log = EmbeddedBroker::open(&dir.join("log"), EmbeddedConfig::default()).expect("a log");
    log.admin()
        .expect("admin")
        .create_topics(&new_topics(PARTITIONS))
        .expect("topics");
    log
}

pub(crate) fn start_application(
    log: &Arc<dyn Broker>,
    instance: &str,
    endpoint: Option<String>,
) -> Application {
    let mut config = Config::new("shop", "unused");
    config.instance_id = instance.to_owned();
    config.endpoint = endpoint;
    config.state = StateKind::Memory;
    config.policies = Policies {
        decode: ErrorPolicy::DeadLetter,
        process: ErrorPolicy::DeadLetter,
        produce: ErrorPolicy::DeadLetter,
        dead_letter_topic: Some(DEAD_LETTERS.name()),
    };
    let topology = shop(&ShopPolicy::default()).expect("a topology");
    Application::start(&topology, log.clone(), config).expect("started")
}

impl Shop {
    pub(crate) async fn open() -> Self {
        Self::open_with(|_| ()).await
    }

    pub(crate) async fn open_with(configure: impl FnOnce(&mut DoorConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let log = open_log(dir.path());
        let tables = tables(dir.path()).await;
        let application = start_application(&log, "0", None);
        let gateway = Arc::new(SimulatedGateway::open(tables.clone()));
        let worker = WorkerConfig::new("shop", "0");
        let runtime = tokio::runtime::Handle::current();
        let gateway =
            GatewayWorker::start(log.clone(), gateway, runtime, worker).expect("a worker");
        let dead_letters = TopicDeadLetters::new(
            log.appender().expect("appender"),
            "shop.dead-letters",
            PARTITIONS,
        );
        let sink = Sink::new(
            SinkConfig::new("shop", "shop-sink", "0"),
            log.clone(),
            tables.database().clone(),
            projections(),
            Arc::new(dead_letters),
        );
        let begin = Instant::now();
        while application.health() != Health::Running {
            assert!(
                begin.elapsed() < DEADLINE,
                "the application runs: {:?}",
                application.health()
            );
            tokio::task::yield_now().await;
        }
        let mut config = DoorConfig::new("shop");
        configure(&mut config);
        let door = Door::open(config, log.clone(), application.queries(), tables.clone());
        let door = door.expect("a door");
        let router = door.router();
        let shop = Self {
            router,
            door,
            application: Some(application),
            log,
            tables,
            _gateway: gateway,
            _sink: sink.start(),
            _dir: dir,
        };
        let check = shop.door.check();
        while (check.run)().is_err() {
            assert!(begin.elapsed() < DEADLINE, "the catalogue is read");
            tokio::task::yield_now().await;
        }
        shop
    }

    /// Tea costs 150, milk 99; there are ten of each.
    pub(crate) async fn stocked() -> Self {
        let shop = Self::open().await;
        for (sku, price) in [("tea", 150), ("milk", 99)] {
            shop.list_product(sku, price).await;
            shop.adjust(sku, "first", 10).await.is(202);
            shop.eventually(&format!("/v1/inventory/{sku}"), |a| {
                a.json()["on_hand"] == 10
            })
            .await;
        }
        shop
    }

    pub(crate) async fn list_product(&self, sku: &str, price: i64) {
        let body = json!({ "sku": sku, "name": sku.to_uppercase(), "price": price });
        self.post("/v1/products", &body).await.is(201);
    }

    pub(crate) async fn adjust(&self, sku: &str, id: &str, delta: i64) -> Answer {
        let body = json!({ "adjustment_id": id, "delta": delta, "reason": "counted" });
        self.post(&format!("/v1/inventory/{sku}/adjustments"), &body)
            .await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).expect("a request"))
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: &JsonValue) -> Answer {
        self.send(with_json("POST", path, body.to_string())).await
    }

    /// Places an order under that key; with `wait`, until it is final.
    pub(crate) async fn place(&self, key: &str, body: &JsonValue, wait: bool) -> Answer {
        let mut request = with_json("POST", "/v1/orders", body.to_string());
        let headers = request.headers_mut();
        headers.insert("idempotency-key", key.parse().expect("a header"));
        if wait {
            headers.insert("prefer", "wait=30".parse().expect("a header"));
        }
        self.send(request).await
    }

    /// Asks until the answer is as it should be.
    pub(crate) async fn eventually(&self, path: &str, good: impl Fn(&Answer) -> bool) -> Answer {
        let begin = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.status == StatusCode::OK.as_u16() && good(&answer) {
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

    /// Ends the stream threads; what is accepted from now on stays unprocessed.
    pub(crate) async fn stop_application(&mut self) {
        let application = self.application.take().expect("running");
        let closed = tokio::task::spawn_blocking(move || application.close()).await;
        closed.expect("no panic").expect("closed");
    }
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await;
    Answer::of(response.expect("routers do not fail")).await
}

pub(crate) fn with_json(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    request.body(body.into()).expect("a request")
}

pub(crate) fn order(customer: &str, lines: &[(&str, i64)]) -> JsonValue {
    let lines: Vec<_> = lines
        .iter()
        .map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity }))
        .collect();
    json!({ "customer_id": customer, "lines": lines, "payment": { "token": "tok_approve" } })
}
