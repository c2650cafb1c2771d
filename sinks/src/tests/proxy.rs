//! A wire between sink and server that breaks: before a statement, behind it, and behind a COMMIT
//! whose answer is swallowed.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    chaos::{quick, start, written},
    databases::TestDatabase,
    faults::Chance,
    shop::Letters,
    world::{State, log_of, make_world, records},
};
use crate::Database;

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// What all connections of a proxy share.
#[derive(Debug)]
struct Wire {
    chance: Mutex<Chance>,
    /// Chance that a connection breaks at a message, in thousandths.
    permille: u64,
    calm: AtomicBool,
    cuts: AtomicU32,
    swallowed: AtomicU32,
}

impl Wire {
    fn breaks(&self, permille: u64) -> bool {
        let mut chance = self.chance.lock().expect("no test panics with it");
        chance.below(1000) < permille && !self.calm.load(Ordering::Relaxed)
    }

    /// Carries messages until one side ends or the wire breaks.
    async fn carry(&self, mut client: TcpStream, server: &str) -> std::io::Result<()> {
        let mut server = TcpStream::connect(server).await?;
        let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            tokio::select! {
                n = client.read(&mut asked) => {
                    let n = n?;
                    if n == 0 || self.breaks(self.permille) {
                        return Ok(());
                    }
                    server.write_all(&asked[..n]).await?;
                    let commits = asked[..n].windows(6).any(|w| w == b"COMMIT");
                    if commits && self.breaks(10 * self.permille) {
                        self.swallowed.fetch_add(1, Ordering::Relaxed);
                        // In every other case the server has done it before the wire breaks.
                        if self.breaks(500) {
                            return Ok(());
                        }
                        return server.read(&mut answered).await.map(drop);
                    }
                }
                n = server.read(&mut answered) => {
                    let n = n?;
                    if n == 0 || self.breaks(self.permille) {
                        return Ok(());
                    }
                    client.write_all(&answered[..n]).await?;
                }
            }
        }
    }
}

/// Listens until the task is aborted; answers the address.
async fn listen(wire: Arc<Wire>, server: String) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("is bound").to_string();
    let task = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (wire, server) = (wire.clone(), server.clone());
            // A wire that breaks is what it is for.
            tokio::spawn(async move {
                wire.carry(client, &server).await.ok();
                wire.cuts.fetch_add(
                    u32::from(!wire.calm.load(Ordering::Relaxed)),
                    Ordering::Relaxed,
                );
            });
        }
    });
    (address, task)
}

async fn run(seed: u64, test: TestDatabase) -> (u32, u32) {
    make_world(&test.database).await;
    let records = records(seed, 120, 2, seed.is_multiple_of(2));
    let log = log_of(&records, 2);
    let (before, behind) = test.url.rsplit_once('@').expect("names a user");
    let (server, name) = behind.split_once('/').expect("names a database");
    let wire = Arc::new(Wire {
        chance: Mutex::new(Chance::new(seed)),
        permille: 10 + seed % 20,
        calm: AtomicBool::new(true),
        cuts: AtomicU32::new(0),
        swallowed: AtomicU32::new(0),
    });
    let (address, listening) = listen(wire.clone(), server.to_owned()).await;
    let database = Database::connect(&format!("{before}@{address}/{name}")).await;
    let database = database.expect("connects");
    wire.calm.store(false, Ordering::Relaxed);
    let letters = Letters::default();
    let sink = start(&log, &database, quick("a", 4), &letters);
    written(&test.database, &records, &[&sink]).await;
    wire.calm.store(true, Ordering::Relaxed);
    sink.stop(DEADLINE).await.expect("stops");
    let state = State::load(&test.database).await.expect("loads");
    state
        .verify(&records)
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert_eq!(
        letters.list().len(),
        state.tables.letters.len(),
        "seed {seed}"
    );
    listening.abort();
    database.close().await;
    test.remove().await;
    (
        wire.cuts.load(Ordering::Relaxed),
        wire.swallowed.load(Ordering::Relaxed),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wire_that_breaks_anywhere_loses_and_doubles_nothing() {
    if std::env::var("MILLSTREAM_TEST_MYSQL").is_err() {
        assert!(TestDatabase::server().await.is_none());
        return;
    }
    let runs: Vec<(u32, u32)> = stream::iter(0..20)
        .map(|seed| {
            tokio::spawn(async move {
                run(
                    seed,
                    TestDatabase::server().await.expect("the variable is set"),
                )
                .await
            })
        })
        .buffer_unordered(4)
        .map(|run| run.expect("the run is in order"))
        .collect()
        .await;
    let (cuts, swallowed): (Vec<u32>, Vec<u32>) = runs.into_iter().unzip();
    let (cuts, swallowed) = (cuts.iter().sum::<u32>(), swallowed.iter().sum::<u32>());
    eprintln!("20 seeds: {cuts} cuts, {swallowed} commits without an answer");
    assert!(cuts > 100 && swallowed > 20, "{cuts} {swallowed}");
}
