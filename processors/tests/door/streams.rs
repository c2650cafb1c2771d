//! Orders followed as server-sent events.

use std::{future::Future, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use futures_util::StreamExt;
use millstream_api::{ServeLimits, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tower::ServiceExt;

use crate::shop::{DEADLINE, Shop, order};

struct Told {
    id: u64,
    name: String,
    data: serde_json::Value,
}

/// Reads a stream to its end.
async fn follow(shop: &Shop, id: &str, last: Option<u64>) -> (StatusCode, Vec<Told>) {
    let mut request = Request::get(format!("/v1/orders/{id}/events"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = shop
        .router
        .clone()
        .oneshot(request)
        .await
        .expect("routers do not fail");
    let status = response.status();
    let mut text = String::new();
    let mut body = response.into_body().into_data_stream();
    while let Some(piece) = in_time(body.next()).await {
        text.push_str(std::str::from_utf8(&piece.expect("a piece")).expect("text"));
    }
    (status, text.split("\n\n").filter_map(read).collect())
}

async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("in time")
}

fn read(block: &str) -> Option<Told> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    Some(Told {
        id: field("id: ")?.parse().expect("a version"),
        name: field("event: ")?.to_owned(),
        data: serde_json::from_str(field("data: ")?).expect("JSON"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_told_once_and_the_stream_ends_when_the_order_is_final() {
    let shop = Shop::stocked().await;
    let placed = shop
        .place("k", &order("ada", &[("tea", 1)]), false)
        .await
        .is(202);
    let id = placed["order_id"].as_str().expect("an id").to_owned();
    let (status, told) = follow(&shop, &id, None).await;
    assert_eq!(status, StatusCode::OK);
    let ids: Vec<u64> = told.iter().map(|t| t.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    let names: Vec<&str> = told.iter().map(|t| t.name.as_str()).collect();
    let changes: Vec<&str> = names
        .iter()
        .copied()
        .filter(|n| *n != "order.payment-updated")
        .collect();
    assert_eq!(
        changes,
        ["order.placed", "order.reserved", "order.confirmed"]
    );
    assert_eq!(names.last(), Some(&"order.confirmed"));
    let last = told.last().expect("events");
    assert_eq!(last.data["status"], "CONFIRMED");
    assert_eq!(last.data["type"], "order.confirmed");
    assert_eq!(last.data["order_id"], id.as_str());

    let (_, rest) = follow(&shop, &id, Some(1)).await;
    assert_eq!(rest.iter().map(|t| t.id).collect::<Vec<_>>(), ids[1..]);
    let (status, nothing) = follow(&shop, &id, Some(1000)).await;
    assert_eq!((status, nothing.len()), (StatusCode::NO_CONTENT, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_ends_when_the_server_shuts_down() {
    let mut shop = Shop::open().await;
    shop.stop_application().await;
    let placed = shop
        .place("k", &order("ada", &[("tea", 1)]), false)
        .await
        .is(202);
    let id = placed["order_id"].as_str().expect("an id");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let limits = ServeLimits {
        drain_time_max: DEADLINE,
        ..ServeLimits::default()
    };
    let shutdown = async move { drop(stopped.await) };
    let server = tokio::spawn(serve(listener, shop.router.clone(), limits, shutdown));
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET /v1/orders/{id}/events HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut begin = [0; 15];
    in_time(stream.read_exact(&mut begin))
        .await
        .expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    stop.send(()).expect("serving");
    let ended = timeout(Duration::from_secs(10), server)
        .await
        .expect("long before the deadline");
    ended.expect("no panic").expect("no error");
}
