//! `millstream demo`: the whole shop in one process, on real baskets.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use millstream_config::{Flags, Settings, Time};
use tokio::sync::Semaphore;

use crate::{
    baskets::Baskets,
    client::Server,
    failure::{Failure, Outcome},
    finality::{Finality, Seen},
    logging,
    progress::Progress,
    replay::{Figures, Replay, Tokens},
    shop::{RunningShop, start_unless_told},
    signals::Stop,
    stocking, verify,
};

/// Flags of `demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How many orders
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    orders: usize,
    /// Orders a second; 0 is as fast as possible
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    rate: f64,
    /// Folder with orders.jsonl.gz and products.csv.gz [default: the built-in sample]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave when all orders are final; exit code 1 if one is not, or a promise is broken
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Connections over which orders come.
const CLIENTS: usize = 64;
/// Orders on their way at a time when they come as fast as possible.
const WINDOW: usize = 1_000;
/// How long one order is tried.
const GIVE_UP: Duration = Duration::from_secs(30);
/// How much later than their deadline orders may become final before the demo gives up.
const FINAL_SLACK: Duration = Duration::from_secs(60);
/// How long everything may take to come to rest after the last order is final.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How often the demo looks whether all orders are final.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a demo does otherwise than a shop: baskets say when they were bought, and nobody wants to
/// wait a minute for a gateway that never answers.
fn built_in(data_dir: PathBuf) -> Settings {
    let mut settings = Settings {
        data_dir,
        allow_event_time: true,
        ..Settings::default()
    };
    settings.payment.deadline = Time::from_secs(4);
    settings.payment.call_timeout = Time::from_millis(500);
    settings.payment.retry_first = Time::from_millis(500);
    settings.log.filter = "warn".to_owned();
    settings
}

/// Runs it.
pub(crate) async fn run(args: Args) -> Outcome {
    if !(args.rate.is_finite() && args.rate >= 0.0) {
        return Err(Failure::Usage(format!(
            "--rate must be 0 or more. rate=`{}`",
            args.rate
        )));
    }
    let fresh = tempfile::Builder::new()
        .prefix("millstream-demo-")
        .tempdir();
    let fresh = fresh.map_err(|e| Failure::at("no folder can be made for the demo", &e))?;
    let settings = Settings::load(&built_in(fresh.path().to_owned()), &args.flags)?;
    logging::start(&settings.log)?;
    let baskets = Baskets::open(args.data.as_deref())?;
    if baskets.baskets.is_empty() {
        return Err(Failure::Usage("there are no baskets to replay".to_owned()));
    }
    let mut stop = Stop::listen()?;
    let Some(shop) = start_unless_told(&settings, &mut stop).await? else {
        return Err(Failure::Failed(
            "the demo was stopped before its end".to_owned(),
        ));
    };
    shop.tell();
    let outcome = tokio::select! {
        outcome = show(&args, &shop, baskets) => outcome,
        failure = shop.failed() => Err(failure),
        () = stop.told() => Err(Failure::Failed("the demo was stopped before its end".to_owned())),
    };
    if outcome.is_ok() && !args.exit {
        println!("dashboard {}/ (Ctrl-C ends the demo)", shop.admin_url());
        tokio::select! {
            () = stop.told() => {}
            failure = shop.failed() => return Err(failure),
        }
    }
    let stopped = shop.stop().await;
    match outcome? {
        true => stopped,
        false => Err(Failure::Told),
    }
}

/// Fills the shelves, sends the orders, waits for their ends and checks everything. False when
/// something is not as it should be.
async fn show(args: &Args, shop: &RunningShop, baskets: Baskets) -> Outcome<bool> {
    shop.ready().await?;
    let url = shop.url().ok_or_else(|| {
        Failure::Usage("a demo needs all roles, door and streams among them".to_owned())
    })?;
    let server = Server::parse(&url)?;
    let Baskets { baskets, products } = baskets;
    let run = uuid::Uuid::new_v4().simple().to_string();
    fill_shelves(&server, args, &run, &baskets, products).await?;

    let window = Arc::new(Semaphore::new(WINDOW));
    let finality = Finality::follow(&**shop.log(), window.clone())?;
    let seen = finality.seen().clone();
    let figures = Arc::new(Figures::new());
    let replay = Replay {
        server,
        baskets: baskets.into(),
        orders: args.orders,
        rate: args.rate,
        clients: CLIENTS,
        run,
        tokens: Tokens::Mixed,
        event_time: shop.settings().allow_event_time,
        give_up: GIVE_UP,
        window: Some(window),
    };
    let start = Instant::now();
    let progress = progress(args.orders as u64, figures.clone(), seen.clone());
    replay.run(figures.clone(), seen.listener()).await;
    let accepted = figures.accepted.load(Ordering::Relaxed);
    let patience = shop.settings().payment.deadline.duration() + FINAL_SLACK;
    let all_final = await_final(&seen, accepted, patience).await;
    progress.finish();
    drop(finality);

    let verdict =
        verify::settled_verdict(shop.log(), shop.tables(), shop.settings(), SETTLE_MAX).await?;
    summary(&figures, &seen, start);
    println!();
    verify::print(&verdict);
    let complete = accepted == args.orders as u64;
    Ok(complete && all_final && verdict.open == 0 && verdict.report.holds())
}

