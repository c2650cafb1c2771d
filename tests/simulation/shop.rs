//! The whole shop in the simulated log, with a gateway that is as unreliable as the rest.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Appender, Broker, Fetched, OwnedRecord, Reader, Start, TopicPartition,
    sim::{SimClient, SimConfig, SimLog},
};
use millstream_processors::{
    inventory,
    model::{
        Currency, CustomerId, InventoryCommand, OrderCommand, OrderId, PaymentOutcome,
        PaymentResult, PlaceOrder, Product, RequestedLine, Sku, V1,
    },
    order,
    payment::{
        LedgerEntry,
        rules::{Verdict, decide},
    },
    topics::{
        self, DEAD_LETTERS, INVENTORY_COMMANDS, ORDER_EVENTS, ORDERS, PAYMENT_INTENTS,
        PAYMENT_RESULTS, PRODUCTS,
    },
    topology::{ShopPolicy, shop},
};
use millstream_runtime::{ErrorPolicy, Policies};
use millstream_topology::{Headers, Topic, partition_for_key};
use millstream_verifier::Shop;

use crate::{
    chance::Chance,
    checks::come_to_rest,
    seeds::each_seed,
    small,
    tally::{PROMOTIONS, Tally},
    world::{APP, Actor, Feed, Input, Storm, World},
};

const SEEDS: u64 = 2_000;
const PARTITIONS: u32 = 2;
const BEGIN_MS: i64 = 1_700_000_000_000;
const SKUS: [&str; 4] = ["tea", "milk", "bread", "salt"];
/// Pieces of each product: fewer than are ordered of some.
const PIECES: i64 = 14;
/// The first records set the shop up.
const SETTING_UP: u64 = 2 * SKUS.len() as u64;
const TOKENS: [&str; 8] = [
    "tok_approve",
    "tok_approve",
    "tok_approve",
    "tok_decline",
    "tok_timeout",
    "tok_late",
    "tok_unknown",
    "tok_flaky",
];
const DEADLINE: Duration = Duration::from_secs(20);
/// Longer than anything that an order waits for when nothing goes wrong.
const QUIET: Duration = Duration::from_secs(15);

fn policy() -> ShopPolicy {
    ShopPolicy {
        order: order::Policy {
            deadline: DEADLINE,
            retry_max: Duration::from_secs(4),
            query_for: Duration::from_secs(10),
            ..order::Policy::default()
        },
        // So short that orders are asked while they wait, and release twice.
        inventory: inventory::Policy {
            held_for: Duration::from_secs(5),
            ask_again: Duration::from_secs(2),
            ..inventory::Policy::default()
        },
        ..ShopPolicy::default()
    }
}

fn feed() -> Feed {
    let compacted = [PRODUCTS.name(), topics::ANALYTICS_ORDERS_PER_DAY.name()];
    let all = topics::ALL.iter();
    let topics = all.map(|topic| (topic.name, compacted.contains(&topic.name)));
    Feed {
        partitions: PARTITIONS,
        topology: shop(&policy()).expect("builds"),
        topics: topics.collect(),
        policies: Policies {
            decode: ErrorPolicy::DeadLetter,
            process: ErrorPolicy::DeadLetter,
            produce: ErrorPolicy::DeadLetter,
            dead_letter_topic: Some(DEAD_LETTERS.name()),
        },
        first: 0,
        purges: false,
        record,
    }
}

fn input<K: 'static, V: 'static>(topic: Topic<K, V>, key: &K, value: &V, timestamp: i64) -> Input {
    let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
    topic.key().encode(key, &mut key_bytes).expect("encodes");
    topic
        .value()
        .encode(value, &mut value_bytes)
        .expect("encodes");
    Input {
        topic: topic.name(),
        key: String::from_utf8(key_bytes).expect("keys are text"),
        value: Some(value_bytes.into()),
        timestamp,
    }
}

fn sku(at: u64) -> Sku {
    SKUS[at as usize % SKUS.len()].parse().expect("legal")
}

