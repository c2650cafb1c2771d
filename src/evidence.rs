//! What log and tables say, gathered for the audit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use millstream_broker::{Broker, Fetched, TopicPartition};
use millstream_processors::{
    audit::Audit,
    inventory::Reservation,
    model::{
        InventoryChange, InventoryEvent, Order, OrderCommand, OrderEvent, OrderId, OrdersPerDay,
        ReservationKey, RevenuePerHour, Sku, Stock,
    },
    payment::LedgerEntry,
    sql::{self, Tables},
    topics,
    topology::{ShopPolicy, shop},
};
use millstream_runtime::full_name;
use millstream_sinks::read_progress;
use millstream_topology::{KvStore, Topic};

use crate::{
    failure::{Failure, Outcome},
    open,
    scan::Scan,
    verify::Row,
};

/// Examples of one broken promise that are kept; all are counted.
const EXAMPLES_MAX: usize = 20;

/// One promise while it is being checked.
struct Check {
    what: &'static str,
    checked: u64,
    broken: u64,
    examples: Vec<String>,
}

impl Check {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            checked: 0,
            broken: 0,
            examples: Vec::new(),
        }
    }

    fn expect(&mut self, holds: bool, detail: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.broken += 1;
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(detail());
            }
        }
    }

    fn row(&self) -> Row {
        Row {
            what: self.what.to_owned(),
            checked: self.checked,
            broken: self.broken,
            examples: self.examples.clone(),
        }
    }
}

/// Where the newest event of an order stands, and what it says in short.
struct Newest {
    partition: i32,
    offset: i64,
    version: u64,
}

/// What the log says.
pub(crate) struct LogEvidence {
    /// Orders whose command is processed.
    accepted: HashSet<OrderId>,
    orders: HashMap<OrderId, Newest>,
    stock: BTreeMap<Sku, Stock>,
    /// Pieces that came in or were taken out; unknown when old events are gone.
    received: Option<BTreeMap<Sku, i64>>,
    reservations: BTreeMap<ReservationKey, Reservation>,
    /// Events rise by one version each.
    versions: Check,
    /// Stock adds up after each event, not only at the end.
    every_moment: Check,
    /// Topics of which the streams or the gateway worker have not read all.
    pub(crate) unread: BTreeSet<Arc<str>>,
    /// The newest timestamp of the events, in epoch milliseconds.
    pub(crate) newest_ms: i64,
}

impl LogEvidence {
    /// Reads the shop's topics.
    pub(crate) fn gather(log: &dyn Broker, application_id: &str) -> Outcome<Self> {
        let admin = log.admin()?;
        let scan = Scan::new(log, &*admin);
        let mut evidence = Self {
            accepted: HashSet::new(),
            orders: HashMap::new(),
            stock: BTreeMap::new(),
            received: Some(BTreeMap::new()),
            reservations: BTreeMap::new(),
            versions: Check::new("events of an order are numbered without a gap"),
            every_moment: Check::new("nothing was oversold at any moment"),
            unread: BTreeSet::new(),
            newest_ms: 0,
        };
        // Commands that were processed before the events are read have their events among them;
        // stock is read before the orders, so that nothing is sold of which no order is known.
        let processed = inputs(log, application_id)?;
        evidence.read_commands(&scan, &processed)?;
        evidence.read_stock(&scan)?;
        evidence.read_orders(&scan)?;
        evidence.read_reservations(&scan, application_id)?;
        let mut starts = inputs(log, application_id)?;
        let calls = topics::PAYMENT_INTENTS.name();
        starts.extend(committed(log, &format!("{application_id}-gateway"), calls)?);
        evidence.unread = scan.topics_from(&starts)?;
        Ok(evidence)
    }

