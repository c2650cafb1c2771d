//! The front: limits, problem answers and the server around them.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    response::Response,
    routing::{get, post},
};
use millstream_api::{
    BODY_BYTES_MAX, FrontLimits, JsonBody, ServeLimits, Switch, front, refuse_non_loopback, serve,
};
use serde::Deserialize;
use serde_json::Value as JsonValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tower::ServiceExt;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Greeting {
    name: String,
}

fn router() -> Router {
    let greet = async |JsonBody(greeting): JsonBody<Greeting>| greeting.name;
    Router::new().route("/greet", post(greet)).route(
        "/panic",
        get(async || -> String { panic!("secret detail") }),
    )
}

async fn ask(router: &Router, request: Request<Body>) -> Response {
    router
        .clone()
        .oneshot(request)
        .await
        .expect("routers do not fail")
}

async fn json(response: Response) -> JsonValue {
    let body = to_bytes(response.into_body(), 1 << 20)
        .await
        .expect("a body");
    serde_json::from_slice(&body).expect("JSON")
}

fn greet(kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/greet").header("content-type", kind);
    request.body(body.into()).expect("a request")
}

#[track_caller]
fn is_problem(response: &Response, status: u16) {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
}

#[tokio::test]
async fn a_switch_shows_what_it_is_turned_to() {
    let switch = Switch::new(Router::new().fallback(async || StatusCode::SERVICE_UNAVAILABLE));
    let served = switch.router();
    let name = || greet("application/json", r#"{"name":"ann"}"#);
    assert_eq!(ask(&served, name()).await.status(), 503);
    switch.turn_to(router());
    let greeted = ask(&served, name()).await;
    assert_eq!(greeted.status(), 200);
    let body = to_bytes(greeted.into_body(), 1 << 10)
        .await
        .expect("a body");
    assert_eq!(body, "ann");
}

#[tokio::test]
async fn wrong_bodies_get_their_status() {
    let router = front(router(), FrontLimits::default());
    let exact = format!("{{\"name\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX - 11));
    assert_eq!(exact.len(), BODY_BYTES_MAX);
    let json_type = "application/json";
    for (kind, body, status) in [
        (json_type, "{", 400),
        (json_type, "", 400),
        ("text/plain", "{}", 415),
        ("application/x-www-form-urlencoded", "name=a", 415),
        (json_type, "{\"name\":1}", 422),
        (json_type, "{\"name\":\"a\",\"b\":1}", 422),
        (json_type, &format!("{exact} "), 413),
    ] {
        is_problem(&ask(&router, greet(kind, body.to_owned())).await, status);
    }
    for kind in [
        "application/json; charset=utf-8",
        "application/merge-patch+json",
    ] {
        let response = ask(&router, greet(kind, exact.clone())).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
    let packed = Request::post("/greet").header("content-type", json_type);
    let packed = packed
        .header("content-encoding", "gzip")
        .body(Body::from("{}"))
        .expect("a request");
    is_problem(&ask(&router, packed).await, 415);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let router = front(router(), FrontLimits::default());
    let request = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .expect("a request")
    };
    is_problem(&ask(&router, request("GET", "/nowhere")).await, 404);
    let response = ask(&router, request("DELETE", "/greet")).await;
    is_problem(&response, 405);
    assert_eq!(response.headers()["allow"], "POST");
}

#[tokio::test]
async fn a_panic_becomes_a_500_that_tells_nothing() {
    let router = front(router(), FrontLimits::default());
    let response = ask(
        &router,
        Request::get("/panic")
            .body(Body::empty())
            .expect("a request"),
    )
    .await;
    is_problem(&response, 500);
    assert!(!json(response).await.to_string().contains("secret"));
}

#[tokio::test]
async fn requests_beyond_the_limit_are_turned_away_at_once() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = gate.clone();
    let slow = Router::new().route(
        "/slow",
        get(async move || drop(waiting.acquire().await.expect("open"))),
    );
    let router = front(
        slow,
        FrontLimits {
            requests_max: 1,
            ..FrontLimits::default()
        },
    );
    let request = || {
        Request::get("/slow")
            .body(Body::empty())
            .expect("a request")
    };
    let mut first = Box::pin(router.clone().oneshot(request()));
    assert!(
        futures_poll(&mut first).await.is_none(),
        "the first one waits"
    );
    let second = timeout(DEADLINE, ask(&router, request()))
        .await
        .expect("at once");
    is_problem(&second, 503);
    assert_eq!(second.headers()["retry-after"], "1");
    gate.add_permits(1);
    assert_eq!(first.await.expect("served").status(), StatusCode::OK);
    assert_eq!(ask(&router, request()).await.status(), StatusCode::OK);
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = std::future::ready(()) => None,
    }
}

