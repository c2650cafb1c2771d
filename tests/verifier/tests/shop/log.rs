//! Writes a shop's facts to a log and, with the real sink, to tables.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use chrono_tz::Tz;
use millstream_broker::{
    Broker, Cleanup, ConsumerConfig, Event, NewTopic, OwnedRecord, Start, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_processors::{
    model::{Currency, HourOfRevenue, OrderCommand, PlaceOrder, RequestedLine},
    sql::{Tables, projections},
    topics,
};
use millstream_sinks::{Database, Sink, SinkConfig, TopicDeadLetters, caught_up};
use millstream_topology::{Headers, Topic};
use millstream_verifier::{Report, Shop};

use crate::facts::{Facts, sku};

const APPLICATION: &str = "shop";
const SINK: &str = "shop";
const DEADLINE: Duration = Duration::from_secs(60);
/// The shop's clock at the end.
const NOW_MS: i64 = 100_000_000;

/// What the application reads.
const INPUTS: [&str; 6] = [
    topics::ORDERS.name(),
    topics::PRODUCTS.name(),
    topics::INVENTORY_COMMANDS.name(),
    topics::PAYMENT_RESULTS.name(),
    topics::ORDER_EVENTS.name(),
    topics::INVENTORY_EVENTS.name(),
];

struct Writer<'a> {
    log: &'a dyn Broker,
    answers: mpsc::Receiver<millstream_broker::Result<i64>>,
    done: mpsc::Sender<millstream_broker::Result<i64>>,
    sent: usize,
}

impl Writer<'_> {
    fn send<K: 'static, V: 'static>(&mut self, topic: Topic<K, V>, key: &K, value: &V) {
        let (mut k, mut v) = (Vec::new(), Vec::new());
        topic.key().encode(key, &mut k).expect("encodes");
        topic.value().encode(value, &mut v).expect("encodes");
        self.append(topic.name(), k, v);
    }

    fn append(&mut self, topic: &str, key: Vec<u8>, value: Vec<u8>) {
        let record = OwnedRecord {
            to: TopicPartition::new(topic, 0),
            timestamp: NOW_MS,
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Headers::default(),
        };
        let done = self.done.clone();
        let told = Box::new(move |outcome| done.send(outcome).expect("somebody listens"));
        self.log
            .appender()
            .expect("appender")
            .append(record, told)
            .expect("queued");
        self.sent += 1;
    }

    fn wait(&mut self) {
        for _ in 0..std::mem::take(&mut self.sent) {
            self.answers.recv().expect("answered").expect("written");
        }
    }
}

impl Facts {
    fn write(&self, log: &dyn Broker) {
        let mut new = topics::new_topics(1);
        let changelog = topics::RESERVATION_STORE.changelog(APPLICATION);
        new.push(NewTopic {
            name: (*changelog).into(),
            partitions: 1,
            cleanup: Cleanup::Compact,
        });
        log.admin()
            .expect("admin")
            .create_topics(&new)
            .expect("created");
        let (done, answers) = mpsc::channel();
        let mut to = Writer {
            log,
            answers,
            done,
            sent: 0,
        };
        for product in &self.products {
            to.send(topics::PRODUCTS, &product.sku, &Some(product.clone()));
        }
        for order_id in &self.commands {
            to.send(topics::ORDERS, order_id, &OrderCommand::Place(request()));
        }
        for event in &self.orders {
            to.send(topics::ORDER_EVENTS, &event.order.order_id, event);
        }
        for event in &self.stock {
            to.send(topics::INVENTORY_EVENTS, &sku(), event);
        }
        let store = topics::RESERVATION_STORE;
        for (key, reservation) in &self.reservations {
            let (mut k, mut v) = (Vec::new(), Vec::new());
            store.key().encode(key, &mut k).expect("encodes");
            store.value().encode(reservation, &mut v).expect("encodes");
            to.append(&changelog, k, v);
        }
        to.send(topics::ANALYTICS_ORDERS_PER_DAY, &self.day.day, &self.day);
        let hour = HourOfRevenue {
            hour: self.revenue.hour,
            currency: self.revenue.currency,
        };
        to.send(topics::ANALYTICS_REVENUE_PER_HOUR, &hour, &self.revenue);
        to.wait();
        commit_everything(log);
    }