/// First the catalogue and the stock, then orders: some twice, some cancelled later.
fn record(chance: &mut Chance, n: u64) -> Input {
    let now = BEGIN_MS + n as i64 * 20;
    if n < SKUS.len() as u64 {
        let product = Product {
            sku: sku(n),
            name: SKUS[n as usize].into(),
            category: None,
            price: 100 + n as i64,
            currency: Currency::USD,
            description: None,
        };
        return input(PRODUCTS, &sku(n), &Some(product), now);
    }
    if n < SETTING_UP || chance.hits(30) {
        let command = InventoryCommand::Adjust {
            adjustment_id: format!("a{n}").into(),
            delta: PIECES,
            reason: "delivery".into(),
        };
        return input(INVENTORY_COMMANDS, &sku(n), &command, now);
    }
    // Every now and then an order that is there already.
    let number = match chance.hits(120) {
        true => SETTING_UP + chance.below(n - SETTING_UP + 1),
        false => n,
    };
    let customer_id: CustomerId = format!("c{}", number % 5).parse().expect("legal");
    let order_id = OrderId::derived(&customer_id, &number.to_string());
    if number != n && chance.hits(600) {
        let cancel = OrderCommand::Cancel {
            restock: chance.hits(500),
        };
        return input(ORDERS, &order_id, &cancel, now);
    }
    let first = chance.below(SKUS.len() as u64);
    let line = |at: u64, quantity| RequestedLine {
        sku: sku(at),
        quantity,
    };
    let mut lines = vec![line(first, 1 + chance.below(3) as u32)];
    if chance.hits(500) {
        lines.push(line(first + 1, 1 + chance.below(2) as u32));
    }
    let place = PlaceOrder {
        customer_id,
        currency: Currency::USD,
        lines,
        token: TOKENS[chance.below(TOKENS.len() as u64) as usize].into(),
        expected_total: None,
        placed_at: now,
        fingerprint: uuid::Uuid::nil(),
    };
    input(ORDERS, &order_id, &OrderCommand::Place(place), now)
}

/// The payment gateway and the worker before it, which reads intents at least once: its books
/// outlive it, its place among the intents does not quite.
struct Gateway {
    books: Arc<Mutex<Vec<LedgerEntry>>>,
    running: Option<Running>,
    /// Where each partition is read from after a crash.
    safe: Vec<i64>,
    /// How many events and intents there were when this was last looked at, and since when.
    seen: Cell<(usize, Duration)>,
}

struct Running {
    client: SimClient,
    reader: Box<dyn Reader>,
    appender: Arc<dyn Appender>,
    read: Vec<i64>,
    /// Results that are not written yet, and whether one could not be.
    results: Arc<Mutex<(u64, bool)>>,
}

impl Gateway {
    fn start(&self, log: &SimLog) -> millstream_broker::Result<Running> {
        let client = log.client("gateway");
        let mut reader = client.reader()?;
        let starts = self.safe.iter().enumerate().map(|(p, at)| {
            let partition = TopicPartition::new(PAYMENT_INTENTS.name(), p as i32);
            (partition, Start::Offset(*at))
        });
        reader.assign(&starts.collect::<Vec<_>>())?;
        Ok(Running {
            appender: client.appender()?,
            client,
            reader,
            read: self.safe.clone(),
            results: Arc::default(),
        })
    }
}

/// Calls the gateway, and writes down how it ended; sometimes twice.
fn call(
    books: &Mutex<Vec<LedgerEntry>>,
    running: &mut Running,
    record: &Fetched,
    chance: &mut Chance,
) -> millstream_broker::Result<()> {
    let order_id = PAYMENT_INTENTS
        .key()
        .decode(record.key.as_deref())
        .expect("decodes");
    let intent = PAYMENT_INTENTS
        .value()
        .decode(record.value.as_deref())
        .expect("decodes");
    let now = running.client.now_ms();
    let outcome = {
        let mut books = books.lock().expect("no panic");
        let known: Vec<LedgerEntry> = books
            .iter()
            .filter(|e| e.order_id == order_id)
            .cloned()
            .collect();
        let (verdict, entry) = decide(&known, order_id, &intent, now);
        books.extend(entry);
        match verdict {
            Verdict::Answer(answer) => (answer.outcome, answer.gateway_ref),
            Verdict::Silence => (PaymentOutcome::Unknown, None),
            Verdict::Misfit => panic!("the shop asks for what does not fit: {intent:?}"),
        }
    };
    let result = PaymentResult {
        outcome: outcome.0,
        v: V1,
        action: intent.action,
        attempt: intent.attempt,
        amount: intent.amount,
        gateway_ref: outcome.1,
    };
    let Input { key, value, .. } = input(PAYMENT_RESULTS, &order_id, &result, now);
    for _ in 0..=u8::from(chance.hits(100)) {
        let record = OwnedRecord {
            to: TopicPartition::new(
                PAYMENT_RESULTS.name(),
                partition_for_key(key.as_bytes(), PARTITIONS),
            ),
            timestamp: now,
            key: Some(Bytes::from(key.clone())),
            value: value.clone(),
            headers: Headers::default(),
        };
        running.results.lock().expect("no panic").0 += 1;
        let results = running.results.clone();
        let done = move |written: millstream_broker::Result<i64>| {
            let mut results = results.lock().expect("no panic");
            results.0 -= 1;
            results.1 |= written.is_err();
        };
        running.appender.append(record, Box::new(done))?;
    }
    Ok(())
}

