//! The shop with threads, clock and gateway, over an embedded log that is opened twice.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::{
    Broker, Fetched, OwnedRecord, Reader, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_processors::{
    audit::{Audit, Expect},
    model::{
        CancelReason, Currency, CustomerId, InventoryCommand, Order, OrderCommand, OrderId,
        PlaceOrder, Product, RequestedLine, Sku, Stock,
    },
    order,
    payment::{CallPolicy, GatewayWorker, LedgerEntry, SimulatedGateway, WorkerConfig},
    sql::Tables,
    topics::{INVENTORY_COMMANDS, INVENTORY_EVENTS, ORDER_EVENTS, ORDERS, PRODUCTS, new_topics},
    topology::{ShopPolicy, shop},
};
use millstream_runtime::{Application, Config};
use millstream_sinks::Database;
use millstream_topology::{Headers, Topic, partition_for_key};

const PARTITIONS: u32 = 4;
const PRODUCTS_COUNT: usize = 20;
const PIECES: i64 = 60;
const PATIENCE: Duration = Duration::from_secs(60);

fn sku(n: usize) -> Sku {
    format!("sku-{n}").parse().expect("legal")
}

/// The processes of the shop, and what a test knows of it.
struct Shop {
    broker: Arc<dyn Broker>,
    application: Application,
    worker: GatewayWorker,
    books: Tables,
}

impl Shop {
    async fn start(folder: &Path) -> Self {
        let log = folder.join("log");
        let broker: Arc<dyn Broker> =
            EmbeddedBroker::open(&log, EmbeddedConfig::default()).expect("a log");
        let admin = broker.admin().expect("admin");
        admin
            .create_topics(&new_topics(PARTITIONS))
            .expect("topics are created");
        let url = format!("sqlite://{}", folder.join("shop.db").display());
        let database = Database::connect(&url).await.expect("a database");
        let books = Tables::open(database).await.expect("tables");
        let gateway = Arc::new(SimulatedGateway::open(books.clone()));
        let config = WorkerConfig {
            calls: CallPolicy {
                timeout: Duration::from_millis(300),
                ..CallPolicy::default()
            },
            ..WorkerConfig::new("shop", "0")
        };
        let runtime = tokio::runtime::Handle::current();
        let worker =
            GatewayWorker::start(broker.clone(), gateway, runtime, config).expect("a thread");
        let policy = ShopPolicy {
            order: order::Policy {
                deadline: Duration::from_secs(3),
                retry_first: Duration::from_millis(100),
                retry_max: Duration::from_millis(500),
                ..order::Policy::default()
            },
            ..ShopPolicy::default()
        };
        let topology = shop(&policy).expect("a topology");
        let config = Config {
            threads: 2,
            ..Config::new("shop", folder.join("state"))
        };
        let application = Application::start(&topology, broker.clone(), config).expect("it starts");
        Self {
            broker,
            application,
            worker,
            books,
        }
    }

    fn stop(self) {
        self.worker.stop();
        self.application.close().expect("it stops");
    }

    fn send<K: 'static, V: 'static>(&self, topic: Topic<K, V>, key: &K, value: &V) {
        let (mut k, mut v) = (Vec::new(), Vec::new());
        topic.key().encode(key, &mut k).expect("encodes");
        topic.value().encode(value, &mut v).expect("encodes");
        let record = OwnedRecord {
            to: TopicPartition::new(topic.name(), partition_for_key(&k, PARTITIONS)),
            timestamp: 1,
            key: Some(k.into()),
            value: Some(v.into()),
            headers: Headers::default(),
        };
        let durable = Box::new(|result: millstream_broker::Result<i64>| {
            result.expect("it is durable");
        });
        self.broker
            .appender()
            .expect("appender")
            .append(record, durable)
            .expect("room");
    }

    fn reader<K, V>(&self, topic: Topic<K, V>) -> Box<dyn Reader> {
        let mut reader = self.broker.reader().expect("a reader");
        let places: Vec<(TopicPartition, Start)> = (0..PARTITIONS)
            .map(|p| (TopicPartition::new(topic.name(), p as i32), Start::Earliest))
            .collect();
        reader.assign(&places).expect("assigned");
        reader
    }
}

/// The newest value of each key, fed from a topic.
struct Newest<K: 'static, V: 'static> {
    topic: Topic<K, V>,
    reader: Box<dyn Reader>,
    values: BTreeMap<K, V>,
}

impl<K: Ord, V> Newest<K, V> {
    fn of(shop: &Shop, topic: Topic<K, V>) -> Self {
        Self {
            topic,
            reader: shop.reader(topic),
            values: BTreeMap::new(),
        }
    }

    /// Reads until the values are as wanted.
    #[track_caller]
    fn wait(&mut self, what: &str, wanted: impl Fn(&BTreeMap<K, V>) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !wanted(&self.values) {
            assert!(Instant::now() < until, "{what}");
            self.read_on();
        }
    }

    /// Takes what comes within a moment.
    fn read_on(&mut self) {
        let mut fetched: Vec<Fetched> = Vec::new();
        self.reader
            .poll(Duration::from_millis(20), 1000, &mut fetched)
            .expect("polled");
        for record in fetched {
            let key = self.topic.key().decode(record.key.as_deref());
            let value = self.topic.value().decode(record.value.as_deref());
            self.values
                .insert(key.expect("a key"), value.expect("a value"));
        }
    }
}

