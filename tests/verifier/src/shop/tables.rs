//! What the tables say, and whether the log says the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use millstream_broker::{Broker, TopicPartition};
use millstream_processors::{
    audit::Audit,
    inventory::ReservationState,
    model::{
        Order, OrderId, OrderStatus, OrdersPerDay, Product, ReservationKey, RevenuePerHour, Sku,
        Stock,
    },
    payment::LedgerEntry,
    sql::{self, Tables},
};
use millstream_sinks::read_progress;

use super::{log::LogEvidence, promises};
use crate::{Result, Row, Scan};

const COUNT_EVENTS: &str = "SELECT `order_id`, COUNT(*) FROM `order_events` GROUP BY `order_id`";

/// What the tables say.
pub(super) struct TableEvidence {
    /// Version and fingerprint of each order.
    orders: HashMap<OrderId, (u64, u64)>,
    /// How many events of each order there are.
    events: HashMap<OrderId, u64>,
    products: HashMap<Sku, Product>,
    stock: HashMap<Sku, Stock>,
    ledger: Vec<LedgerEntry>,
    days: Vec<OrdersPerDay>,
    revenue: Vec<RevenuePerHour>,
    /// How far the sink has read.
    pub(super) progress: Vec<(TopicPartition, i64)>,
}

impl TableEvidence {
    /// Reads the tables.
    pub(super) async fn gather(tables: &Tables, sink: &str) -> Result<Self> {
        let progress = read_progress(tables.database(), sink).await?;
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
        let mut events = HashMap::new();
        let count_event = |row: &millstream_sinks::Row| {
            let id = row.text_as(0, |text| text.parse().ok())?;
            events.insert(id, row.int_as(1)?);
            Ok(())
        };
        tables
            .database()
            .for_each(COUNT_EVENTS, &[], count_event)
            .await?;
        let mut products = HashMap::new();
        let of_catalogue = |product: Product, _| _ = products.insert(product.sku.clone(), product);
        tables.for_each_product(of_catalogue).await?;
        let mut ledger = Vec::new();
        tables
            .for_each_ledger_entry(|entry| ledger.push(entry))
            .await?;
        let days = tables.orders_per_day(None, None).await?;
        let revenue = tables.revenue_per_hour(None, None).await?;
        Ok(Self {
            orders,
            events,
            products,
            stock,
            ledger,
            days,
            revenue,
            progress,
        })
    }

    /// The topics of which the sink has not read all.
    pub(super) fn unread(
        log: &dyn Broker,
        progress: &[(TopicPartition, i64)],
    ) -> Result<BTreeSet<Arc<str>>> {
        let scan = Scan::new(log)?;
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
    pub(super) fn tell(&self, audit: &mut Audit, settled: bool, known: impl Fn(OrderId) -> bool) {
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
pub(super) struct Comparison<'a> {
    log: &'a LogEvidence,
    tables: &'a TableEvidence,
    settled: bool,
    orders: Row,
    events: Row,
    stock: Row,
    products: Row,
    lines: Row,
}

impl<'a> Comparison<'a> {
    /// Compares stock and products at once; orders come one by one.
    pub(super) fn new(log: &'a LogEvidence, tables: &'a TableEvidence, settled: bool) -> Self {
        let mut comparison = Self {
            log,
            tables,
            settled,
            orders: Row::new(promises::TABLE_ORDERS),
            events: Row::new(promises::TABLE_EVENTS),
            stock: Row::new(promises::TABLE_STOCK),
            products: Row::new(promises::TABLE_PRODUCTS),
            lines: Row::new(promises::LINES_SOLD),
        };
        comparison.stock();
        if settled {
            comparison.products();
            comparison.rows_of_nothing();
        }
        comparison
    }

    fn stock(&mut self) {
        for (sku, said) in &self.log.stock {
            let row = self.tables.stock.get(sku);
            let same = row.is_some_and(|row| row == said);
            let may_differ = !self.settled && row.is_none_or(|row| row.version != said.version);
            self.stock.expect(same || may_differ, || {
                format!("sku=`{sku}`, log={said:?}, table={row:?}")
            });
        }
    }

    fn products(&mut self) {
        let (log, table) = (&self.log.products, &self.tables.products);
        for (sku, said) in log {
            let row = table.get(sku);
            self.products.expect(row == Some(said), || {
                format!("sku=`{sku}`, log={said:?}, table={row:?}")
            });
        }
        for sku in table.keys().filter(|sku| !log.contains_key(*sku)) {
            self.products.expect(false, || {
                format!("a row of nothing in the log. sku=`{sku}`")
            });
        }
    }

    /// Rows that the log says nothing of. Old records of the log may be gone.
    fn rows_of_nothing(&mut self) {
        if self.log.all_stock_is_known() {
            let known = |sku: &&Sku| self.log.stock.contains_key(*sku);
            for sku in self.tables.stock.keys().filter(|sku| !known(sku)) {
                self.stock.expect(false, || {
                    format!("a row of nothing in the log. sku=`{sku}`")
                });
            }
        } else {
            self.stock
                .bound(|| "old inventory events are deleted".to_owned());
        }
        if !self.log.all_orders_are_known() {
            let gone = || "old order events are deleted".to_owned();
            self.orders.bound(gone);
            self.events.bound(gone);
            return;
        }
        for id in self.tables.orders.keys().filter(|id| !self.log.knows(**id)) {
            self.orders
                .expect(false, || format!("a row of nothing in the log. order={id}"));
        }
        for (id, events) in self.log.events_of_orders() {
            let rows = self.tables.events.get(&id).copied().unwrap_or(0);
            self.events.expect(rows == events, || {
                format!("order={id}, events={events}, rows={rows}")
            });
        }
        for id in self.tables.events.keys().filter(|id| !self.log.knows(**id)) {
            self.events
                .expect(false, || format!("rows of nothing in the log. order={id}"));
        }
    }

    /// Compares an order as the log has it.
    pub(super) fn order(&mut self, order: &Order) {
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
        if self.settled && order.status == OrderStatus::Confirmed {
            self.lines(order);
        }
    }

    /// What inventory has forgotten is not compared: it keeps what is settled for a while.
    fn lines(&mut self, order: &Order) {
        for line in &order.lines {
            let key = ReservationKey {
                sku: line.sku.clone(),
                order_id: order.order_id,
            };
            let Some(kept) = self.log.reservations.get(&key) else {
                continue;
            };
            let sold = kept.state == ReservationState::Confirmed && kept.quantity == line.quantity;
            self.lines.expect(sold, || {
                let (quantity, state) = (kept.quantity, kept.state);
                let ordered = line.quantity;
                format!("line={key}, ordered={ordered}, quantity={quantity}, state={state:?}")
            });
        }
    }

    /// What was found.
    pub(super) fn into_rows(self) -> [Row; 5] {
        [
            self.lines,
            self.orders,
            self.events,
            self.stock,
            self.products,
        ]
    }
}

/// Tells whether two orders are the same to the last field. Lines are written to their table once
/// they have prices, so those of a pending order are left out.
fn fingerprint(order: &Order) -> u64 {
    let mut hasher = DefaultHasher::new();
    let shown = match order.status {
        OrderStatus::Pending => Order {
            lines: Vec::new(),
            ..order.clone()
        }
        .to_http_json(),
        OrderStatus::Reserved
        | OrderStatus::Confirmed
        | OrderStatus::Cancelled
        | OrderStatus::Refunded => order.to_http_json(),
    };
    shown.to_string().hash(&mut hasher);
    hasher.finish()
}