impl Actor for Gateway {
    fn step(&mut self, log: &SimLog, chance: &mut Chance) {
        if chance.hits(500) {
            return;
        }
        let Some(running) = &mut self.running else {
            self.running = self.start(log).ok();
            return;
        };
        let mut fetched = Vec::new();
        let polled = running.reader.poll(Duration::ZERO, 20, &mut fetched);
        let called = polled.and_then(|()| {
            for record in &fetched {
                call(&self.books, running, record, chance)?;
                running.read[record.partition.0 as usize] = record.offset + 1;
            }
            Ok(())
        });
        let (waiting, lost) = *running.results.lock().expect("no panic");
        let read = running.read.clone();
        let failed = called.is_err() || lost || !running.client.lives() || chance.hits(5);
        match failed {
            true => self.running = None,
            false if waiting == 0 => self.safe = read,
            false => {}
        }
    }

    fn unrest(&self, world: &World<'_>) -> Option<String> {
        let intents = world.records(PAYMENT_INTENTS.name());
        let ends = intents
            .iter()
            .map(|records| records.last().map_or(0, |r| r.offset + 1));
        if ends.zip(&self.safe).any(|(end, safe)| end > *safe) {
            return Some("the gateway has intents to read".to_owned());
        }
        // The last word on a payment comes when the gateway is not asked any more.
        let mut orders = BTreeMap::new();
        let events = world.records(ORDER_EVENTS.name());
        for record in events.iter().flatten() {
            let value = record.record.value.as_deref();
            let event = ORDER_EVENTS.value().decode(value).expect("decodes");
            orders.insert(event.order.order_id, event.order);
        }
        let moved: usize = intents.iter().chain(&events).map(Vec::len).sum();
        let (before, since) = self.seen.get();
        if moved != before {
            self.seen.set((moved, world.log.now()));
        }
        if moved != before || world.log.now() - since < QUIET {
            return Some("orders have moved lately".to_owned());
        }
        let open = orders.into_values().find(|order| !order.status.is_final());
        open.map(|order| format!("an order is not final: {order:?}"))
    }
}

/// As of small applications, but shorter and in longer steps.
fn storm(seed: u64) -> Storm {
    let small = small::storm(seed);
    Storm {
        config: SimConfig {
            // Deadlines go by the wall clock.
            clock_jump: Duration::from_secs(5),
            ..small.config
        },
        records: 60,
        turns: 250,
        turn_ms_max: 150,
        standbys: usize::from(seed % 3 == 1),
        ..small
    }
}

/// Tells the log that all intents were read, as the gateway's worker does.
fn gateway_is_done(world: &World<'_>, client: &SimClient) {
    let ends = world
        .records(PAYMENT_INTENTS.name())
        .into_iter()
        .enumerate();
    let ends = ends.map(|(p, records)| {
        let partition = TopicPartition::new(PAYMENT_INTENTS.name(), p as i32);
        (partition, records.last().map_or(0, |r| r.offset + 1))
    });
    let ends: Vec<_> = ends.collect();
    let admin = client.admin().expect("nothing goes wrong any more");
    let group = format!("{APP}-gateway");
    admin
        .set_committed(&group, &ends)
        .expect("the group has no members");
}

fn judge(world: &World<'_>, books: &[LedgerEntry]) -> Result<(), String> {
    let shop = Shop {
        application_id: APP.to_owned(),
        sink: String::new(),
        deadline_ms: DEADLINE.as_millis() as i64,
        zone: chrono_tz::Tz::UTC,
        acknowledged: Vec::new(),
    };
    let verifier = world.log.client("verifier");
    gateway_is_done(world, &verifier);
    let verdict = shop.look_at_log(&verifier, books);
    let report = verdict.map_err(|error| error.to_string())?.report;
    match report.broken().next() {
        Some(row) => Err(format!("{}: {:?}", row.promise, row.examples.first())),
        None => Ok(()),
    }
}

fn run(feed: &Feed, seed: u64, tally: &Tally) -> Result<(), String> {
    let books = Arc::new(Mutex::new(Vec::new()));
    let gateway = Gateway {
        books: books.clone(),
        running: None,
        safe: vec![0; PARTITIONS as usize],
        seen: Cell::default(),
    };
    let mut world = World::new(seed, feed, &storm(seed)).with_actor(Box::new(gateway));
    world.storm();
    come_to_rest(&mut world, |world| {
        judge(world, &books.lock().expect("no panic"))
    })?;
    tally.add(&world);
    Ok(())
}

#[test]
fn the_shop_keeps_its_promises() {
    let (feed, tally) = (feed(), Tally::default());
    each_seed("the shop", SEEDS, |seed| run(&feed, seed, &tally));
    tally.tell("the shop", &PROMOTIONS);
}