    fn read_commands(&mut self, scan: &Scan<'_>, processed: &[(TopicPartition, i64)]) -> Outcome {
        let topic = topics::ORDERS;
        let of_orders = processed.iter().filter(|(p, _)| &*p.topic == topic.name());
        let processed: BTreeMap<i32, i64> = of_orders.map(|(p, at)| (p.partition, *at)).collect();
        scan.topic(topic.name(), &mut |partition, record| {
            let is_processed = processed
                .get(&partition)
                .is_some_and(|at| record.offset < *at);
            // What does not decode is among the dead letters.
            let command = topic.value().decode(record.value.as_deref()).ok();
            if let (true, Some(OrderCommand::Place(_))) = (is_processed, command) {
                self.accepted.insert(key(topic, record)?);
            }
            Ok(())
        })
    }

    fn read_stock(&mut self, scan: &Scan<'_>) -> Outcome {
        let topic = topics::INVENTORY_EVENTS;
        let whole = scan
            .ends(topic.name())?
            .iter()
            .all(|(_, ends)| ends.low == 0);
        let mut received = BTreeMap::new();
        scan.topic(topic.name(), &mut |_, record| {
            let sku = key(topic, record)?;
            let event: InventoryEvent = value(topic, record)?;
            let Stock {
                on_hand,
                reserved,
                sold,
                version,
            } = event.stock;
            self.every_moment.expect(event.stock.adds_up(), || {
                let pieces = format!("on_hand={on_hand}, reserved={reserved}, sold={sold}");
                format!("sku=`{sku}`, version={version}, {pieces}")
            });
            if let InventoryChange::Adjusted { delta, .. } = event.change {
                *received.entry(sku.clone()).or_insert(0) += delta;
            }
            self.newest_ms = self.newest_ms.max(record.timestamp);
            self.stock.insert(sku, event.stock);
            Ok(())
        })?;
        self.received = whole.then_some(received);
        Ok(())
    }

    fn read_orders(&mut self, scan: &Scan<'_>) -> Outcome {
        /// The part of an event that is needed of each.
        #[derive(serde::Deserialize)]
        struct Numbered {
            order: Number,
        }
        #[derive(serde::Deserialize)]
        struct Number {
            version: u64,
        }
        let topic = topics::ORDER_EVENTS;
        let whole = scan
            .ends(topic.name())?
            .iter()
            .all(|(_, ends)| ends.low == 0);
        scan.topic(topic.name(), &mut |partition, record| {
            let id = key(topic, record)?;
            let bytes = record.value.as_deref().unwrap_or_default();
            let event: Numbered = serde_json::from_slice(bytes)
                .map_err(|e| Failure::at(format!("an event cannot be read. order={id}"), &e))?;
            let version = event.order.version;
            let before = self.orders.get(&id).map(|newest| newest.version);
            let next = match before {
                Some(before) => version == before + 1,
                // The events before may have been deleted.
                None => !whole || version == 1,
            };
            self.versions.expect(next, || {
                format!(
                    "order={id}, version={version}, before={}",
                    before.unwrap_or(0)
                )
            });
            self.newest_ms = self.newest_ms.max(record.timestamp);
            self.orders.insert(
                id,
                Newest {
                    partition,
                    offset: record.offset,
                    version,
                },
            );
            Ok(())
        })
    }

    fn read_reservations(&mut self, scan: &Scan<'_>, application_id: &str) -> Outcome {
        const STORE: KvStore<ReservationKey, Reservation> = topics::RESERVATION_STORE;
        let unreadable =
            |e: millstream_topology::BoxError| Failure::at("a reservation cannot be read", &*e);
        scan.topic(&STORE.changelog(application_id), &mut |_, record| {
            let key = STORE
                .key()
                .decode(record.key.as_deref())
                .map_err(unreadable)?;
            match &record.value {
                Some(value) => {
                    let reservation = STORE.value().decode(Some(value)).map_err(unreadable)?;
                    self.reservations.insert(key, reservation);
                }
                None => drop(self.reservations.remove(&key)),
            }
            Ok(())
        })
    }

    /// True when an order has events.
    pub(crate) fn knows(&self, id: OrderId) -> bool {
        self.orders.contains_key(&id)
    }

