//! What the log says of the shop.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use millstream_broker::{Broker, TopicPartition};
use millstream_processors::{
    audit::Audit,
    inventory::Reservation,
    model::{
        CustomerId, InventoryChange, InventoryEvent, Order, OrderCommand, OrderEvent, OrderId,
        OrderStatus, Product, ReservationKey, Sku, Stock,
    },
    topics,
    topology::{ShopPolicy, shop},
};
use millstream_runtime::full_name;
use millstream_topology::KvStore;

use super::{
    Acknowledged, promises,
    read::{key, unreadable, value},
    steps,
};
use crate::{Error, Result, Row, Scan};

/// Where the newest event of an order stands, and what it says in short.
struct Newest {
    partition: i32,
    offset: i64,
    version: u64,
    status: OrderStatus,
    /// How many events there are up to this one.
    events: u64,
}

/// What the log says.
pub(super) struct LogEvidence {
    /// Orders that commands place, and whether such a command is processed.
    placed: HashMap<OrderId, bool>,
    /// False when old commands are gone.
    all_commands: bool,
    orders: HashMap<OrderId, Newest>,
    /// False when old events of orders are gone.
    all_orders: bool,
    pub(super) stock: BTreeMap<Sku, Stock>,
    pub(super) products: BTreeMap<Sku, Product>,
    /// Pieces that came in or were taken out; unknown when old events are gone.
    received: Option<BTreeMap<Sku, i64>>,
    pub(super) reservations: BTreeMap<ReservationKey, Reservation>,
    rows: Rows,
    /// Topics of which the streams or the gateway worker have not read all.
    pub(super) unread: BTreeSet<Arc<str>>,
    /// The newest timestamp of the events, in epoch milliseconds.
    pub(super) newest_ms: i64,
}

/// What is checked while reading.
struct Rows {
    versions: Row,
    one_end: Row,
    placed: Row,
    every_moment: Row,
    steps: Row,
    acknowledged: Row,
    one_key: Row,
}

impl LogEvidence {
    /// Reads the shop's topics.
    pub(super) fn gather(
        log: &dyn Broker,
        application_id: &str,
        acknowledged: &[Acknowledged],
    ) -> Result<Self> {
        let scan = Scan::new(log)?;
        let mut evidence = Self {
            placed: HashMap::new(),
            all_commands: true,
            orders: HashMap::new(),
            all_orders: true,
            stock: BTreeMap::new(),
            products: BTreeMap::new(),
            received: Some(BTreeMap::new()),
            reservations: BTreeMap::new(),
            rows: Rows {
                versions: Row::new(promises::VERSIONS),
                one_end: Row::new(promises::ONE_END),
                placed: Row::new(promises::PLACED),
                every_moment: Row::new(promises::EVERY_MOMENT),
                steps: Row::new(promises::STEPS),
                acknowledged: Row::new(promises::ACKNOWLEDGED),
                one_key: Row::new(promises::ONE_KEY),
            },
            unread: BTreeSet::new(),
            newest_ms: 0,
        };
        // Commands that were processed before the events are read have their events among them;
        // stock is read before the orders, so that nothing is sold of which no order is known.
        let processed = inputs(&scan, application_id)?;
        evidence.read_commands(&scan, &processed)?;
        evidence.acknowledged(acknowledged);
        evidence.read_stock(&scan)?;
        evidence.read_orders(&scan)?;
        evidence.read_products(&scan)?;
        evidence.read_reservations(&scan, application_id)?;
        let mut starts = inputs(&scan, application_id)?;
        let calls = topics::PAYMENT_INTENTS.name();
        starts.extend(scan.committed(&format!("{application_id}-gateway"), calls)?);
        evidence.unread = scan.topics_from(&starts)?;
        if evidence.unread.is_empty() {
            evidence.orders_were_placed();
        }
        Ok(evidence)
    }

    fn read_commands(&mut self, scan: &Scan<'_>, processed: &[(TopicPartition, i64)]) -> Result {
        let topic = topics::ORDERS;
        self.all_commands = is_whole(scan, topic.name())?;
        let of_orders = processed.iter().filter(|(p, _)| &*p.topic == topic.name());
        let processed: BTreeMap<i32, i64> = of_orders.map(|(p, at)| (p.partition, *at)).collect();
        scan.topic(topic.name(), &mut |partition, record| {
            let is_processed = processed
                .get(&partition)
                .is_some_and(|at| record.offset < *at);
            // What does not decode is among the dead letters.
            let command = topic.value().decode(record.value.as_deref()).ok();
            if let Some(OrderCommand::Place(_)) = command {
                let id = key(topic, partition, record)?;
                *self.placed.entry(id).or_default() |= is_processed;
            }
            Ok::<_, Error>(())
        })
    }