/// A server on a free port, and what stops it.
async fn start(router: Router, limits: ServeLimits) -> (SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve(listener, router, limits, async move {
        drop(stopped.await)
    }));
    (address, stop)
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut text))
        .await
        .expect("closed in time")
        .expect("text");
    text
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_headers_is_closed() {
    let limits = ServeLimits {
        head_time_max: Duration::from_millis(200),
        ..ServeLimits::default()
    };
    let (address, _stop) = start(router(), limits).await;
    let mut slow = TcpStream::connect(address).await.expect("connects");
    slow.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n")
        .await
        .expect("sent");
    read_to_end(slow).await;
    let idle = TcpStream::connect(address).await.expect("connects");
    read_to_end(idle).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_read_that_they_are_refused() {
    let limits = ServeLimits {
        connections_max: 1,
        ..ServeLimits::default()
    };
    let (address, _stop) = start(front(router(), FrontLimits::default()), limits).await;
    let request = b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut first = TcpStream::connect(address).await.expect("connects");
    first.write_all(request).await.expect("sent");
    let mut begin = [0; 12];
    timeout(DEADLINE, first.read_exact(&mut begin))
        .await
        .expect("answered")
        .expect("read");
    assert_eq!(&begin, b"HTTP/1.1 404");
    let mut second = TcpStream::connect(address).await.expect("connects");
    second.write_all(request).await.expect("sent");
    let answer = read_to_end(second).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    assert_eq!(
        serde_json::from_str::<JsonValue>(body).expect("JSON")["status"],
        503
    );
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_ends_those_that_do_not() {
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(Semaphore::new(0));
    let (inside, go) = (entered.clone(), gate.clone());
    let slow = async move || {
        inside.add_permits(1);
        drop(go.acquire().await.expect("open"));
        "done"
    };
    let inside = entered.clone();
    let stuck = async move || {
        inside.add_permits(1);
        pending::<()>().await;
    };
    let router = Router::new()
        .route("/slow", get(slow))
        .route("/stuck", get(stuck));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let limits = ServeLimits {
        drain_time_max: Duration::from_secs(2),
        ..ServeLimits::default()
    };
    let server = tokio::spawn(serve(listener, router, limits, async move {
        drop(stopped.await)
    }));
    let mut streams = Vec::new();
    for path in ["/slow", "/stuck"] {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        streams.push(stream);
    }
    let both = entered.acquire_many(2);
    timeout(DEADLINE, both)
        .await
        .expect("both are inside")
        .expect("open")
        .forget();
    stop.send(()).expect("serving");
    gate.add_permits(1);
    let slow = streams.remove(0);
    assert!(read_to_end(slow).await.ends_with("done"));
    timeout(DEADLINE, server)
        .await
        .expect("ends in time")
        .expect("no panic")
        .expect("no error");
}

#[test]
fn only_loopback_is_listened_on() {
    for address in [
        "127.0.0.1:0",
        "127.8.9.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        assert!(
            refuse_non_loopback(address.parse().expect("an address")).is_ok(),
            "{address}"
        );
    }
    for address in [
        "0.0.0.0:0",
        "10.0.0.1:80",
        "[::]:80",
        "[::ffff:10.0.0.1]:80",
    ] {
        assert!(
            refuse_non_loopback(address.parse().expect("an address")).is_err(),
            "{address}"
        );
    }
}
