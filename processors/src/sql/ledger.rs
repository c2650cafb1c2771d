//! The books of the simulated payment gateway.

use std::sync::Arc;

use millstream_sinks::{Changes, Result, Row};

use super::{Tables, schema::GATEWAY_LEDGER};
use crate::{
    model::{OrderId, PaymentAction},
    payment::LedgerEntry,
};

/// How many entries a scan reads at once.
const SCAN_PAGE: i64 = 5000;
/// Most orders whose books are read by one query.
const ORDERS_PER_QUERY_MAX: usize = 500;

impl Tables {
    /// Enters into the gateway's books, in one transaction. An action that was entered before stays
    /// as it was.
    ///
    /// # Errors
    /// What the database says.
    pub async fn enter(&self, entries: &[LedgerEntry]) -> Result<()> {
        let mut changes = Changes::default();
        for entry in entries {
            changes.put(
                &GATEWAY_LEDGER,
                [
                    entry.idempotency_key().into(),
                    entry.order_id.to_string().into(),
                    entry.action.as_str().into(),
                    entry.amount.into(),
                    entry.currency.code().into(),
                    status(entry.action).into(),
                    entry.visible_at.into(),
                    entry.at.into(),
                ],
            );
        }
        self.database.write(changes).await
    }

    /// The books of some orders, in no order.
    ///
    /// # Errors
    /// What the database says.
    pub async fn books_of(&self, orders: &[OrderId]) -> Result<Vec<LedgerEntry>> {
        let mut found = Vec::new();
        for orders in orders.chunks(ORDERS_PER_QUERY_MAX) {
            let marks = vec!["?"; orders.len()].join(",");
            let sql = format!("{SELECT} WHERE `order_id` IN ({marks})");
            let ids: Vec<_> = orders.iter().map(|id| id.to_string().into()).collect();
            found.extend(
                self.database
                    .rows(sql, &ids, |row| Ok(read(row)?.1))
                    .await?,
            );
        }
        Ok(found)
    }

    /// Every entry of the books, page by page.
    ///
    /// # Errors
    /// What the database says.
    pub async fn for_each_ledger_entry(&self, mut each: impl FnMut(LedgerEntry)) -> Result<()> {
        let sql =
            format!("{SELECT} WHERE `idempotency_key` > ? ORDER BY `idempotency_key` LIMIT ?");
        let mut after: Arc<str> = "".into();
        loop {
            let page = [after.clone().into(), SCAN_PAGE.into()];
            let rows = self.database.rows(sql.clone(), &page, read).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            after = last.as_str().into();
            rows.into_iter().for_each(|(_, entry)| each(entry));
        }
    }
}

const SELECT: &str = "SELECT `idempotency_key`, `order_id`, `action`, `amount`, `currency`, \
    `due_at`, `created_at` FROM `gateway_ledger`";

fn read(row: &Row) -> Result<(String, LedgerEntry)> {
    let entry = LedgerEntry {
        order_id: row.text_as(1, |text| text.parse().ok())?,
        action: row.text_as(2, PaymentAction::parse)?,
        amount: row.int(3)?,
        currency: row.text_as(4, |text| text.parse().ok())?,
        visible_at: row.int(5)?,
        at: row.int(6)?,
    };
    Ok((row.text(0)?, entry))
}

/// What the entry means for the payment, for people who read the table.
fn status(action: PaymentAction) -> &'static str {
    match action {
        PaymentAction::Authorise => "AUTHORISED",
        PaymentAction::Query => "QUERIED",
        PaymentAction::Capture => "CAPTURED",
        PaymentAction::Void => "VOIDED",
        PaymentAction::Refund => "REFUNDED",
    }
}
