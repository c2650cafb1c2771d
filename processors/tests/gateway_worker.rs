//! The gateway worker over an embedded log, with the simulated gateway over books in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_broker::{
    Broker, Cleanup, Fetched, NewTopic, OwnedRecord, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_processors::{
    model::{Currency, OrderId, PaymentAction, PaymentIntent, PaymentOutcome, PaymentResult, V1},
    payment::{Books, CallPolicy, GatewayWorker, LedgerEntry, SimulatedGateway, WorkerConfig},
    topics::{DEAD_LETTERS, PAYMENT_INTENTS, PAYMENT_RESULTS},
};
use millstream_topology::{BoxError, Headers, partition_for_key};

const PARTITIONS: u32 = 2;
const DEADLINE: Duration = Duration::from_secs(30);

/// Books in memory that count transactions and fail when told to.
#[derive(Clone, Default)]
struct MemoryBooks {
    entries: Arc<Mutex<HashMap<String, LedgerEntry>>>,
    transactions: Arc<AtomicU32>,
    failures: Arc<AtomicU32>,
}

impl Books for MemoryBooks {
    async fn entries_of(&self, orders: &[OrderId]) -> Result<Vec<LedgerEntry>, BoxError> {
        let fails = |n: u32| n.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok()
        {
            return Err("the database is away".into());
        }
        let entries = self.entries.lock().expect("books");
        Ok(entries
            .values()
            .filter(|e| orders.contains(&e.order_id))
            .cloned()
            .collect())
    }

    async fn enter(&self, entries: &[LedgerEntry]) -> Result<(), BoxError> {
        self.transactions.fetch_add(1, Ordering::SeqCst);
        let mut books = self.entries.lock().expect("books");
        for entry in entries {
            books
                .entry(entry.idempotency_key())
                .or_insert_with(|| entry.clone());
        }
        Ok(())
    }
}

/// A log with the worker's topics, in a folder that goes when the test ends.
struct Bed {
    broker: Arc<dyn Broker>,
    books: MemoryBooks,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = EmbeddedBroker::open(folder.path(), EmbeddedConfig::default()).expect("a log");
        let cleanup = Cleanup::Delete { retention_ms: None };
        let topics = [
            PAYMENT_INTENTS.name(),
            PAYMENT_RESULTS.name(),
            DEAD_LETTERS.name(),
        ]
        .map(|name| NewTopic {
            name: name.into(),
            partitions: PARTITIONS,
            cleanup,
        });
        broker
            .admin()
            .expect("admin")
            .create_topics(&topics)
            .expect("topics are created");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            broker,
            books: MemoryBooks::default(),
            runtime,
            _folder: folder,
        }
    }

    fn worker(&self) -> GatewayWorker {
        let gateway = {
            let _context = self.runtime.enter();
            Arc::new(SimulatedGateway::open(self.books.clone()))
        };
        let config = WorkerConfig {
            calls: CallPolicy {
                timeout: Duration::from_millis(200),
                tries_max: 3,
                pause: Duration::from_millis(1),
            },
            commit_every: Duration::from_millis(20),
            ..WorkerConfig::new("shop", "test")
        };
        let runtime = self.runtime.handle().clone();
        GatewayWorker::start(self.broker.clone(), gateway, runtime, config).expect("a thread")
    }

    fn ask(&self, order: u128, action: PaymentAction, token: &str) {
        let intent = PaymentIntent {
            action,
            v: V1,
            attempt: 1,
            amount: 300,
            currency: Currency::USD,
            token: token.into(),
            deadline_ms: 0,
        };
        let value = serde_json::to_vec(&intent).expect("encodes");
        self.append(OrderId(uuid::Uuid::from_u128(order)).to_string(), value);
    }

    fn append(&self, key: String, value: Vec<u8>) {
        let partition = partition_for_key(key.as_bytes(), PARTITIONS);
        let record = OwnedRecord {
            to: TopicPartition::new(PAYMENT_INTENTS.name(), partition),
            timestamp: 7,
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Headers::default(),
        };
        let durable = Box::new(|result: millstream_broker::Result<i64>| {
            result.expect("intents are durable");
        });
        self.broker
            .appender()
            .expect("appender")
            .append(record, durable)
            .expect("room");
    }

    /// Reads a topic from its beginning until there are that many records.
    fn read(&self, topic: &str, count: usize) -> Vec<Fetched> {
        let mut reader = self.broker.reader().expect("a reader");
        let places: Vec<(TopicPartition, Start)> = (0..PARTITIONS as i32)
            .map(|partition| (TopicPartition::new(topic, partition), Start::Earliest))
            .collect();
        reader.assign(&places).expect("assigned");
        let mut found = Vec::new();
        let until = Instant::now() + DEADLINE;
        while found.len() < count {
            assert!(
                Instant::now() < until,
                "{} of {count} records of {topic}",
                found.len()
            );
            reader
                .poll(Duration::from_millis(20), 1000, &mut found)
                .expect("polled");
        }
        found
    }

    fn results(&self, count: usize) -> BTreeMap<u128, Vec<PaymentResult>> {
        let mut by_order: BTreeMap<u128, Vec<PaymentResult>> = BTreeMap::new();
        for record in self.read(PAYMENT_RESULTS.name(), count) {
            let order: OrderId = PAYMENT_RESULTS
                .key()
                .decode(record.key.as_deref())
                .expect("an order");
            let result = PAYMENT_RESULTS
                .value()
                .decode(record.value.as_deref())
                .expect("a result");
            by_order.entry(order.0.as_u128()).or_default().push(result);
        }
        by_order
    }

    fn wait_for_commit(&self, records: i64) {
        let admin = self.broker.admin().expect("admin");
        let places: Vec<TopicPartition> = (0..PARTITIONS as i32)
            .map(|partition| TopicPartition::new(PAYMENT_INTENTS.name(), partition))
            .collect();
        let until = Instant::now() + DEADLINE;
        loop {
            let committed = admin.committed("shop-gateway", &places).expect("offsets");
            if committed.iter().flatten().sum::<i64>() >= records {
                return;
            }
            assert!(
                Instant::now() < until,
                "intents are committed: {committed:?}"
            );
            std::thread::yield_now();
        }
    }
}