    /// Tells the audit everything but the orders.
    pub(crate) fn tell(&self, audit: &mut Audit, settled: bool) {
        self.accepted.iter().for_each(|id| audit.accepted(*id));
        self.stock
            .iter()
            .for_each(|(sku, stock)| audit.stock(sku, stock));
        for (sku, pieces) in self.received.iter().flatten() {
            audit.received(sku, *pieces);
        }
        // Reservations and stock are read one after the other: they agree when neither moves.
        if settled {
            audit.tells_reservations();
            self.reservations
                .iter()
                .for_each(|(key, it)| audit.reservation(key, it));
        }
    }

    /// Reads the newest event of each order again and gives the order to `each`.
    pub(crate) fn for_each_order(&self, log: &dyn Broker, each: &mut dyn FnMut(&Order)) -> Outcome {
        let topic = topics::ORDER_EVENTS;
        let admin = log.admin()?;
        Scan::new(log, &*admin).topic(topic.name(), &mut |partition, record| {
            let id = key(topic, record)?;
            let is_newest = |at: &Newest| at.partition == partition && at.offset == record.offset;
            if self.orders.get(&id).is_some_and(is_newest) {
                let event: OrderEvent = value(topic, record)?;
                each(&event.order);
            }
            Ok(())
        })
    }

    /// What was checked while reading.
    pub(crate) fn rows(&self) -> [Row; 2] {
        [self.versions.row(), self.every_moment.row()]
    }
}

/// What the tables say.
pub(crate) struct TableEvidence {
    /// Version and fingerprint of each order.
    orders: HashMap<OrderId, (u64, u64)>,
    stock: HashMap<Sku, Stock>,
    ledger: Vec<LedgerEntry>,
    days: Vec<OrdersPerDay>,
    revenue: Vec<RevenuePerHour>,
    /// How far the sink has read.
    pub(crate) progress: Vec<(TopicPartition, i64)>,
}

impl TableEvidence {
    /// Reads the tables.
    pub(crate) async fn gather(tables: &Tables) -> Outcome<Self> {
        let progress = read_progress(tables.database(), open::SINK).await?;
        let progress = progress
            .into_iter()
            .map(|p| (p.partition, p.next_offset))
            .collect();
        let mut orders = HashMap::new();
        let fingerprinted = |order: Order| {
            orders.insert(order.order_id, (order.version, fingerprint(&order)));
        };
        tables.for_each_order(fingerprinted).await?;
        let mut stock = HashMap::new();
        tables
            .for_each_stock(|sku, row| _ = stock.insert(sku, row))
            .await?;
        let mut ledger = Vec::new();
        tables
            .for_each_ledger_entry(|entry| ledger.push(entry))
            .await?;
        let days = tables.orders_per_day(None, None).await?;
        let revenue = tables.revenue_per_hour(None, None).await?;
        Ok(Self {
            orders,
            stock,
            ledger,
            days,
            revenue,
            progress,
        })
    }

    /// The topics of which the sink has not read all.
    pub(crate) fn unread(
        log: &dyn Broker,
        progress: &[(TopicPartition, i64)],
    ) -> Outcome<BTreeSet<Arc<str>>> {
        let admin = log.admin()?;
        let scan = Scan::new(log, &*admin);
        let mut starts: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for topic in sql::projections()
            .iter()
            .flat_map(|projection| projection.topics())
        {
            starts.extend(
                scan.ends(&topic)?
                    .into_iter()
                    .map(|(partition, _)| (partition, 0)),
            );
        }
        starts.extend(progress.iter().cloned());
        scan.topics_from(&starts.into_iter().collect::<Vec<_>>())
    }

    /// Tells the audit the gateway's books and the reports.
    pub(crate) fn tell(&self, audit: &mut Audit, settled: bool, known: impl Fn(OrderId) -> bool) {
        audit.tells_ledger();
        // An order that came after the events were read is no order that nobody knows.
        let entries = self
            .ledger
            .iter()
            .filter(|entry| settled || known(entry.order_id));
        entries.for_each(|entry| audit.ledger(entry));
        if settled {
            audit.tells_days();
            self.days.iter().for_each(|row| audit.day(row));
            audit.tells_revenue();
            self.revenue.iter().for_each(|row| audit.revenue(row));
        }
    }
}

