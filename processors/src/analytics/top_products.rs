//! Top products: the best sellers of 24 hours, by `placed_at` of confirmed orders.
//!
//! Windows of 24 hours begin every full hour. Sales are kept by hour and product, and a window is
//! the sum of its hours. Each partition publishes the best of its own products; as a product lives
//! in one partition, the best of all lists together are the best of the shop. Refunds subtract.
//!
//! Which windows have changed is kept in stores, not in memory, so that a crash between a sale and
//! its publication loses nothing.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use millstream_operators::{Clock, Context, KStream, KvHandle, Processor, Punctuation};
use millstream_topology::{Codec, Record, Result};
use serde::{Deserialize, Serialize};

use crate::{
    analytics::{HOUR_MS, hour_of},
    model::{
        HourOfProduct, OrderEvent, OrderEventKind, OrderId, Sku, TimeBytes, TopProduct,
        TopProducts, TopProductsType, V1, WindowShare,
    },
    topics::{ANALYTICS_TOP_PRODUCTS, CHANGED_HOURS, CHANGED_WINDOWS, PRODUCT_HOURS, SOLD_BY_SKU},
};

/// Hours in a window.
pub const WINDOW_HOURS: i64 = 24;
/// The most products that one partition publishes of a window.
pub const TOP_PRODUCTS_MAX: usize = 100;

/// How often changed windows are looked for.
const TICK: Duration = Duration::from_millis(250);
/// The most changed hours that one tick turns into changed windows.
const HOURS_PER_TICK: usize = 256;
/// The most windows that one tick publishes.
const WINDOWS_PER_TICK: usize = 64;
/// How many entries of the store ticks read on average: what a tick reads more, later ticks wait
/// for.
const ENTRIES_PER_TICK: usize = 20_000;

/// A line that was sold (or, with negative numbers, refunded).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sold {
    /// First millisecond of the hour in which its order was placed, in epoch milliseconds.
    pub hour: i64,
    /// The product's name.
    pub name: Arc<str>,
    /// Pieces.
    pub quantity: i64,
    /// What they brought, in minor units.
    pub revenue: i64,
}

/// What a product sold in some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductSales {
    /// The product's name.
    pub name: Arc<str>,
    /// Pieces.
    pub quantity: i64,
    /// What they brought, in minor units.
    pub revenue: i64,
}

pub(super) fn top_products(events: KStream<OrderId, OrderEvent>) {
    let stores = (PRODUCT_HOURS, CHANGED_HOURS, CHANGED_WINDOWS);
    events
        .flat_map(|_, event| lines_sold(event))
        .named("lines-sold")
        .repartition(SOLD_BY_SKU)
        .process(stores, |(sales, changed_hours, changed_windows)| {
            BestSellers {
                sales,
                changed_hours,
                changed_windows,
                entries_ahead: 0,
            }
        })
        .named("best-sellers")
        .to(ANALYTICS_TOP_PRODUCTS);
}

fn lines_sold(event: OrderEvent) -> Vec<(Sku, Sold)> {
    let sign = match event.kind {
        OrderEventKind::Confirmed => 1,
        OrderEventKind::Refunded => -1,
        OrderEventKind::Placed
        | OrderEventKind::Reserved
        | OrderEventKind::Cancelled
        | OrderEventKind::PaymentUpdated => return Vec::new(),
    };
    let hour = hour_of(event.order.placed_at);
    let sold = |line: crate::model::OrderLine| {
        let revenue = sign * line.amount().unwrap_or(0);
        let quantity = sign * i64::from(line.quantity);
        (
            line.sku,
            Sold {
                hour,
                name: line.name.unwrap_or_default(),
                quantity,
                revenue,
            },
        )
    };
    event.order.lines.into_iter().map(sold).collect()
}

/// Keeps the sales of a partition's products and publishes the best of them.
struct BestSellers {
    sales: KvHandle<HourOfProduct, ProductSales>,
    changed_hours: KvHandle<i64, ()>,
    changed_windows: KvHandle<i64, ()>,
    /// Entries read beyond what ticks may read on average.
    entries_ahead: usize,
}

type Cx<'a, 'b> = Context<'a, 'b, WindowShare, TopProducts>;

impl Processor for BestSellers {
    type Key = Sku;
    type Value = Sold;
    type OutKey = WindowShare;
    type OutValue = TopProducts;

    fn init(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        cx.schedule(TICK, Clock::Wall);
        Ok(())
    }

    fn process(&mut self, cx: &mut Cx<'_, '_>, record: Record<Sku, Sold>) -> Result<()> {
        let Record {
            key: sku,
            value: sold,
            timestamp,
            ..
        } = record;
        let hour = sold.hour;
        cx.store(self.sales)
            .update(&HourOfProduct { hour, sku }, |slot| {
                let (quantity, revenue) = slot
                    .as_ref()
                    .map_or((0, 0), |(sales, _)| (sales.quantity, sales.revenue));
                let sales = ProductSales {
                    name: sold.name,
                    quantity: quantity + sold.quantity,
                    revenue: revenue.saturating_add(sold.revenue),
                };
                let nothing = (sales.quantity, sales.revenue) == (0, 0);
                *slot = (!nothing).then_some((sales, timestamp));
                Ok(())
            })?;
        if cx.store(self.changed_hours).get(&hour)?.is_none() {
            cx.store(self.changed_hours).put(&hour, (), timestamp)?;
        }
        Ok(())
    }

