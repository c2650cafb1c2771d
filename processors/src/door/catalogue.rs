//! `Catalogue`: all products in memory, as `shop.products` has them.

use std::sync::{
    RwLock, RwLockReadGuard,
    atomic::{AtomicBool, Ordering},
};

use millstream_broker::Fetched;
use tokio::sync::watch;
use tracing::warn;

use super::search::Index;
use crate::{
    model::{Currency, PlaceOrder, Product, Sku},
    topics::PRODUCTS,
};

/// Products beyond this number are not taken in: a catalogue of this size does not belong in memory.
const PRODUCTS_MAX: usize = 2_000_000;

/// A product, and which record of the log it comes from: its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) product: Product,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// All products. Reading sees what the log has told so far.
pub(super) struct Catalogue {
    index: RwLock<Index>,
    /// The next offset of each partition, and whether its beginning is read.
    read_to: watch::Sender<Vec<(i64, bool)>>,
    loaded: AtomicBool,
}

impl Catalogue {
    pub(super) fn new(partitions: u32) -> Self {
        let (read_to, _) = watch::channel(vec![(0, false); partitions as usize]);
        Self { index: RwLock::default(), read_to, loaded: AtomicBool::new(false) }
    }

    pub(super) fn partitions(&self) -> u32 {
        self.read_to.borrow().len() as u32
    }

    /// The products, for reading; keep it short.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("nothing panics with this lock")
    }

    /// The product of that sku.
    pub(super) fn get(&self, sku: &Sku) -> Option<Listed> {
        self.read().get(sku).cloned()
    }

    /// What an order costs; `None` when a product is unknown or sold in another currency.
    pub(super) fn total(&self, order: &PlaceOrder) -> Option<i64> {
        let index = self.read();
        let price = |sku: &Sku, currency: Currency| {
            index.get(sku).map(|l| &l.product).filter(|p| p.currency == currency).map(|p| p.price)
        };
        order.lines.iter().try_fold(0_i64, |sum, line| {
            let amount = price(&line.sku, order.currency)?.checked_mul(line.quantity.into())?;
            sum.checked_add(amount)
        })
    }

    /// True once everything that was there when the door opened is read.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Takes in a record.
    pub(super) fn take(&self, partition: i32, record: &Fetched) {
        let Some(key) = record.key.as_deref() else { return };
        let Ok(sku) = PRODUCTS.key().decode(Some(key)) else { return };
        let product = match PRODUCTS.value().decode(record.value.as_deref()) {
            Ok(product) => product,
            Err(error) => {
                warn!(%sku, %error, "a product does not decode and is left as it was");
                return;
            }
        };
        let mut index = self.index.write().expect("nothing panics with this lock");
        match product {
            Some(_) if index.get(&sku).is_none() && index.len() >= PRODUCTS_MAX => {
                warn!(%sku, limit = PRODUCTS_MAX, "the catalogue is full; a product is left out");
            }
            Some(product) => index.put(Listed { product, partition, offset: record.offset }),
            None => index.remove(&sku),
        }
    }

    /// Notes how far a partition is read, and whether that is all that was there at the start.
    pub(super) fn read_up_to(&self, partition: usize, next: i64, complete: bool) {
        self.read_to.send_if_modified(|read| {
            let moved = read[partition] != (next, complete);
            read[partition] = (next, complete);
            if moved && read.iter().all(|(_, complete)| *complete) {
                self.loaded.store(true, Ordering::Release);
            }
            moved
        });
    }

    /// Returns when the record at that offset is taken in.
    pub(super) async fn reached(&self, partition: i32, offset: i64) {
        let mut read = self.read_to.subscribe();
        let there = |read: &Vec<(i64, bool)>| {
            usize::try_from(partition).ok().and_then(|p| read.get(p)).is_some_and(|r| r.0 > offset)
        };
        // The sender lives as long as this catalogue.
        let _ = read.wait_for(there).await;
    }
}