    fn acknowledged(&mut self, acknowledged: &[Acknowledged]) {
        let mut by_key: HashMap<(&CustomerId, &str), OrderId> = HashMap::new();
        let rows = &mut self.rows;
        for Acknowledged { order_id, request } in acknowledged {
            let is_there = self.placed.contains_key(order_id);
            if is_there || self.all_commands {
                let topic = topics::ORDERS.name();
                rows.acknowledged.expect(is_there, || {
                    format!("no command places this order. topic=`{topic}`, order={order_id}")
                });
            } else {
                let gone = || "old commands are deleted".to_owned();
                rows.acknowledged.bound(gone);
            }
            if let Some((customer, request)) = request {
                let first = *by_key.entry((customer, request)).or_insert(*order_id);
                rows.one_key.expect(first == *order_id, || {
                    format!("key=`{request}`, order={first}, another={order_id}")
                });
            }
        }
    }

    fn read_stock(&mut self, scan: &Scan<'_>) -> Result {
        let topic = topics::INVENTORY_EVENTS;
        let whole = is_whole(scan, topic.name())?;
        let mut received = BTreeMap::new();
        scan.topic(topic.name(), &mut |partition, record| {
            let sku: Sku = key(topic, partition, record)?;
            let event: InventoryEvent = value(topic, partition, record)?;
            let Stock {
                on_hand,
                reserved,
                sold,
                version,
            } = event.stock;
            let said = || {
                let pieces = format!("on_hand={on_hand}, reserved={reserved}, sold={sold}");
                let place = format!("partition={partition}, offset={}", record.offset);
                format!("sku=`{sku}`, version={version}, {pieces}, {place}")
            };
            self.rows.every_moment.expect(event.stock.adds_up(), said);
            let before = self.stock.get(&sku).copied();
            let before = before.or(whole.then_some(Stock::default()));
            let changes = before.is_none_or(|before| before.version != version);
            if let Some(before) = before {
                let follows = steps::follows(before, &event.change, event.stock);
                self.rows.steps.expect(follows, || {
                    format!("{}, change={:?}, before={before:?}", said(), event.change)
                });
            }
            if let (true, InventoryChange::Adjusted { delta, .. }) = (changes, &event.change) {
                *received.entry(sku.clone()).or_insert(0) += delta;
            }
            self.newest_ms = self.newest_ms.max(record.timestamp);
            self.stock.insert(sku, event.stock);
            Ok::<_, Error>(())
        })?;
        self.received = whole.then_some(received);
        Ok(())
    }

    fn read_orders(&mut self, scan: &Scan<'_>) -> Result {
        /// The part of an event that is needed of each.
        #[derive(serde::Deserialize)]
        struct Numbered {
            order: Number,
        }
        #[derive(serde::Deserialize)]
        struct Number {
            version: u64,
            status: OrderStatus,
        }
        let topic = topics::ORDER_EVENTS;
        let whole = is_whole(scan, topic.name())?;
        self.all_orders = whole;
        scan.topic(topic.name(), &mut |partition, record| {
            let id = key(topic, partition, record)?;
            let bytes = record.value.as_deref().unwrap_or_default();
            let event: Numbered = serde_json::from_slice(bytes)
                .map_err(|e| unreadable(topic.name(), partition, record, e))?;
            let Number { version, status } = event.order;
            let newest = Newest {
                partition,
                offset: record.offset,
                version,
                status,
                events: self.orders.get(&id).map_or(0, |before| before.events) + 1,
            };
            let before = self.orders.insert(id, newest);
            let next = match &before {
                Some(before) => version == before.version + 1,
                // The events before may have been deleted.
                None => !whole || version == 1,
            };
            let place = || format!("partition={partition}, offset={}", record.offset);
            self.rows.versions.expect(next, || {
                let before = before.as_ref().map_or(0, |before| before.version);
                format!(
                    "order={id}, version={version}, before={before}, {}",
                    place()
                )
            });
            if let Some(before) = before.filter(|before| before.status.is_final()) {
                let (was, is) = (before.status, status);
                let refund = (was, is) == (OrderStatus::Confirmed, OrderStatus::Refunded);
                self.rows.one_end.expect(was == is || refund, || {
                    let (was, is) = (was.as_str(), is.as_str());
                    format!("order={id}, status={is}, before={was}, {}", place())
                });
            } else {
                self.rows.one_end.hold(u64::from(status.is_final()));
            }
            self.newest_ms = self.newest_ms.max(record.timestamp);
            Ok::<_, Error>(())
        })
    }

    /// Every order that has events must have a command.
    fn orders_were_placed(&mut self) {
        if !self.all_commands {
            let gone = || "old commands are deleted".to_owned();
            return self.rows.placed.bound(gone);
        }
        for (id, newest) in &self.orders {
            self.rows.placed.expect(self.placed.contains_key(id), || {
                let Newest {
                    partition, offset, ..
                } = newest;
                format!("order={id}, partition={partition}, offset={offset}")
            });
        }
    }

