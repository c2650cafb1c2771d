//! Two instances of the shop: each door tells what the other's stores hold.

use std::{future::pending, sync::Arc, time::Instant};

use axum::{Router, body::Body, http::Request};
use millstream_api::{AdminState, ServeLimits, admin_router, serve};
use millstream_processors::door::{Door, DoorConfig};
use millstream_runtime::{Application, Health};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::shop::{Answer, DEADLINE, open_log, order, send, start_application, tables, with_json};

const ORDERS: usize = 12;

struct Instance {
    application: Arc<Application>,
    door: Door,
    admin: Router,
    server: JoinHandle<std::io::Result<()>>,
}

impl Instance {
    async fn get(&self, path: &str) -> Answer {
        send(
            &self.door.router(),
            Request::get(path).body(Body::empty()).expect("a request"),
        )
        .await
    }

    async fn eventually(&self, path: &str, good: impl Fn(&Answer) -> bool) -> Answer {
        let begin = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 && good(&answer) {
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

    async fn place(&self, key: &str, quantity: i64) -> Answer {
        let body = order("ada", &[("nothing", quantity)]).to_string();
        let mut request = with_json("POST", "/v1/orders", body);
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().expect("a header"));
        send(&self.door.router(), request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_door_tells_what_the_other_instance_holds() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = open_log(dir.path());
    // No sink writes these tables: what is told comes from stores.
    let tables = tables(dir.path()).await;
    let mut instances = Vec::new();
    for name in ["a", "b"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let application = Arc::new(start_application(&log, name, Some(endpoint)));
        let state = AdminState::new(&application, "shop", log.admin().expect("admin"));
        let admin = admin_router(state);
        let server = tokio::spawn(serve(
            listener,
            admin.clone(),
            ServeLimits::default(),
            pending(),
        ));
        let (queries, tables) = (application.queries(), tables.clone());
        let door = Door::open(DoorConfig::new("shop"), log.clone(), queries, tables);
        let door = door.expect("a door");
        instances.push(Instance {
            application,
            door,
            admin,
            server,
        });
    }
    let tasks = |i: &Instance| {
        i.application
            .status()
            .threads
            .iter()
            .map(|t| t.tasks.len())
            .sum::<usize>()
    };
    let begin = Instant::now();
    let runs = |i: &Instance| i.application.health() == Health::Running && tasks(i) > 0;
    while !(instances.iter().all(runs) && tasks(&instances[0]) == tasks(&instances[1])) {
        assert!(begin.elapsed() < DEADLINE, "the instances share the tasks");
        tokio::task::yield_now().await;
    }

    for n in 0..ORDERS {
        let placed = instances[n % 2].place(&format!("k{n}"), 1).await.is(202);
        let id = placed["order_id"].as_str().expect("an id").to_owned();
        for instance in &instances {
            let cancelled = |a: &Answer| a.json()["status"] == "CANCELLED";
            instance
                .eventually(&format!("/v1/orders/{id}"), cancelled)
                .await;
            let other_body = instance.place(&format!("k{n}"), 2).await;
            other_body.is_problem(422, "idempotency-key-reused");
            let request = Request::get(format!("/stores/orders/keys/{id}"));
            let request = request.body(Body::empty()).expect("a request");
            let json = send(&instance.admin, request).await.is(200);
            assert_eq!(json["value"]["order"]["order_id"], id.as_str());
        }
    }
    for n in 0..ORDERS {
        let body = json!({ "adjustment_id": "first", "delta": 3, "reason": "counted" });
        let path = format!("/v1/inventory/sku-{n}");
        let request = with_json("POST", &format!("{path}/adjustments"), body.to_string());
        send(&instances[0].door.router(), request).await.is(202);
        for instance in &instances {
            instance
                .eventually(&path, |a| a.json()["on_hand"] == 3)
                .await;
            let applied = |a: &Answer| a.json()["status"] == "APPLIED";
            instance
                .eventually(&format!("{path}/adjustments/first"), applied)
                .await;
        }
    }
    // The other instance does not answer any more: what only it holds cannot be told.
    instances[1].server.abort();
    let unknown = "/v1/inventory/sku-0/adjustments/unknown";
    let mut told = [false; 2];
    for n in 0..ORDERS {
        let unknown = unknown.replace("sku-0", &format!("sku-{n}"));
        match instances[0].get(&unknown).await.status {
            404 => told[0] = true,
            503 => told[1] = true,
            other => panic!("{other}"),
        }
    }
    assert_eq!(told, [true, true]);
}