    fn punctuate(&mut self, cx: &mut Cx<'_, '_>, tick: Punctuation) -> Result<()> {
        self.mark_windows(cx, tick.time_ms)?;
        self.entries_ahead = self.entries_ahead.saturating_sub(ENTRIES_PER_TICK);
        if self.entries_ahead > 0 {
            return Ok(());
        }
        let changed = cx
            .store(self.changed_windows)
            .range(None, None, WINDOWS_PER_TICK)?;
        let mut window = SlidingWindow::default();
        for (end, (), _) in changed {
            if self.entries_ahead > ENTRIES_PER_TICK {
                break;
            }
            self.entries_ahead += window.slide_to(cx, self.sales, end)?;
            let partition = cx.partition();
            let key = WindowShare {
                window_end: end,
                partition,
            };
            cx.forward(Record::new(key, window.report(partition), tick.time_ms))?;
            cx.store(self.changed_windows).delete(&end, tick.time_ms)?;
        }
        Ok(())
    }
}

impl BestSellers {
    /// Every window that holds a changed hour has changed.
    fn mark_windows(&self, cx: &mut Cx<'_, '_>, now_ms: i64) -> Result<()> {
        let hours = cx
            .store(self.changed_hours)
            .range(None, None, HOURS_PER_TICK)?;
        for (hour, (), _) in hours {
            for later in 1..=WINDOW_HOURS {
                let end = hour.saturating_add(later * HOUR_MS);
                cx.store(self.changed_windows).put(&end, (), now_ms)?;
            }
            cx.store(self.changed_hours).delete(&hour, now_ms)?;
        }
        Ok(())
    }
}

/// The sums of one window, which moves on hour by hour.
#[derive(Default)]
struct SlidingWindow {
    end: Option<i64>,
    sums: HashMap<Sku, ProductSales>,
}

impl SlidingWindow {
    /// Moves to the window with that end; returns how many entries it read.
    fn slide_to(
        &mut self,
        cx: &mut Cx<'_, '_>,
        sales: KvHandle<HourOfProduct, ProductSales>,
        end: i64,
    ) -> Result<usize> {
        let mut read = 0;
        if self.end == Some(end - HOUR_MS) {
            read += self.add_hour(cx, sales, end - (WINDOW_HOURS + 1) * HOUR_MS, -1)?;
            read += self.add_hour(cx, sales, end - HOUR_MS, 1)?;
        } else {
            self.sums.clear();
            for back in (1..=WINDOW_HOURS).rev() {
                read += self.add_hour(cx, sales, end - back * HOUR_MS, 1)?;
            }
        }
        self.end = Some(end);
        // A window costs something even if it is empty.
        Ok(read + self.sums.len() + 1)
    }

    fn add_hour(
        &mut self,
        cx: &mut Cx<'_, '_>,
        sales: KvHandle<HourOfProduct, ProductSales>,
        hour: i64,
        sign: i64,
    ) -> Result<usize> {
        let mut prefix = Vec::with_capacity(8);
        TimeBytes::encode(&hour, &mut prefix).expect("a time has bytes");
        let entries = cx.store(sales).prefix(&prefix, usize::MAX)?;
        let read = entries.len();
        for (HourOfProduct { sku, .. }, sold, _) in entries {
            let (quantity, revenue) = (sign * sold.quantity, sign.saturating_mul(sold.revenue));
            match self.sums.entry(sku) {
                Entry::Occupied(mut entry) => {
                    let sum = entry.get_mut();
                    sum.quantity += quantity;
                    sum.revenue = sum.revenue.saturating_add(revenue);
                    if (sum.quantity, sum.revenue) == (0, 0) {
                        entry.remove();
                    }
                }
                Entry::Vacant(entry) => {
                    entry.insert(ProductSales {
                        name: sold.name,
                        quantity,
                        revenue,
                    });
                }
            }
        }
        Ok(read)
    }

    fn report(&self, partition: i32) -> TopProducts {
        let window_end = self.end.expect("the window has slid somewhere");
        let mut best: Vec<(&Sku, &ProductSales)> = self
            .sums
            .iter()
            .filter(|(_, sales)| sales.quantity > 0)
            .collect();
        let rank = |item: &(&Sku, &ProductSales)| (Reverse(item.1.quantity), item.0.clone());
        if best.len() > TOP_PRODUCTS_MAX {
            best.select_nth_unstable_by_key(TOP_PRODUCTS_MAX, rank);
            best.truncate(TOP_PRODUCTS_MAX);
        }
        best.sort_unstable_by_key(rank);
        let item = |(sku, sales): (&Sku, &ProductSales)| TopProduct {
            sku: sku.clone(),
            name: sales.name.clone(),
            quantity: sales.quantity,
            revenue: sales.revenue,
        };
        TopProducts {
            kind: TopProductsType::It,
            v: V1,
            window_start: window_end - WINDOW_HOURS * HOUR_MS,
            window_end,
            partition,
            items: best.into_iter().map(item).collect(),
        }
    }
}