    fn read_products(&mut self, scan: &Scan<'_>) -> Result {
        let topic = topics::PRODUCTS;
        scan.topic(topic.name(), &mut |_, record| {
            let (sku, product) = (
                topic.key().decode(record.key.as_deref()),
                topic.value().decode(record.value.as_deref()),
            );
            match (sku, product) {
                (Ok(sku), Ok(Some(product))) => drop(self.products.insert(sku, product)),
                (Ok(sku), Ok(None)) => drop(self.products.remove(&sku)),
                // What does not decode is among the dead letters.
                (Err(_), _) | (_, Err(_)) => {}
            }
            Ok::<_, Error>(())
        })
    }

    fn read_reservations(&mut self, scan: &Scan<'_>, application_id: &str) -> Result {
        const STORE: KvStore<ReservationKey, Reservation> = topics::RESERVATION_STORE;
        let topic = STORE.changelog(application_id);
        scan.topic(&topic, &mut |partition, record| {
            let bad = |source| unreadable(&topic, partition, record, source);
            let key = STORE.key().decode(record.key.as_deref()).map_err(bad)?;
            match &record.value {
                Some(value) => {
                    let reservation = STORE.value().decode(Some(value)).map_err(bad)?;
                    self.reservations.insert(key, reservation);
                }
                None => drop(self.reservations.remove(&key)),
            }
            Ok::<_, Error>(())
        })
    }

    /// False when old events of stock are gone.
    pub(super) fn all_stock_is_known(&self) -> bool {
        self.received.is_some()
    }

    /// False when old events of orders are gone.
    pub(super) fn all_orders_are_known(&self) -> bool {
        self.all_orders
    }

    /// How many events each order has.
    pub(super) fn events_of_orders(&self) -> impl Iterator<Item = (OrderId, u64)> {
        self.orders.iter().map(|(id, newest)| (*id, newest.events))
    }

    /// True when an order has events.
    pub(super) fn knows(&self, id: OrderId) -> bool {
        self.orders.contains_key(&id)
    }

    /// Tells the audit everything but the orders.
    pub(super) fn tell(&self, audit: &mut Audit, settled: bool) {
        let processed = self.placed.iter().filter(|(_, processed)| **processed);
        processed.for_each(|(id, _)| audit.accepted(*id));
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
    pub(super) fn for_each_order(&self, log: &dyn Broker, each: &mut dyn FnMut(&Order)) -> Result {
        let topic = topics::ORDER_EVENTS;
        Scan::new(log)?.topic(topic.name(), &mut |partition, record| {
            let id = key(topic, partition, record)?;
            let is_newest = |at: &Newest| at.partition == partition && at.offset == record.offset;
            if self.orders.get(&id).is_some_and(is_newest) {
                let event: OrderEvent = value(topic, partition, record)?;
                each(&event.order);
            }
            Ok::<_, Error>(())
        })
    }

    /// Tells the audit the reports as their topics have them.
    pub(super) fn tell_reports(log: &dyn Broker, audit: &mut Audit) -> Result {
        let scan = Scan::new(log)?;
        let mut revenue = BTreeMap::new();
        let topic = topics::ANALYTICS_REVENUE_PER_HOUR;
        scan.topic(topic.name(), &mut |partition, record| {
            revenue.insert(record.key.clone(), value(topic, partition, record)?);
            Ok::<_, Error>(())
        })?;
        let mut days = BTreeMap::new();
        let topic = topics::ANALYTICS_ORDERS_PER_DAY;
        scan.topic(topic.name(), &mut |partition, record| {
            days.insert(record.key.clone(), value(topic, partition, record)?);
            Ok::<_, Error>(())
        })?;
        audit.tells_revenue();
        revenue.values().for_each(|row| audit.revenue(row));
        audit.tells_days();
        days.values().for_each(|row| audit.day(row));
        Ok(())
    }

    /// What was checked while reading. Nothing is said of the door when nothing was told of it.
    pub(super) fn into_rows(self) -> impl Iterator<Item = Row> {
        let rows = self.rows;
        let of_log = [
            rows.versions,
            rows.one_end,
            rows.placed,
            rows.every_moment,
            rows.steps,
        ];
        let of_door = [rows.acknowledged, rows.one_key];
        let told = of_door
            .into_iter()
            .filter(|row| row.checked > 0 || row.bounded.is_some());
        of_log.into_iter().chain(told)
    }
}

/// Where the application stands in each partition that it reads.
fn inputs(scan: &Scan<'_>, application_id: &str) -> Result<Vec<(TopicPartition, i64)>> {
    let topology = shop(&ShopPolicy::default())?;
    let mut all = Vec::new();
    for (topic, role) in topology.subtopologies().iter().flat_map(|sub| &sub.sources) {
        let topic = full_name(application_id, topic, *role);
        all.extend(scan.committed(application_id, &topic)?);
    }
    Ok(all)
}

/// True when no record of a topic was deleted.
fn is_whole(scan: &Scan<'_>, topic: &str) -> Result<bool> {
    Ok(scan.ends(topic)?.iter().all(|(_, ends)| ends.low == 0))
}
