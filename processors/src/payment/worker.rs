//! The gateway worker: makes the calls that intents ask for and writes down how they ended.
//!
//! It stands outside the exactly-once machinery, because a gateway cannot take part in a
//! transaction of the log. An intent's offset is committed only after its result is durable, so
//! after a crash an intent may be called again and a result may come twice: idempotency keys and
//! the order's state make that harmless.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream_broker::Broker;
use tokio::runtime::Handle;
use tracing::{error, warn};

use super::{call::CallPolicy, gateway::PaymentGateway, session::Session};

/// Pause before the worker starts anew after an error; doubled each time …
const RESTART_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// How a [`GatewayWorker`] works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The application; its workers are the group `<application>-gateway`.
    pub application_id: String,
    /// Tells this process from others of the application; stable over restarts.
    pub instance_id: String,
    /// Calls under way at the same time.
    pub calls_max: usize,
    /// How calls are made.
    pub calls: CallPolicy,
    /// How often finished intents are committed.
    pub commit_every: Duration,
    /// How long a silent worker keeps its partitions.
    pub session_timeout: Duration,
}

impl WorkerConfig {
    /// The defaults: 1,024 calls at a time.
    pub fn new(application_id: impl Into<String>, instance_id: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            instance_id: instance_id.into(),
            calls_max: 1024,
            calls: CallPolicy::default(),
            commit_every: Duration::from_millis(500),
            session_timeout: Duration::from_secs(15),
        }
    }
}

/// The worker, on a thread of its own. Calls run on a tokio runtime.
#[derive(Debug)]
pub struct GatewayWorker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GatewayWorker {
    /// Starts it. It starts anew by itself after errors of the log, with growing pauses.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start<G: PaymentGateway>(
        broker: Arc<dyn Broker>,
        gateway: Arc<G>,
        runtime: Handle,
        config: WorkerConfig,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            broker,
            gateway,
            runtime,
            config,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("gateway-worker".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops taking intents, waits for the calls under way, commits, leaves the group.
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the gateway worker panicked");
        }
    }
}

impl Drop for GatewayWorker {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

/// What every session of a worker works with.
pub(super) struct Worker<G> {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) gateway: Arc<G>,
    pub(super) runtime: Handle,
    pub(super) config: WorkerConfig,
    stop: Arc<AtomicBool>,
}

impl<G: PaymentGateway> Worker<G> {
    fn run(self) {
        let mut pause = RESTART_FIRST;
        while !self.stopping() {
            let began = Instant::now();
            match Session::join(&self).and_then(|mut session| session.run()) {
                Ok(()) => return,
                Err(error) => warn!(error = %error.chain(), "gateway worker starts anew"),
            }
            if began.elapsed() > RESTART_MAX {
                pause = RESTART_FIRST;
            }
            self.rest(pause);
            pause = (pause * 2).min(RESTART_MAX);
        }
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.stopping() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
