//! `chaos`: three instances of the shop on Kafka and MariaDB, under load and random faults.
//!
//! When the time is over everything is healed, comes to rest, and is verified. `scripts/chaos` is
//! the way to run it.

mod run;
mod schedule;
mod cluster;
mod instance;
mod services;
mod proxy;
mod ends;
mod tail;
mod http;
mod process;
mod ports;
mod report;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "usage: chaos --binary FILE --scripts DIR --folder DIR [--seconds N] [--seed N]";

/// What a run is told.
pub(crate) struct Options {
    /// The program.
    pub(crate) binary: PathBuf,
    /// Where the services' scripts are.
    pub(crate) scripts: PathBuf,
    /// Where everything is kept.
    pub(crate) folder: PathBuf,
    /// How long faults happen.
    pub(crate) length: Duration,
    /// What decides on the faults.
    pub(crate) seed: u64,
}

impl Options {
    /// How many copies of each task's stores the instances keep. Odd seeds have one.
    fn standbys(&self) -> u64 {
        self.seed % 2
    }
}

fn options() -> Option<Options> {
    let mut given = std::collections::BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        given.insert(name.strip_prefix("--")?.to_owned(), words.next()?);
    }
    let mut number = |name: &str, default: u64| match given.remove(name) {
        Some(text) => text.parse().ok(),
        None => Some(default),
    };
    let length = Duration::from_secs(number("seconds", 60)?);
    let seed = number("seed", 1)?;
    let mut path = |name: &str| given.remove(name).map(PathBuf::from);
    let options = Options {
        binary: path("binary")?,
        scripts: path("scripts")?,
        folder: path("folder")?,
        length,
        seed,
    };
    given.is_empty().then_some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("threads for a run");
    let outcome = runtime.block_on(async {
        let stop = |kind| signal(kind).expect("signals can be heard");
        let (mut interrupt, mut end) =
            (stop(SignalKind::interrupt()), stop(SignalKind::terminate()));
        // What is dropped with the run ends its processes.
        tokio::select! {
            outcome = run::run(&options) => Some(outcome),
            _ = interrupt.recv() => None,
            _ = end.recv() => None,
        }
    });
    match outcome {
        Some(Ok(true)) => ExitCode::SUCCESS,
        Some(Ok(false)) => ExitCode::from(1),
        Some(Err(error)) => {
            eprintln!("chaos: the run itself failed: {error}");
            ExitCode::from(1)
        }
        None => {
            eprintln!("chaos: interrupted");
            ExitCode::from(130)
        }
    }
}
