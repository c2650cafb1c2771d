//! `serve`: accepts connections, a bounded number of them, and closes the slow ones.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Connections at the same time; more get a 503 and are closed.
    pub connections_max: usize,
    /// How long a connection may take to send the head of a request, waiting for it included.
    pub head_time_max: Duration,
    /// The largest head of a request, in bytes; more is refused.
    pub head_bytes_max: usize,
    /// How long a shutdown waits for requests that are being worked on.
    pub drain_time_max: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            head_time_max: Duration::from_secs(10),
            head_bytes_max: 32 << 10,
            drain_time_max: Duration::from_secs(5),
        }
    }
}

/// Connections beyond the limit that are told so at the same time; still more are closed without a
/// word.
const REFUSALS_MAX: usize = 256;
/// How long a refused connection may take to read that it is refused.
const REFUSAL_TIME_MAX: Duration = Duration::from_millis(500);
/// The pause after an accept that failed, as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a refused connection reads, whatever it asked for.
const REFUSAL: &str =
    r#"{"type":"/problems/overloaded","title":"Too many connections just now.","status":503}"#;

/// Tells a handler that the server shuts down: streams without an end must end then. An extension
/// of every request that [`serve`] passes on.
///
/// ```
/// use axum::Extension;
/// use millstream_api::Closing;
///
/// async fn wait_for_the_end(Extension(mut closing): Extension<Closing>) {
///     closing.wait().await;
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Closing(Option<watch::Receiver<bool>>);

impl Closing {
    /// Never closes: for routers that are called without a server, as in tests.
    pub fn never() -> Self {
        Self(None)
    }

    /// Returns when the server shuts down.
    pub async fn wait(&mut self) {
        match &mut self.0 {
            // An error means that the server is gone.
            Some(closing) => drop(closing.wait_for(|closing| *closing).await),
            None => std::future::pending().await,
        }
    }
}

/// Serves a router until `shutdown` is done, then waits for requests in progress, at most
/// `drain_time_max`.
///
/// # Errors
/// When the listener has no address. Connections that fail are no error.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let (close, closing) = watch::channel(false);
    let closing = Closing(Some(closing));
    let router = router.layer(Extension(closing.clone()));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "no connection could be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            let connection = connection(stream, router.clone(), limits, closing.clone());
            connections.spawn(async move {
                connection.await;
                drop(place);
            });
        } else if let Ok(place) = refusals.clone().try_acquire_owned() {
            connections.spawn(async move {
                let _ = timeout(REFUSAL_TIME_MAX, refuse(stream)).await;
                drop(place);
            });
        }
    }
    drop(listener);
    close.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain_time_max, all).await.is_err() {
        warn!(
            connections = connections.len(),
            "connections were cut off at shutdown"
        );
    }
    Ok(())
}

/// Writes the refusal and reads what the client has sent, so that closing does not reset the
/// connection before the client has read it.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{REFUSAL}",
        REFUSAL.len(),
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn connection(stream: TcpStream, router: Router, limits: ServeLimits, mut closing: Closing) {
    // Answers are small: waiting to fill a segment only makes them late.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time_max)
        .max_buf_size(limits.head_bytes_max)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended");
    }
}

/// An address that others can reach, where nobody is asked who he is.
#[derive(Debug, thiserror::Error)]
#[error(
    "refusing to listen where others can connect while authentication is off; listen on \
     127.0.0.1 or [::1]. address=`{0}`"
)]
pub struct NotLoopback(SocketAddr);

/// Refuses an address that is not loopback. A program without authentication calls this before it
/// listens.
///
/// ```
/// use millstream_api::refuse_non_loopback;
/// assert!(refuse_non_loopback(([127, 0, 0, 1], 8080).into()).is_ok());
/// assert!(refuse_non_loopback(([0, 0, 0, 0], 8080).into()).is_err());
/// ```
///
/// # Errors
/// For every other address.
pub fn refuse_non_loopback(address: SocketAddr) -> Result<(), NotLoopback> {
    match address.ip().to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(NotLoopback(address)),
    }
}
