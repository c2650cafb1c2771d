//! `Connection`: one HTTP/1.1 connection to a shop, made again when it breaks, to another instance
//! where the shop has several.
//!
//! Thousands of requests a second come from the same two cores that serve them, so this is hyper's
//! bare connection: no pool, no redirects.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
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
/// How long an instance may take where another one can be asked instead.
const INSTANCE_TIME_MAX: Duration = Duration::from_secs(10);
/// The pause before a request is repeated; it doubles …
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// … up to this, whatever the shop asks for.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A shop's address, or those of its instances.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    authorities: Arc<[Arc<str>]>,
    /// Connections made so far: they begin at one instance after the other.
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Reads `http://host:port`.
    pub(crate) fn parse(url: &str) -> Outcome<Self> {
        Self::of([url])
    }

    /// Reads the addresses of the instances of one shop.
    pub(crate) fn of<'a>(urls: impl IntoIterator<Item = &'a str>) -> Outcome<Self> {
        let authorities: Outcome<Vec<_>> = urls.into_iter().map(authority).collect();
        Ok(Self {
            authorities: authorities?.into(),
            connections: Arc::default(),
        })
    }

    /// A new connection, made at its first request.
    pub(crate) fn connection(&self) -> Connection {
        Connection {
            at: self.connections.fetch_add(1, Ordering::Relaxed) % self.authorities.len(),
            authorities: self.authorities.clone(),
            sender: None,
        }
    }
}

fn authority(url: &str) -> Outcome<Arc<str>> {
    let authority = url
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'));
    match authority {
        Some(authority) if !authority.is_empty() && !authority.contains(['/', '?', '@']) => {
            let port = if authority.contains(':') { "" } else { ":80" };
            Ok(format!("{authority}{port}").into())
        }
        _ => Err(Failure::Usage(format!(
            "not a shop's address, http://host:port. url=`{url}`"
        ))),
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
    authorities: Arc<[Arc<str>]>,
    /// The instance that is asked.
    at: usize,
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

    /// As [`send`](Self::send), again and again while the shop is away, overloaded or failing, each
    /// time of the next instance. A call that is repeated needs a name, or must do no harm when it
    /// comes twice.
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
            self.turn_to_next();
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn turn_to_next(&mut self) {
        if self.authorities.len() > 1 {
            self.at = (self.at + 1) % self.authorities.len();
            self.sender = None;
        }
    }

    async fn send_once(&mut self, call: &Call) -> io::Result<Answer> {
        let time_max = match self.authorities.len() {
            1 => REQUEST_TIME_MAX,
            _ => INSTANCE_TIME_MAX,
        };
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
        timeout(time_max, exchange)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    fn request(&self, call: &Call) -> io::Result<Request<String>> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(header::HOST, &*self.authorities[self.at]);
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
        let stream = TcpStream::connect(&*self.authorities[self.at]).await?;
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// An instance that answers with its status, and counts.
    async fn instance(status: &'static str) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(AtomicU64::new(0));
        let counted = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn another_instance_is_asked_where_one_is_away_or_fails() {
        let (well, answered) = instance("200 OK").await;
        let (ill, refused) = instance("503 Service Unavailable").await;
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let away = format!("http://{}", gone.local_addr().expect("an address"));
        drop(gone);
        let server = Server::of([&*away, &ill, &well]).expect("addresses");
        let retries = AtomicU64::new(0);
        let mut connection = server.connection();
        let call = Call::get("/");
        let sent = connection.send_until(&call, Duration::from_secs(20), &retries);
        assert_eq!(sent.await.expect("an answer").status, 200);
        assert_eq!(retries.load(Ordering::Relaxed), 2);
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        assert_eq!(answered.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn connections_spread_over_the_instances() {
        let (one, first) = instance("200 OK").await;
        let (two, second) = instance("200 OK").await;
        let server = Server::of([&*one, &two]).expect("addresses");
        for _ in 0..4 {
            let sent = server.connection().send(&Call::get("/")).await;
            assert_eq!(sent.expect("an answer").status, 200);
        }
        assert_eq!(first.load(Ordering::Relaxed), 2);
        assert_eq!(second.load(Ordering::Relaxed), 2);
    }
}
