//! `SimulatedGateway`: a payment service provider for tests, demonstrations and development.
//!
//! How it behaves is told by the token, see [`rules`](super::rules). Its books are durable and
//! shared by all processes of a shop. Calls that arrive together are entered together: one task
//! takes what waits, reads the books of all orders concerned at once, decides, and writes all
//! entries in one transaction, so that thousands of calls a second are a few dozen transactions.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use millstream_topology::BoxError;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{
    call::now_ms,
    gateway::{Answer, CallFailed, PaymentGateway},
    rules::{FLAKY_FAILURES, LedgerEntry, TOKEN_FLAKY, Verdict, decide},
};
use crate::model::{OrderId, PaymentAction, PaymentIntent};

/// The most calls that wait for the books; more callers wait outside.
const QUEUE_MAX: usize = 4096;
/// The most calls that are entered together.
const BATCH_MAX: usize = 500;
/// How long the first call of a batch waits for others: a short answer later, many transactions
/// fewer.
const LINGER: Duration = Duration::from_millis(4);
/// The most orders whose failures are remembered; beyond that all are forgotten and fail anew.
const FLAKY_ORDERS_MAX: usize = 10_000;

/// The books of a [`SimulatedGateway`].
pub trait Books: Send + Sync + 'static {
    /// The entries of these orders, in any order.
    fn entries_of(
        &self,
        orders: &[OrderId],
    ) -> impl Future<Output = Result<Vec<LedgerEntry>, BoxError>> + Send;

    /// Adds entries, all or none. An entry with the order and the action of an older one changes
    /// nothing.
    fn enter(&self, entries: &[LedgerEntry]) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// A gateway that keeps books and plays tricks.
#[derive(Debug)]
pub struct SimulatedGateway {
    queue: mpsc::Sender<Request>,
    failures: Mutex<HashMap<OrderId, u32>>,
}

#[derive(Debug)]
struct Request {
    order_id: OrderId,
    intent: PaymentIntent,
    verdict: oneshot::Sender<Result<Verdict, CallFailed>>,
}

/// Why a call of the simulated gateway failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the gateway stumbles over this token")]
    Flaky,
    #[error("the call does not fit the gateway's books")]
    Misfit,
    #[error("the gateway is closed")]
    Closed,
    #[error("the gateway's books are out of reach: {0}")]
    Books(String),
}

impl From<Failure> for CallFailed {
    fn from(failure: Failure) -> Self {
        Self(failure.into())
    }
}

impl SimulatedGateway {
    /// Opens a gateway over these books; what keeps them runs as a task until the gateway is
    /// dropped. Must be called within a tokio runtime.
    pub fn open(books: impl Books) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(keep_books(books, requests));
        Self {
            queue,
            failures: Mutex::default(),
        }
    }

    /// True when this call is to fail although nothing is wrong.
    fn stumbles(&self, order_id: OrderId, intent: &PaymentIntent) -> bool {
        if &*intent.token != TOKEN_FLAKY || intent.action != PaymentAction::Authorise {
            return false;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= FLAKY_ORDERS_MAX {
            failures.clear();
        }
        let failed = failures.entry(order_id).or_default();
        if *failed < FLAKY_FAILURES {
            *failed += 1;
            return true;
        }
        failures.remove(&order_id);
        false
    }
}

impl PaymentGateway for SimulatedGateway {
    async fn call(&self, order_id: OrderId, intent: PaymentIntent) -> Result<Answer, CallFailed> {
        if self.stumbles(order_id, &intent) {
            return Err(Failure::Flaky.into());
        }
        let (verdict, decided) = oneshot::channel();
        let request = Request {
            order_id,
            intent,
            verdict,
        };
        self.queue
            .send(request)
            .await
            .map_err(|_| Failure::Closed)?;
        match decided.await.map_err(|_| Failure::Closed)?? {
            Verdict::Answer(answer) => Ok(answer),
            // The caller stops waiting when it has had enough.
            Verdict::Silence => std::future::pending().await,
            Verdict::Misfit => Err(Failure::Misfit.into()),
        }
    }
}

async fn keep_books(books: impl Books, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while let Some(first) = requests.recv().await {
        batch.push(first);
        tokio::time::sleep(LINGER).await;
        while batch.len() < BATCH_MAX
            && let Ok(request) = requests.try_recv()
        {
            batch.push(request);
        }
        match decide_together(&books, &batch).await {
            Ok(verdicts) => {
                for (request, verdict) in batch.drain(..).zip(verdicts) {
                    // A caller that has gone hears of it when it asks again.
                    let _gone = request.verdict.send(Ok(verdict));
                }
            }
            Err(error) => {
                warn!(error = %error, calls = batch.len(), "the gateway's books are out of reach");
                for request in batch.drain(..) {
                    let failed = Failure::Books(error.to_string());
                    let _gone = request.verdict.send(Err(failed.into()));
                }
            }
        }
    }
}

/// Decides about all requests in turn. Nothing is answered before it is in the books.
async fn decide_together(
    books: &impl Books,
    requests: &[Request],
) -> Result<Vec<Verdict>, BoxError> {
    let mut orders: Vec<OrderId> = requests.iter().map(|r| r.order_id).collect();
    orders.sort_unstable();
    orders.dedup();
    let mut known: HashMap<OrderId, Vec<LedgerEntry>> = HashMap::new();
    for entry in books.entries_of(&orders).await? {
        known.entry(entry.order_id).or_default().push(entry);
    }
    let now = now_ms();
    let mut new = Vec::new();
    let mut verdicts = Vec::with_capacity(requests.len());
    for request in requests {
        let books = known.entry(request.order_id).or_default();
        let (verdict, entry) = decide(books, request.order_id, &request.intent, now);
        books.extend(entry.clone());
        new.extend(entry);
        verdicts.push(verdict);
    }
    if !new.is_empty() {
        books.enter(&new).await?;
    }
    Ok(verdicts)
}
