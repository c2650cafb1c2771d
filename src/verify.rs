//! `millstream verify`: do log, tables and the gateway's books keep the shop's promises?

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::Broker;
use millstream_config::{Flags, Settings, Time};
use millstream_processors::sql::Tables;
use millstream_verifier::{Shop, Verdict};

use crate::{
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
/// Examples of one broken promise that are printed.
const EXAMPLES_MAX: usize = 5;

/// Runs it.
pub(crate) async fn run(args: &Args) -> Outcome {
    let settings = inspect::read(&args.flags)?;
    let opened = open::Opened::log(&settings)?;
    let tables = open::tables(&settings).await?;
    let verdict = settled_verdict(&opened.log, &tables, &settings, args.wait.duration()).await?;
    print(&verdict);
    if verdict.report.holds() {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}

/// Prints a table, and some examples of what is broken.
pub(crate) fn print(verdict: &Verdict) {
    let Verdict {
        report,
        open,
        unread,
    } = verdict;
    let mut table = Table::new(["PROMISE", "CHECKED", "BROKEN"]);
    for row in &report.rows {
        table.row([
            row.promise.to_owned(),
            row.checked.to_string(),
            row.broken.to_string(),
        ]);
    }
    table.print();
    for row in report.broken() {
        for example in row.examples.iter().take(EXAMPLES_MAX) {
            println!("broken: {}: {example}", row.promise);
        }
    }
    if !report.holds() {
        println!("promises are broken");
    } else if unread.is_empty() {
        println!("all promises hold");
    } else {
        let topics: Vec<_> = unread.iter().map(|topic| &**topic).collect();
        println!(
            "all promises hold so far; {open} orders are open, and work waits in {}",
            topics.join(", ")
        );
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
    let deadline = i64::try_from(settings.payment.deadline.duration().as_millis());
    let shop = Shop {
        application_id: settings.streams.application_id.clone(),
        sink: open::SINK.to_owned(),
        deadline_ms: deadline.unwrap_or(i64::MAX),
        zone: crate::shop::zone(settings)?,
        acknowledged: Vec::new(),
    };
    loop {
        let verdict = shop.look(log, tables).await?;
        let is_settled = verdict.report.holds() && verdict.unread.is_empty();
        if is_settled || began.elapsed() >= patience {
            return Ok(verdict);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