#[test]
fn each_token_gets_its_result() {
    let bed = Bed::new();
    let tokens = [
        ("tok_approve", PaymentOutcome::Authorised),
        ("tok_decline", PaymentOutcome::Declined),
        ("tok_timeout", PaymentOutcome::Unknown),
        ("tok_late", PaymentOutcome::Unknown),
        ("tok_unknown", PaymentOutcome::Unknown),
        ("tok_flaky", PaymentOutcome::Authorised),
    ];
    for (n, (token, _)) in tokens.iter().enumerate() {
        bed.ask(n as u128, PaymentAction::Authorise, token);
    }
    let worker = bed.worker();
    let results = bed.results(tokens.len());
    for (n, (token, outcome)) in tokens.iter().enumerate() {
        let found: Vec<PaymentOutcome> = results[&(n as u128)]
            .iter()
            .map(|result| result.outcome)
            .collect();
        assert_eq!(found, [*outcome], "{token}");
    }
    bed.ask(4, PaymentAction::Query, "tok_unknown");
    let results = bed.results(tokens.len() + 1);
    assert_eq!(results[&4][1].outcome, PaymentOutcome::Authorised);
    assert!(results[&4][1].gateway_ref.is_some());
    worker.stop();
}

#[test]
fn a_restarted_worker_goes_on_where_it_stopped() {
    let bed = Bed::new();
    (0..50).for_each(|n| bed.ask(n, PaymentAction::Authorise, "tok_approve"));
    let worker = bed.worker();
    bed.results(50);
    bed.wait_for_commit(50);
    worker.stop();
    (0..50).for_each(|n| bed.ask(n, PaymentAction::Capture, "tok_approve"));
    let worker = bed.worker();
    let results = bed.results(100);
    worker.stop();
    for (order, results) in results {
        let outcomes: Vec<PaymentOutcome> = results.iter().map(|r| r.outcome).collect();
        let expect = [PaymentOutcome::Authorised, PaymentOutcome::Captured];
        assert_eq!(outcomes, expect, "order {order}");
    }
}

#[test]
fn a_repeated_intent_moves_money_once_and_gets_the_same_answer() {
    let bed = Bed::new();
    bed.ask(1, PaymentAction::Authorise, "tok_approve");
    let worker = bed.worker();
    bed.results(1);
    (0..20).for_each(|_| bed.ask(1, PaymentAction::Capture, "tok_approve"));
    let results = bed.results(21);
    worker.stop();
    assert!(
        results[&1][1..]
            .iter()
            .all(|r| r.outcome == PaymentOutcome::Captured)
    );
    assert_eq!(bed.books.entries.lock().expect("books").len(), 2);
}

#[test]
fn calls_that_come_together_are_entered_together() {
    let bed = Bed::new();
    const CALLS: u128 = 2_000;
    (0..CALLS).for_each(|n| bed.ask(n, PaymentAction::Authorise, "tok_approve"));
    let worker = bed.worker();
    let results = bed.results(CALLS as usize);
    worker.stop();
    assert_eq!(results.len() as u128, CALLS);
    assert!(
        results
            .values()
            .all(|r| r[0].outcome == PaymentOutcome::Authorised)
    );
    let transactions = bed.books.transactions.load(Ordering::SeqCst);
    assert!(
        transactions < CALLS as u32 / 4,
        "{transactions} transactions for {CALLS} calls"
    );
}

#[test]
fn books_out_of_reach_are_tried_again_and_then_nobody_knows() {
    let bed = Bed::new();
    bed.books.failures.store(2, Ordering::SeqCst);
    bed.ask(1, PaymentAction::Authorise, "tok_approve");
    let worker = bed.worker();
    assert_eq!(bed.results(1)[&1][0].outcome, PaymentOutcome::Authorised);
    bed.books.failures.store(3, Ordering::SeqCst);
    bed.ask(2, PaymentAction::Authorise, "tok_approve");
    assert_eq!(bed.results(2)[&2][0].outcome, PaymentOutcome::Unknown);
    worker.stop();
}

#[test]
fn an_intent_that_does_not_decode_is_set_aside() {
    let bed = Bed::new();
    bed.append("no uuid".into(), b"{}".to_vec());
    let order = OrderId(uuid::Uuid::from_u128(9)).to_string();
    bed.append(order.clone(), br#"{"type":"tip","v":1}"#.to_vec());
    bed.ask(1, PaymentAction::Authorise, "tok_approve");
    let worker = bed.worker();
    let letters = bed.read(DEAD_LETTERS.name(), 2);
    assert_eq!(bed.results(1)[&1][0].outcome, PaymentOutcome::Authorised);
    bed.wait_for_commit(3);
    worker.stop();
    for letter in letters {
        let header = |name| letter.headers.last(name).expect("the header");
        assert_eq!(
            header("__streams.errors.topic"),
            PAYMENT_INTENTS.name().as_bytes()
        );
        assert!(!header("__streams.errors.message").is_empty());
        assert!(letter.value.is_some());
    }
}
