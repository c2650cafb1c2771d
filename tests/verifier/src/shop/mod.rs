//! The shop's promises: log, tables and the gateway's books say the same.

mod log;
mod read;
mod steps;
mod tables;

use std::{collections::BTreeSet, sync::Arc};

use chrono_tz::Tz;
use millstream_broker::Broker;
use millstream_processors::{
    audit::{Audit, Expect},
    model::{CustomerId, OrderId},
    payment::LedgerEntry,
    sql::Tables,
};

use self::{
    log::LogEvidence,
    tables::{Comparison, TableEvidence},
};
use crate::{Error, Report, Result, Row};

/// How much later than its deadline an order may be final: timers are looked at now and then.
const SLACK_MS: i64 = 10_000;

/// The promises of the shop beside those of its audit
/// ([`Promise`](millstream_processors::audit::Promise)), as [`Row::promise`] says them.
pub mod shop_promises {
    /// The events of an order have the versions 1, 2, 3 and so on.
    pub const VERSIONS: &str = "events of an order are numbered without a gap";
    /// After a final status comes no other, but for a refund.
    pub const ONE_END: &str = "an order has one final state";
    /// Every order has a command that placed it.
    pub const PLACED: &str = "every order was placed";
    /// Stock is never less than nothing.
    pub const EVERY_MOMENT: &str = "nothing was oversold at any moment";
    /// The stock of each event is the one before and what happened.
    pub const STEPS: &str = "every change of stock adds up";
    /// The lines of confirmed orders are sold to them.
    pub const LINES_SOLD: &str = "lines of confirmed orders are sold to them";
    /// Orders that were acknowledged at the door are in the log.
    pub const ACKNOWLEDGED: &str = "acknowledged orders are in the log";
    /// An idempotency key of a customer makes one order.
    pub const ONE_KEY: &str = "one idempotency key, one order";
    /// The table of orders, with lines and payments.
    pub const TABLE_ORDERS: &str = "table orders = log";
    /// The table of the orders' events.
    pub const TABLE_EVENTS: &str = "table order_events = log";
    /// The table of stock.
    pub const TABLE_STOCK: &str = "table inventory = log";
    /// The table of products.
    pub const TABLE_PRODUCTS: &str = "table products = log";
}
use shop_promises as promises;

/// An order that the door acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The id in the answer.
    pub order_id: OrderId,
    /// The customer and the idempotency key of the request, where they are known.
    pub request: Option<(CustomerId, String)>,
}

/// What is verified of a shop.
#[derive(Clone, Debug)]
pub struct Shop {
    /// The application's id: its group, and what its topics begin with.
    pub application_id: String,
    /// The name of its sink in `sink_progress`.
    pub sink: String,
    /// How long an order may take, in milliseconds.
    pub deadline_ms: i64,
    /// The zone whose days the reports count by.
    pub zone: Tz,
    /// Orders that must be in the log.
    pub acknowledged: Vec<Acknowledged>,
}

/// What a look at a shop found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Promise by promise.
    pub report: Report,
    /// Orders that are not final and need not be yet.
    pub open: u64,
    /// Topics of which not all was read. When there are none, all promises are checked to the
    /// letter.
    pub unread: BTreeSet<Arc<str>>,
}

impl Shop {
    /// Looks once. The order of reading makes that what is read later may only know more: a
    /// running shop is no reason for an alarm.
    ///
    /// # Errors
    /// When log or database do not answer, or a record of the shop is unreadable.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn look(&self, log: &Arc<dyn Broker>, tables: &Tables) -> Result<Verdict> {
        let evidence = blocking({
            let (log, shop) = (log.clone(), self.clone());
            move || LogEvidence::gather(&*log, &shop.application_id, &shop.acknowledged)
        })
        .await?;
        let in_tables = TableEvidence::gather(tables, &self.sink).await?;
        let behind = blocking({
            let (log, progress) = (log.clone(), in_tables.progress.clone());
            move || TableEvidence::unread(&*log, &progress)
        })
        .await?;
        let unread: BTreeSet<Arc<str>> = evidence.unread.union(&behind).cloned().collect();
        let settled = unread.is_empty();
        let final_before = evidence
            .newest_ms
            .saturating_sub(self.deadline_ms)
            .saturating_sub(SLACK_MS);
        let expect = Expect {
            final_before,
            settled,
            zone: self.zone,
        };
        let log = log.clone();
        blocking(move || {
            let mut audit = Audit::new(expect);
            let mut comparison = Comparison::new(&evidence, &in_tables, settled);
            evidence.tell(&mut audit, settled);
            in_tables.tell(&mut audit, settled, |id| evidence.knows(id));
            evidence.for_each_order(&*log, &mut |order| {
                comparison.order(order);
                audit.order(order);
            })?;
            let audited = audit.finish();
            let mut report: Report = rows(&audited).collect();
            let compared = comparison.into_rows();
            report.extend(evidence.into_rows());
            report.extend(compared);
            Ok(Verdict {
                report,
                open: audited.open,
                unread,
            })
        })
        .await
    }
}

impl Shop {
    /// Looks once, at the log and the gateway's books alone: of a shop whose tables nobody keeps.
    ///
    /// # Errors
    /// When the log does not answer, or a record of the shop is unreadable.
    pub fn look_at_log(&self, log: &dyn Broker, books: &[LedgerEntry]) -> Result<Verdict> {
        let evidence = LogEvidence::gather(log, &self.application_id, &self.acknowledged)?;
        let unread = evidence.unread.clone();
        let settled = unread.is_empty();
        let mut audit = Audit::new(Expect {
            final_before: evidence.newest_ms - self.deadline_ms - SLACK_MS,
            settled,
            zone: self.zone,
        });
        evidence.tell(&mut audit, settled);
        audit.tells_ledger();
        books.iter().for_each(|entry| audit.ledger(entry));
        LogEvidence::tell_reports(log, &mut audit)?;
        evidence.for_each_order(log, &mut |order| audit.order(order))?;
        let audited = audit.finish();
        let mut report: Report = rows(&audited).collect();
        report.extend(evidence.into_rows());
        Ok(Verdict {
            report,
            open: audited.open,
            unread,
        })
    }
}

fn rows(report: &millstream_processors::audit::Report) -> impl Iterator<Item = Row> {
    report.findings.iter().map(|(promise, finding)| Row {
        promise: promise.as_str(),
        checked: finding.checked,
        broken: finding.violated,
        examples: finding
            .examples
            .iter()
            .map(|violation| violation.detail.clone())
            .collect(),
        bounded: None,
    })
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(act).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::Broken(error)),
    }
}
