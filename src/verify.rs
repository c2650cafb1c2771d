//! `millstream verify`: do log, tables and the gateway's books keep the shop's promises?

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::Broker;
use millstream_config::{Flags, Settings, Time};
use millstream_processors::{
    audit::{Audit, Expect},
    sql::Tables,
};

use crate::{
    evidence::{Comparison, LogEvidence, TableEvidence},
    failure::{Failure, Outcome},
    inspect, open,
    table::Table,
};

/// Flags of `verify`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Look again until everything has come to rest, at most this long
    #[arg(long, value_name = "TIME", default_value = "0s")]
    wait: Time,
}

/// The pause before another look.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How much later than its deadline an order may be final: timers are looked at now and then.
const SLACK_MS: i64 = 10_000;
/// Examples of one broken promise that are printed.
const EXAMPLES_MAX: usize = 5;

/// Runs it.
pub(crate) async fn run(args: &Args) -> Outcome {
    let settings = inspect::read(&args.flags)?;
    let opened = open::Opened::log(&settings)?;
    let tables = open::tables(&settings).await?;
    let verdict = settled_verdict(&opened.log, &tables, &settings, args.wait.duration()).await?;
    verdict.print();
    if verdict.holds() {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}

/// What was found about one promise.
pub(crate) struct Row {
    /// The promise.
    pub(crate) what: String,
    /// How many things were looked at.
    pub(crate) checked: u64,
    /// How many of them break it.
    pub(crate) broken: u64,
    /// Some of those, in words.
    pub(crate) examples: Vec<String>,
}

/// What was found.
pub(crate) struct Verdict {
    rows: Vec<Row>,
    /// Orders that are not final and need not be yet.
    open: u64,
    /// Topics of which not all was read. When there are none, all promises are checked to the
    /// letter.
    unread: BTreeSet<Arc<str>>,
}

impl Verdict {
    /// True when no promise is broken.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.broken == 0)
    }

    /// Orders that are not final.
    pub(crate) fn open(&self) -> u64 {
        self.open
    }

    /// Prints a table, and some examples of what is broken.
    pub(crate) fn print(&self) {
        let mut table = Table::new(["PROMISE", "CHECKED", "BROKEN"]);
        for row in &self.rows {
            table.row([
                row.what.clone(),
                row.checked.to_string(),
                row.broken.to_string(),
            ]);
        }
        table.print();
        for row in self.rows.iter().filter(|row| row.broken > 0) {
            for example in row.examples.iter().take(EXAMPLES_MAX) {
                println!("broken: {}: {example}", row.what);
            }
        }
        if !self.holds() {
            println!("promises are broken");
        } else if self.unread.is_empty() {
            println!("all promises hold");
        } else {
            let topics: Vec<_> = self.unread.iter().map(|topic| &**topic).collect();
            println!(
                "all promises hold so far; {} orders are open, and work waits in {}",
                self.open,
                topics.join(", ")
            );
        }
    }
}

/// Looks until nothing is on its way and all promises hold, at most for so long; the last look
/// counts.
pub(crate) async fn settled_verdict(
    log: &Arc<dyn Broker>,
    tables: &Tables,
    settings: &Settings,
    patience: Duration,
) -> Outcome<Verdict> {
    let began = Instant::now();
    loop {
        let verdict = look(log, tables, settings).await?;
        if (verdict.holds() && verdict.unread.is_empty()) || began.elapsed() >= patience {
            return Ok(verdict);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One look. The order of reading makes that what is read later may only know more: a running shop
/// is no reason for an alarm.
async fn look(log: &Arc<dyn Broker>, tables: &Tables, settings: &Settings) -> Outcome<Verdict> {
    let application = settings.streams.application_id.clone();
    let evidence = blocking({
        let (log, application) = (log.clone(), application.clone());
        move || LogEvidence::gather(&*log, &application)
    })
    .await?;
    let in_tables = TableEvidence::gather(tables).await?;
    let behind = blocking({
        let (log, progress) = (log.clone(), in_tables.progress.clone());
        move || TableEvidence::unread(&*log, &progress)
    })
    .await?;
    let unread: BTreeSet<Arc<str>> = evidence.unread.union(&behind).cloned().collect();
    let settled = unread.is_empty();
    let deadline = i64::try_from(settings.payment.deadline.duration().as_millis());
    let final_before = evidence
        .newest_ms
        .saturating_sub(deadline.unwrap_or(i64::MAX))
        .saturating_sub(SLACK_MS);
    let expect = Expect {
        final_before,
        settled,
        zone: crate::shop::zone(settings)?,
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
        Ok(verdict(audit, &evidence, comparison, unread))
    })
    .await
}

fn verdict(
    audit: Audit,
    evidence: &LogEvidence,
    comparison: Comparison<'_>,
    unread: BTreeSet<Arc<str>>,
) -> Verdict {
    let report = audit.finish();
    let of_audit = report.findings.iter().map(|(promise, finding)| Row {
        what: promise.to_string(),
        checked: finding.checked,
        broken: finding.violated,
        examples: finding
            .examples
            .iter()
            .map(|violation| violation.detail.clone())
            .collect(),
    });
    let mut rows: Vec<Row> = of_audit.collect();
    rows.extend(evidence.rows());
    rows.extend(comparison.into_rows());
    Verdict {
        rows,
        open: report.open,
        unread,
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(act).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Failure::at("reading the log failed", &error)),
    }
}