fn stock_up(shop: &Shop) {
    for n in 0..PRODUCTS_COUNT {
        let product = Product {
            sku: sku(n),
            name: format!("Product {n}").into(),
            category: None,
            price: 100 + n as i64,
            currency: Currency::USD,
            description: None,
        };
        shop.send(PRODUCTS, &sku(n), &Some(product));
        let (adjustment_id, reason) = ("first".into(), "".into());
        let command = InventoryCommand::Set {
            adjustment_id,
            on_hand: PIECES,
            reason,
        };
        shop.send(INVENTORY_COMMANDS, &sku(n), &command);
    }
    let counted = |stock: &BTreeMap<_, _>| stock.len() == PRODUCTS_COUNT;
    Newest::of(shop, INVENTORY_EVENTS).wait("stock is counted", counted);
}

fn place(shop: &Shop, from: usize, to: usize) -> Vec<OrderId> {
    const TOKENS: [&str; 8] = [
        "tok_approve",
        "tok_approve",
        "tok_decline",
        "tok_approve",
        "tok_late",
        "tok_unknown",
        "tok_flaky",
        "tok_timeout",
    ];
    let customer_id: CustomerId = "ada".parse().expect("legal");
    (from..to)
        .map(|n| {
            let order_id = OrderId::derived(&customer_id, &n.to_string());
            let line = |i: usize| RequestedLine {
                sku: sku((n * 7 + i * 3) % PRODUCTS_COUNT),
                quantity: 1 + ((n + i) % 2) as u32,
            };
            let place = PlaceOrder {
                customer_id: customer_id.clone(),
                currency: Currency::USD,
                lines: (0..1 + n % 5).map(line).collect(),
                token: TOKENS[n % TOKENS.len()].into(),
                expected_total: None,
                placed_at: 1_483_272_000_000 + n as i64 * 60_000,
                fingerprint: uuid::Uuid::nil(),
            };
            shop.send(ORDERS, &order_id, &OrderCommand::Place(place));
            order_id
        })
        .collect()
}

/// True when nothing more is going to happen to the order but questions that are never answered.
fn is_settled(order: &Order) -> bool {
    use millstream_processors::model::PaymentStatus as P;
    let paid = order
        .payment
        .as_ref()
        .is_none_or(|payment| match payment.status {
            P::Captured | P::Voided | P::Declined | P::Refunded => true,
            P::Unknown => order.reason == Some(CancelReason::PaymentTimeout),
            P::Requested | P::Authorised => false,
        });
    order.status.is_final() && paid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_a_stop_of_everything_and_leave_the_shop_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let shop = Shop::start(folder.path()).await;
    stock_up(&shop);
    let mut placed = place(&shop, 0, 150);
    // Stop in the middle of the work, not at its end.
    Newest::of(&shop, ORDER_EVENTS).wait("orders are taken up", |orders| orders.len() > 20);
    shop.stop();

    let shop = Shop::start(folder.path()).await;
    placed.extend(place(&shop, 150, 300));
    let mut orders = Newest::of(&shop, ORDER_EVENTS);
    let voided = |entries: &[LedgerEntry]| {
        entries
            .iter()
            .filter(|e| e.action.as_str() == "void")
            .count()
    };
    let mut ledger = Vec::new();
    let until = Instant::now() + PATIENCE;
    loop {
        orders.wait("orders are final", |orders| {
            orders.len() == 300 && orders.values().all(|event| is_settled(&event.order))
        });
        ledger.clear();
        shop.books
            .for_each_ledger_entry(|entry| ledger.push(entry))
            .await
            .expect("books");
        let late = ledger.iter().filter(|e| e.visible_at > e.at).count();
        // Late authorisations are found by questions, and voided then.
        if voided(&ledger) >= late {
            break;
        }
        assert!(Instant::now() < until, "late authorisations are voided");
        orders.read_on();
    }
    let mut audit = Audit::new(Expect::settled());
    placed.iter().for_each(|id| audit.accepted(*id));
    orders
        .values
        .values()
        .for_each(|event| audit.order(&event.order));
    let sold: i64 = orders
        .values
        .values()
        .filter(|event| event.order.status.as_str() == "CONFIRMED")
        .flat_map(|event| &event.order.lines)
        .map(|line| i64::from(line.quantity))
        .sum();
    assert!(sold > 0, "some orders are confirmed");
    let mut stock = Newest::of(&shop, INVENTORY_EVENTS);
    stock.wait("stock has come to rest", |stock| {
        let sums = stock.values().fold(Stock::default(), |sum, event| Stock {
            reserved: sum.reserved + event.stock.reserved,
            sold: sum.sold + event.stock.sold,
            ..sum
        });
        (sums.reserved, sums.sold) == (0, sold)
    });
    for (sku, event) in &stock.values {
        audit.received(sku, PIECES);
        audit.stock(sku, &event.stock);
    }
    audit.tells_ledger();
    ledger.iter().for_each(|entry| audit.ledger(entry));
    let report = audit.finish();
    assert!(
        report.holds(),
        "{:#?}",
        report.violations().collect::<Vec<_>>()
    );
    shop.stop();
}
