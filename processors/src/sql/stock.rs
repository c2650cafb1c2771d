//! `shop.inventory-events` → `inventory`.

use std::sync::Arc;

use millstream_sinks::{Message, Output, Projection, Result, Row};
use millstream_topology::BoxError;

use super::{Tables, decode, project_newest, schema::INVENTORY};
use crate::{
    model::{InventoryEvent, Sku, Stock},
    topics,
};

/// Every event carries the stock that results.
pub(super) struct Inventory;

impl Projection for Inventory {
    fn topics(&self) -> Vec<Arc<str>> {
        vec![topics::INVENTORY_EVENTS.name().into()]
    }

    fn project(&self, batch: &[&Message], out: &mut Output) {
        project_newest(batch, out, project);
    }
}

fn project(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let sku: Sku = message.text_key()?.parse()?;
    let stock = decode::<InventoryEvent>(message)?.stock;
    out.changes.put(
        &INVENTORY,
        [
            (&*sku).into(),
            stock.on_hand.into(),
            stock.reserved.into(),
            stock.sold.into(),
            stock.version.cast_signed().into(),
        ],
    );
    Ok(())
}

/// How many products a scan reads at once.
const SCAN_PAGE: i64 = 5000;

impl Tables {
    /// The stock of a product.
    ///
    /// # Errors
    /// What the database says.
    pub async fn stock(&self, sku: &Sku) -> Result<Option<Stock>> {
        const ONE: &str = "SELECT `sku`, `on_hand`, `reserved`, `sold`, `version` \
            FROM `inventory` WHERE `sku` = ?";
        let rows = self.database.rows(ONE, &[(&**sku).into()], read).await?;
        Ok(rows.into_iter().next().map(|(_, stock)| stock))
    }

    /// The stock of every product, by sku, page by page: `each` sees one page's state at a time.
    ///
    /// # Errors
    /// What the database says.
    pub async fn for_each_stock(&self, mut each: impl FnMut(Sku, Stock)) -> Result<()> {
        const PAGE: &str = "SELECT `sku`, `on_hand`, `reserved`, `sold`, `version` \
            FROM `inventory` WHERE `sku` > ? ORDER BY `sku` LIMIT ?";
        let mut after: Arc<str> = "".into();
        loop {
            let page = [after.clone().into(), SCAN_PAGE.into()];
            let rows = self.database.rows(PAGE, &page, read).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            after = (**last).into();
            rows.into_iter().for_each(|(sku, stock)| each(sku, stock));
        }
    }
}

fn read(row: &Row) -> Result<(Sku, Stock)> {
    let stock = Stock {
        on_hand: row.int(1)?,
        reserved: row.int(2)?,
        sold: row.int(3)?,
        version: row.int_as(4)?,
    };
    Ok((row.text_as(0, |text| text.parse().ok())?, stock))
}