    async fn tabulate(&mut self, log: &Arc<dyn Broker>, tables: &Tables, url: &str) {
        let appender = log.appender().expect("appender");
        let sink = Sink::new(
            SinkConfig::new(SINK, "shop-sink", "a"),
            log.clone(),
            tables.database().clone(),
            projections(),
            Arc::new(TopicDeadLetters::new(
                appender,
                topics::DEAD_LETTERS.name(),
                1,
            )),
        );
        let running = sink.start();
        let read: Vec<Arc<str>> = projections().iter().flat_map(|it| it.topics()).collect();
        let until = Instant::now() + DEADLINE;
        while !caught_up(log.clone(), tables.database(), SINK, &read)
            .await
            .expect("looked")
        {
            assert!(Instant::now() < until, "the sink does not come to the end");
            tokio::task::yield_now().await;
        }
        running.stop(DEADLINE).await.expect("stopped");
        tables.enter(&self.ledger).await.expect("entered");
        // By a connection of its own: one knows each table's columns from the first write.
        let stranger = Database::connect(url).await.expect("a database");
        let tampering = std::mem::take(&mut self.tampering);
        stranger.write(tampering).await.expect("written");
        stranger.close().await;
    }

    /// What the verifier says about this shop.
    pub(crate) fn verify(mut self) -> Report {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a folder");
            let folder = dir.path().join("log");
            let log: Arc<dyn Broker> =
                EmbeddedBroker::open(&folder, EmbeddedConfig::default()).expect("a log");
            let url = format!("sqlite://{}", dir.path().join("shop.db").display());
            let database = Database::connect(&url).await.expect("a database");
            let tables = Tables::open(database).await.expect("tables");
            self.write(&*log);
            self.tabulate(&log, &tables, &url).await;
            let shop = Shop {
                application_id: APPLICATION.to_owned(),
                sink: SINK.to_owned(),
                deadline_ms: 1_000,
                zone: Tz::UTC,
                acknowledged: self.acknowledged.clone(),
            };
            let verdict = shop.look(&log, &tables).await.expect("looked");
            assert!(
                verdict.unread.is_empty(),
                "all was read: {:?}",
                verdict.unread
            );
            verdict.report
        })
    }
}

fn request() -> PlaceOrder {
    PlaceOrder {
        customer_id: "ada".parse().expect("legal"),
        currency: Currency::USD,
        lines: vec![RequestedLine {
            sku: sku(),
            quantity: 2,
        }],
        token: "card".into(),
        expected_total: None,
        placed_at: 3_600_000,
        fingerprint: uuid::Uuid::nil(),
    }
}

/// The application has read all of its input.
fn commit_everything(log: &dyn Broker) {
    let config = ConsumerConfig {
        group_id: APPLICATION.to_owned(),
        instance_id: "a".to_owned(),
        topics: INPUTS.iter().map(|&name| name.into()).collect(),
        session_timeout: DEADLINE,
    };
    let mut consumer = log.consumer(config).expect("consumer");
    let until = Instant::now() + DEADLINE;
    let partitions = loop {
        assert!(Instant::now() < until, "the group does not form");
        let polled = consumer.poll(Duration::from_millis(50), 1, &mut Vec::new());
        if let Event::Assigned(partitions) = polled.expect("polled") {
            break partitions;
        }
    };
    let starts: Vec<_> = partitions
        .iter()
        .map(|of| (of.clone(), Start::Earliest))
        .collect();
    consumer.assign(&starts).expect("assigned");
    let admin = log.admin().expect("admin");
    let ends = partitions.into_iter().map(|of| {
        let high = admin.watermarks(&of).expect("ends").high;
        (of, high)
    });
    let ends: Vec<_> = ends.collect();
    let mut producer = log.producer("shop-0").expect("producer");
    producer.init().expect("init");
    producer.begin().expect("begin");
    let proof = consumer.group_metadata().expect("joined");
    producer.send_offsets(&ends, &proof).expect("offsets");
    producer.commit().expect("commit");
    consumer.close(false);
}