async fn fill_shelves(
    server: &Server,
    args: &Args,
    run: &str,
    baskets: &[crate::baskets::Basket],
    products: Vec<crate::baskets::Product>,
) -> Outcome {
    let began = Instant::now();
    let products = stocking::put_products(server, CLIENTS, products).await?;
    let stock = stocking::stock_for(baskets.iter().cycle().take(args.orders));
    let stock = stocking::add_stock(server, CLIENTS, &format!("stock-{run}"), stock).await?;
    let took = began.elapsed().as_secs_f64();
    println!("catalogue of {products} products and stock of {stock} loaded in {took:.1} s");
    Ok(())
}

fn progress(orders: u64, figures: Arc<Figures>, seen: Arc<Seen>) -> Progress {
    let start = Instant::now();
    Progress::new(orders, move || {
        let accepted = figures.accepted.load(Ordering::Relaxed);
        let confirmed = seen.confirmed.load(Ordering::Relaxed);
        let cancelled = seen.cancelled.load(Ordering::Relaxed);
        let ended = confirmed + cancelled;
        let rate = ended as f64 / start.elapsed().as_secs_f64();
        let latency = seen
            .latency_us
            .lock()
            .expect("nothing panics with this lock");
        let ms = |quantile| latency.value_at_quantile(quantile) / 1000;
        let message = format!(
            "final: {accepted} accepted, {confirmed} confirmed, {cancelled} cancelled, \
             {rate:.0} orders/s, p50 {} ms, p99 {} ms",
            ms(0.5),
            ms(0.99),
        );
        (ended, message)
    })
}

async fn await_final(seen: &Seen, accepted: u64, patience: Duration) -> bool {
    let began = Instant::now();
    while seen.ended() < accepted {
        if began.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

fn summary(figures: &Figures, seen: &Seen, start: Instant) {
    let accepted = figures.accepted.load(Ordering::Relaxed);
    let refused =
        figures.refused.load(Ordering::Relaxed) + figures.given_up.load(Ordering::Relaxed);
    let ms = |histogram: &std::sync::Mutex<hdrhistogram::Histogram<u64>>, quantile| {
        let histogram = histogram.lock().expect("nothing panics with this lock");
        histogram.value_at_quantile(quantile) as f64 / 1000.0
    };
    println!();
    println!("accepted    {accepted:>8}   refused {refused}");
    println!("confirmed   {:>8}", seen.confirmed.load(Ordering::Relaxed));
    println!("cancelled   {:>8}", seen.cancelled.load(Ordering::Relaxed));
    // The rest waits for a gateway that does not answer, until its deadline: that says nothing of
    // the shop.
    for (share, percent) in [(0.99, 99), (1.0, 100)] {
        if let Some(took) = seen.ended_within(start, accepted, share) {
            let took = took.as_secs_f64();
            let rate = accepted as f64 * share / took;
            println!("{percent:>3} % final after {took:.2} s: {rate:.0} orders/s");
        }
    }
    let (taken, ended) = (&figures.latency_us, &seen.latency_us);
    println!(
        "accepted within, ms: p50 {:.1}, p99 {:.1}",
        ms(taken, 0.5),
        ms(taken, 0.99)
    );
    println!(
        "final within, ms:    p50 {:.1}, p99 {:.1}",
        ms(ended, 0.5),
        ms(ended, 0.99)
    );
    if let Some(mib) = peak_memory_mib() {
        println!("peak memory {mib} MiB, clients included");
    }
    for reason in figures
        .reasons
        .lock()
        .expect("nothing panics with this lock")
        .iter()
    {
        println!("refused: {reason}");
    }
}

/// The most memory that this process had so far.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
