//! One HTTP request over a connection of its own, with a deadline.

use std::{io, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// Status and body.
pub(crate) type Answer = (u16, Value);

pub(crate) async fn get(port: u16, path: &str) -> io::Result<Answer> {
    exchange(
        port,
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await
}

pub(crate) async fn post(port: u16, path: &str, key: &str, body: &Value) -> io::Result<Answer> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(port, request).await
}

async fn exchange(port: u16, request: String) -> io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other("no answer"))?;
        let status = head
            .split_whitespace()
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    };
    timeout(ANSWER_TIME_MAX, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
