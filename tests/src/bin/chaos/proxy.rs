//! `Link`: a TCP proxy between one instance and one server, with faults.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::schedule::{Harm, Way};

/// The largest piece that is passed on at once.
const PIECE_BYTES_MAX: usize = 16 << 10;
/// Pieces that wait for their time in one direction; a sender waits when there are more.
const PIECES_MAX: usize = 256;

/// A proxy. It ends when this is dropped.
pub(crate) struct Link {
    /// What is done to its connections. While it is closed that is a cut, whatever else it is.
    harm: Arc<watch::Sender<Option<Harm>>>,
    /// What is done when it is not closed.
    wanted: Mutex<Wanted>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Passes on what comes to `port` of this machine to `server`.
    pub(crate) async fn open(port: u16, server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let harm = Arc::new(watch::Sender::new(None));
        let accepting = tokio::spawn(accept(listener, server, harm.clone()));
        Ok(Self {
            harm,
            wanted: Mutex::default(),
            accepting,
        })
    }

    /// From now on this is done to its connections, or nothing.
    pub(crate) fn set(&self, harm: Option<Harm>) {
        self.change(|wanted| wanted.harm = harm);
    }

    /// Cuts its connections until it is opened again, whatever is done to it meanwhile.
    pub(crate) fn close(&self, closed: bool) {
        self.change(|wanted| wanted.closed = closed);
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.wanted.lock().expect("nothing panics with this lock");
        change(&mut wanted);
        let cut = wanted.closed.then_some(Harm::Cut);
        self.harm.send_replace(cut.or(wanted.harm));
    }
}

#[derive(Default)]
struct Wanted {
    harm: Option<Harm>,
    closed: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, harm: Arc<watch::Sender<Option<Harm>>>) {
    while let Ok((inside, _)) = listener.accept().await {
        if *harm.borrow() == Some(Harm::Cut) {
            continue;
        }
        let mut harm = harm.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                // Whether it ended in order or by an error: both ends are closed with it.
                _ = join(inside, server, harm.clone()) => {}
                () = until(&mut harm, |harm| harm == Some(Harm::Cut)) => {}
            }
        });
    }
}

async fn join(
    inside: TcpStream,
    server: SocketAddr,
    harm: watch::Receiver<Option<Harm>>,
) -> std::io::Result<()> {
    let outside = TcpStream::connect(server).await?;
    inside.set_nodelay(true)?;
    outside.set_nodelay(true)?;
    let (from_inside, to_inside) = inside.into_split();
    let (from_outside, to_outside) = outside.into_split();
    tokio::select! {
        ended = pass(from_inside, to_outside, Way::Out, harm.clone()) => ended,
        ended = pass(from_outside, to_inside, Way::In, harm) => ended,
    }
}

/// Passes on one direction until its sender ends it.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut harm: watch::Receiver<Option<Harm>>,
) -> std::io::Result<()> {
    let (queue, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES_MAX);
    let read = async move {
        let mut piece = BytesMut::new();
        loop {
            piece.reserve(PIECE_BYTES_MAX);
            if from.read_buf(&mut piece).await? == 0 {
                return Ok(());
            }
            // The queue ends with the writing side, which tells why.
            let _ = queue.send((Instant::now(), piece.split().freeze())).await;
        }
    };
    let write = async {
        while let Some((came, piece)) = pieces.recv().await {
            until(&mut harm, |harm| harm != Some(Harm::Stall(way))).await;
            let due = came + delay(*harm.borrow());
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Waits until what is done to the link is so.
async fn until(harm: &mut watch::Receiver<Option<Harm>>, is_so: impl Fn(Option<Harm>) -> bool) {
    // Who could change it is gone when the program ends.
    let _ = harm.wait_for(|harm| is_so(*harm)).await;
}

fn delay(harm: Option<Harm>) -> Duration {
    match harm {
        Some(Harm::Delay(by)) => by,
        Some(Harm::Cut | Harm::Stall(_)) | None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A server that sends back what comes, and a link to it.
    async fn echo() -> (Link, u16) {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = server.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let port = millstream_tests::free_port();
        (Link::open(port, address).await.expect("a link"), port)
    }

    async fn connect(port: u16) -> TcpStream {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("it listens")
    }

    async fn ask(stream: &mut TcpStream) -> Option<()> {
        stream.write_all(b"x").await.ok()?;
        let mut answer = [0];
        (stream.read(&mut answer).await.ok()? == 1).then_some(())
    }

    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_stall_holds_back_and_its_end_lets_go() {
        for way in [Way::Out, Way::In] {
            let (link, port) = echo().await;
            let mut stream = connect(port).await;
            assert!(ask(&mut stream).await.is_some());
            link.set(Some(Harm::Stall(way)));
            stream.write_all(b"x").await.expect("taken");
            let mut answer = [0];
            assert!(
                timeout(A_WHILE, stream.read(&mut answer)).await.is_err(),
                "{way:?}"
            );
            link.set(None);
            let came = timeout(SOON, stream.read(&mut answer)).await;
            assert_eq!(came.expect("in time").expect("alive"), 1);
        }
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_refuses_new_ones() {
        let (link, port) = echo().await;
        let mut stream = connect(port).await;
        assert!(ask(&mut stream).await.is_some());
        link.set(Some(Harm::Cut));
        let mut answer = [0];
        let ended = timeout(SOON, stream.read(&mut answer))
            .await
            .expect("in time");
        assert!(matches!(ended, Ok(0) | Err(_)));
        assert!(ask(&mut connect(port).await).await.is_none());
        link.set(None);
        assert!(ask(&mut connect(port).await).await.is_some());
    }

    #[tokio::test]
    async fn a_delay_counts_both_ways() {
        let (link, port) = echo().await;
        let mut stream = connect(port).await;
        link.set(Some(Harm::Delay(Duration::from_millis(100))));
        let began = Instant::now();
        assert!(ask(&mut stream).await.is_some());
        assert!(began.elapsed() >= Duration::from_millis(200));
    }
}
