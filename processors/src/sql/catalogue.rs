//! `shop.products` → `products`.

use std::sync::Arc;

use millstream_sinks::{Message, Output, Projection, Result, Row};
use millstream_topology::BoxError;

use super::{Tables, decode, project_newest, schema::PRODUCTS};
use crate::{
    model::{Product, Sku},
    topics,
};

/// How many products a scan reads at once.
const SCAN_PAGE: i64 = 5000;

/// A null value deletes the product.
pub(super) struct Catalogue;

impl Projection for Catalogue {
    fn topics(&self) -> Vec<Arc<str>> {
        vec![topics::PRODUCTS.name().into()]
    }

    fn project(&self, batch: &[&Message], out: &mut Output) {
        project_newest(batch, out, project);
    }
}

fn project(message: &Message, out: &mut Output) -> Result<(), BoxError> {
    let sku: Sku = message.text_key()?.parse()?;
    if message.value.is_none() {
        out.changes.clear(&PRODUCTS, [(&*sku).into()]);
        return Ok(());
    }
    let product: Product = decode(message)?;
    out.changes.put(
        &PRODUCTS,
        [
            (&*sku).into(),
            product.name.into(),
            product.category.into(),
            product.description.into(),
            product.price.into(),
            product.currency.code().into(),
            message.offset.into(),
        ],
    );
    Ok(())
}

impl Tables {
    /// A product of the catalogue, with its version.
    ///
    /// # Errors
    /// What the database says.
    pub async fn product(&self, sku: &Sku) -> Result<Option<(Product, u64)>> {
        const ONE: &str = "SELECT `sku`, `name`, `category`, `description`, `price`, `currency`, \
            `version` FROM `products` WHERE `sku` = ?";
        let rows = self.database.rows(ONE, &[(&**sku).into()], read).await?;
        Ok(rows.into_iter().next())
    }

    /// Every product of the catalogue with its version, by sku, page by page.
    ///
    /// # Errors
    /// What the database says.
    pub async fn for_each_product(&self, mut each: impl FnMut(Product, u64)) -> Result<()> {
        const PAGE: &str = "SELECT `sku`, `name`, `category`, `description`, `price`, `currency`, \
            `version` FROM `products` WHERE `sku` > ? ORDER BY `sku` LIMIT ?";
        let mut after: Arc<str> = "".into();
        loop {
            let page = [after.clone().into(), SCAN_PAGE.into()];
            let rows = self.database.rows(PAGE, &page, read).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            after = (*last.sku).into();
            rows.into_iter()
                .for_each(|(product, version)| each(product, version));
        }
    }

    /// How many products the catalogue has.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_products(&self) -> Result<i64> {
        const COUNT: &str = "SELECT COUNT(*) FROM `products`";
        let rows = self.database.rows(COUNT, &[], |row| row.int(0)).await?;
        Ok(rows[0])
    }
}

fn read(row: &Row) -> Result<(Product, u64)> {
    let product = Product {
        sku: row.text_as(0, |text| text.parse().ok())?,
        name: row.text(1)?.into(),
        category: row.optional_text(2)?.map(Into::into),
        description: row.optional_text(3)?.map(Into::into),
        price: row.int(4)?,
        currency: row.text_as(5, |text| text.parse().ok())?,
    };
    Ok((product, row.int_as(6)?))
}
