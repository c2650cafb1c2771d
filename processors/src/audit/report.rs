//! What an audit expects, and what it finds.

use std::{collections::BTreeMap, fmt};

use chrono_tz::Tz;

/// The most violations of one promise that a report keeps in words; all are counted.
pub const VIOLATIONS_KEPT_MAX: usize = 20;

/// How strict the audit is.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Orders that last changed before this time must be final, in epoch milliseconds.
    pub final_before: i64,
    /// True when nothing is on its way any more: what was confirmed is captured and sold.
    pub settled: bool,
    /// The zone whose days the reports count by.
    pub zone: Tz,
}

impl Expect {
    /// Everything has come to rest.
    pub fn settled() -> Self {
        Self {
            final_before: i64::MAX,
            settled: true,
            zone: Tz::UTC,
        }
    }
}

/// A promise of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Promise {
    /// Every order that was accepted is known.
    NoOrderLost,
    /// Every order is final by its deadline.
    OrdersFinal,
    /// The total of a priced order is the sum of its lines.
    TotalsAddUp,
    /// No product has a negative number of pieces on hand, available, reserved or sold.
    NothingOversold,
    /// What was received is on hand or sold.
    StockAddsUp,
    /// What was sold is what was confirmed.
    SoldIsConfirmed,
    /// What is reserved is held for somebody, and for no order that is final.
    ReservedIsHeld,
    /// The gateway took money at most once for an order.
    CapturedOnce,
    /// Payments are what the gateway's books say.
    LedgerAgrees,
    /// Confirmed orders are paid for, others are not charged.
    ChargedIsConfirmed,
    /// The reports count what the orders say.
    ReportsAgree,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoOrderLost,
        Self::OrdersFinal,
        Self::TotalsAddUp,
        Self::NothingOversold,
        Self::StockAddsUp,
        Self::SoldIsConfirmed,
        Self::ReservedIsHeld,
        Self::CapturedOnce,
        Self::LedgerAgrees,
        Self::ChargedIsConfirmed,
        Self::ReportsAgree,
    ];

    /// The promise in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoOrderLost => "no accepted order is lost",
            Self::OrdersFinal => "every order is final by its deadline",
            Self::TotalsAddUp => "totals are the sums of their lines",
            Self::NothingOversold => "nothing is oversold",
            Self::StockAddsUp => "received = on hand + sold",
            Self::SoldIsConfirmed => "sold = confirmed",
            Self::ReservedIsHeld => "reserved = held for open orders",
            Self::CapturedOnce => "at most one capture an order",
            Self::LedgerAgrees => "payments = the gateway's ledger",
            Self::ChargedIsConfirmed => "charged = confirmed",
            Self::ReportsAgree => "reports = orders",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What is wrong, values last.
    pub detail: String,
}

/// What was found about one promise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// How many things were looked at.
    pub checked: u64,
    /// How many of them break the promise.
    pub violated: u64,
    /// The first of those, in words.
    pub examples: Vec<Violation>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// By promise, all of them.
    pub findings: BTreeMap<Promise, Finding>,
    /// Orders that are not final and need not be yet.
    pub open: u64,
}

impl Report {
    /// True when no promise is broken.
    pub fn holds(&self) -> bool {
        self.findings.values().all(|finding| finding.violated == 0)
    }

    /// The violations that are kept.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.findings.values().flat_map(|finding| &finding.examples)
    }
}