/// Log and tables, record by record.
pub(crate) struct Comparison<'a> {
    tables: &'a TableEvidence,
    settled: bool,
    orders: Check,
    stock: Check,
}

impl<'a> Comparison<'a> {
    /// Compares the stock at once; orders come one by one.
    pub(crate) fn new(log: &LogEvidence, tables: &'a TableEvidence, settled: bool) -> Self {
        let mut stock = Check::new("table inventory = log");
        for (sku, said) in &log.stock {
            let row = tables.stock.get(sku);
            let same = row.is_some_and(|row| row == said);
            let may_differ = !settled && row.is_none_or(|row| row.version != said.version);
            stock.expect(same || may_differ, || {
                format!("sku=`{sku}`, log={said:?}, table={row:?}")
            });
        }
        Self {
            tables,
            settled,
            orders: Check::new("table orders = log"),
            stock,
        }
    }

    /// Compares an order as the log has it.
    pub(crate) fn order(&mut self, order: &Order) {
        let row = self.tables.orders.get(&order.order_id);
        let same = row.is_some_and(|row| *row == (order.version, fingerprint(order)));
        let may_differ = !self.settled && row.is_none_or(|(version, _)| *version != order.version);
        self.orders.expect(same || may_differ, || {
            let version = row.map_or(0, |(version, _)| *version);
            format!(
                "order={}, version={}, table has {version}",
                order.order_id, order.version
            )
        });
    }

    /// What was found.
    pub(crate) fn into_rows(self) -> [Row; 2] {
        [self.orders.row(), self.stock.row()]
    }
}

/// Tells whether two orders are the same to the last field.
fn fingerprint(order: &Order) -> u64 {
    let mut hasher = DefaultHasher::new();
    order.to_http_json().to_string().hash(&mut hasher);
    hasher.finish()
}

/// Where the application stands in each partition that it reads.
fn inputs(log: &dyn Broker, application_id: &str) -> Outcome<Vec<(TopicPartition, i64)>> {
    let topology = shop(&ShopPolicy::default())?;
    let mut all = Vec::new();
    for (topic, role) in topology.subtopologies().iter().flat_map(|sub| &sub.sources) {
        let topic = full_name(application_id, topic, *role);
        all.extend(committed(log, application_id, &topic)?);
    }
    Ok(all)
}

/// Where a group stands in a topic; 0 where it has committed nothing.
fn committed(log: &dyn Broker, group: &str, topic: &str) -> Outcome<Vec<(TopicPartition, i64)>> {
    let admin = log.admin()?;
    let ends = Scan::new(log, &*admin).ends(topic)?;
    let partitions: Vec<_> = ends.into_iter().map(|(partition, _)| partition).collect();
    let offsets = admin.committed(group, &partitions)?;
    Ok(partitions
        .into_iter()
        .zip(offsets)
        .map(|(p, at)| (p, at.unwrap_or(0)))
        .collect())
}

fn key<K, V>(topic: Topic<K, V>, record: &Fetched) -> Outcome<K> {
    topic
        .key()
        .decode(record.key.as_deref())
        .map_err(|e| unreadable(topic, record, &*e))
}

fn value<K, V>(topic: Topic<K, V>, record: &Fetched) -> Outcome<V> {
    topic
        .value()
        .decode(record.value.as_deref())
        .map_err(|e| unreadable(topic, record, &*e))
}

fn unreadable<K, V>(
    topic: Topic<K, V>,
    record: &Fetched,
    error: &(dyn std::error::Error + 'static),
) -> Failure {
    let (name, offset) = (topic.name(), record.offset);
    Failure::at(
        format!("a record cannot be read. topic=`{name}`, offset={offset}"),
        error,
    )
}
