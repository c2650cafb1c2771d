//! The contract, kept by the simulated log. Virtual time follows real time here.

#[macro_use]
mod contract;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use contract::Bed;
use millstream_broker::sim::{Rates, SimConfig, SimLog};

/// Moves a log's time until it is dropped, then looks whether the log is in order.
struct Pump {
    log: SimLog,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    fn new(log: SimLog) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (log, over) = (log.clone(), over.clone());
            move || {
                let mut last = Instant::now();
                while !over.load(Ordering::Relaxed) {
                    thread::park_timeout(Duration::from_millis(1));
                    let now = Instant::now();
                    log.advance(now - last);
                    last = now;
                }
            }
        });
        Self {
            log,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the pump failed");
            self.log.check();
        }
    }
}

fn open(test: &str, config: SimConfig) -> Option<Bed> {
    let log = SimLog::new(1, config);
    let broker = Arc::new(log.client("test"));
    Some(Bed::new(broker, test, Pump::new(log)))
}

fn bed(test: &str) -> Option<Bed> {
    open(test, SimConfig::default())
}

contract_tests!(bed);

/// Polls bring less than there is, and members are late.
mod short_polls_and_slow_groups {
    use super::{Bed, Duration, Rates, SimConfig, open};

    fn bed(test: &str) -> Option<Bed> {
        let config = SimConfig {
            join_delay: Duration::from_millis(20),
            rates: Rates {
                short_poll: 0.5,
                ..Rates::default()
            },
            ..SimConfig::default()
        };
        open(test, config)
    }

    contract_tests!(bed);
}

/// What is written is answered later, in any order. Markers are in time here: the contract lets a
/// caller wait for those of open transactions, and nothing waits in virtual time (see `sim_log`).
mod slow_answers {
    use super::{Bed, Duration, Rates, SimConfig, open};

    fn bed(test: &str) -> Option<Bed> {
        let config = SimConfig {
            answer_delay: Duration::from_millis(20),
            rates: Rates {
                slow_answer: 0.5,
                ..Rates::default()
            },
            ..SimConfig::default()
        };
        open(test, config)
    }

    contract_tests!(bed);
}
