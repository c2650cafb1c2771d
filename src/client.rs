//! `Connection`: one HTTP/1.1 connection to a shop, made again when it breaks.
//!
//! Thousands of requests a second come from the same two cores that serve them, so this is hyper's
//! bare connection: no pool, no redirects.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use hyper::{
    Method, Request,
    body::{Body, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::failure::{Failure, Outcome};

/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// The pause before a request is repeated; it doubles …
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// … up to this, whatever the shop asks for.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A shop's address.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    authority: Arc<str>,
}

impl Server {
    /// Reads `http://host:port`.
    pub(crate) fn parse(url: &str) -> Outcome<Self> {
        let authority = url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if !authority.is_empty() && !authority.contains(['/', '?', '@']) => {
                let port = if authority.contains(':') { "" } else { ":80" };
                Ok(Self {
                    authority: format!("{authority}{port}").into(),
                })
            }
            _ => Err(Failure::Usage(format!(
                "not a shop's address, http://host:port. url=`{url}`"
            ))),
        }
    }

    /// A new connection, made at its first request.
    pub(crate) fn connection(&self) -> Connection {
        Connection {
            authority: self.authority.clone(),
            sender: None,
        }
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Option<String>,
    idempotency_key: Option<String>,
}

impl Call {
    /// A question.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
            idempotency_key: None,
        }
    }

    /// Something new, as JSON.
    pub(crate) fn post(path: impl Into<String>, body: &serde_json::Value) -> Self {
        let body = Some(body.to_string());
        Self {
            method: Method::POST,
            path: path.into(),
            body,
            idempotency_key: None,
        }
    }

    /// A replacement, as JSON.
    pub(crate) fn put(path: impl Into<String>, body: &serde_json::Value) -> Self {
        Self {
            method: Method::PUT,
            ..Self::post(path, body)
        }
    }

    /// Names the request, so that it can be repeated.
    pub(crate) fn idempotent(self, key: impl Into<String>) -> Self {
        Self {
            idempotency_key: Some(key.into()),
            ..self
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// When to try again, if the shop said so.
    pub(crate) retry_after: Option<Duration>,
    /// The body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// True when the shop took it.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// True when the same request may fare better later.
    pub(crate) fn is_temporary(&self) -> bool {
        self.status == 429 || self.status >= 500
    }

    /// The body as JSON.
    pub(crate) fn json<T: for<'de> serde::Deserialize<'de>>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.body).map_err(io::Error::other)
    }

    /// Status and body, for people.
    pub(crate) fn text(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!(
            "{} {}",
            self.status,
            body.chars().take(300).collect::<String>()
        )
    }
}

/// One connection. Requests go one after the other.
pub(crate) struct Connection {
    authority: Arc<str>,
    sender: Option<SendRequest<String>>,
}

impl Connection {
    /// Sends a request and reads the whole answer. A connection that was closed while it was idle
    /// is made again.
    pub(crate) async fn send(&mut self, call: &Call) -> io::Result<Answer> {
        let reused = self.sender.is_some();
        match self.send_once(call).await {
            // Nothing of the answer came over a connection that the server had closed: ask again
            // over a new one.
            Err(error) if reused && error.kind() != io::ErrorKind::TimedOut => {
                self.send_once(call).await
            }
            result => result,
        }
    }

    /// As [`send`](Self::send), again and again while the shop is away, overloaded or failing. A
    /// call that is repeated needs a name, or must do no harm when it comes twice.
    pub(crate) async fn send_until(
        &mut self,
        call: &Call,
        give_up: Duration,
        retries: &AtomicU64,
    ) -> io::Result<Answer> {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let result = self.send(call).await;
            let wait = match &result {
                Ok(answer) if !answer.is_temporary() => return result,
                Ok(answer) => answer.retry_after.unwrap_or(pause).min(PAUSE_MAX),
                Err(_) => pause,
            };
            if started.elapsed() + wait > give_up {
                return result;
            }
            retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn send_once(&mut self, call: &Call) -> io::Result<Answer> {
        let exchange = async {
            let mut sender = match self.sender.take() {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            sender.ready().await.map_err(io::Error::other)?;
            let response = sender.send_request(self.request(call)?).await;
            let (head, mut body) = response.map_err(io::Error::other)?.into_parts();
            let body = read(&mut body).await?;
            self.sender = Some(sender);
            let retry_after = head.headers.get(header::RETRY_AFTER);
            let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            Ok(Answer {
                status: head.status.as_u16(),
                retry_after,
                body,
            })
        };
        timeout(REQUEST_TIME_MAX, exchange)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    fn request(&self, call: &Call) -> io::Result<Request<String>> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(header::HOST, &*self.authority);
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if call.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(call.body.clone().unwrap_or_default())
            .map_err(io::Error::other)
    }

    async fn connect(&self) -> io::Result<SendRequest<String>> {
        let stream = TcpStream::connect(&*self.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // It ends with the connection; the sender tells of its errors.
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn read(body: &mut Incoming) -> io::Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            if bytes.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the answer is too large"));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}
