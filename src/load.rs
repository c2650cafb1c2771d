//! `millstream load`: replays baskets against a running shop, and checks that none is lost.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_config::Time;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    baskets::Baskets,
    client::{Call, Server},
    failure::{Failure, Outcome},
    progress::Progress,
    replay::{Figures, OnAccepted, Replay, Tokens},
    stocking,
};

/// Flags of `load`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Address of the shop; several times for its instances, where one is asked for another
    #[arg(long, value_name = "URL", required = true)]
    url: Vec<String>,
    /// How many orders
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    orders: usize,
    /// Orders a second; 0 is as fast as possible
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    rate: f64,
    /// Folder with orders.jsonl.gz and products.csv.gz [default: the built-in sample]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Connections
    #[arg(long, value_name = "C", default_value_t = 64)]
    clients: usize,
    /// Load catalogue and stock for these baskets first
    #[arg(long)]
    setup: bool,
    /// Say when the baskets were bought; the shop must run with --allow-event-time
    #[arg(long)]
    event_time: bool,
    /// Pay a few percent of the orders with cards that are declined, late or flaky
    #[arg(long)]
    mixed_payments: bool,
    /// Begins the idempotency keys; the same run twice orders once [default: one that is new]
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Write the ids of the orders that the shop took to this file, one a line
    #[arg(long, value_name = "FILE")]
    acked: Option<PathBuf>,
    /// How long one order is tried while the shop is away
    #[arg(long, value_name = "TIME", default_value = "60s")]
    give_up: Time,
    /// How long to wait at the end until all orders are final
    #[arg(long, value_name = "TIME", default_value = "120s")]
    final_within: Time,
}

/// How often an order that is not final yet is asked for.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Runs it.
pub(crate) async fn run(args: Args) -> Outcome {
    let server = Server::of(args.url.iter().map(String::as_str))?;
    if !(args.rate.is_finite() && args.rate >= 0.0) {
        return Err(Failure::Usage(format!(
            "--rate must be 0 or more. rate=`{}`",
            args.rate
        )));
    }
    let Baskets { baskets, products } = Baskets::open(args.data.as_deref())?;
    if baskets.is_empty() {
        return Err(Failure::Usage("there are no baskets to replay".to_owned()));
    }
    let run = args
        .run
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    if args.setup {
        let wanted = baskets.iter().cycle().take(args.orders);
        let stock = stocking::stock_for(wanted);
        let list = format!("stock-{run}");
        println!(
            "products {}",
            stocking::put_products(&server, args.clients, products).await?
        );
        println!(
            "stock {}",
            stocking::add_stock(&server, args.clients, &list, stock).await?
        );
    }
    let acked = Acked::new(args.acked.as_deref())?;
    let figures = Arc::new(Figures::new());
    let replay = Replay {
        server: server.clone(),
        baskets: baskets.into(),
        orders: args.orders,
        rate: args.rate,
        clients: args.clients,
        run,
        tokens: if args.mixed_payments {
            Tokens::Mixed
        } else {
            Tokens::Approve
        },
        event_time: args.event_time,
        give_up: args.give_up.duration(),
        window: None,
    };
    let started = Instant::now();
    let progress = Progress::accepting(args.orders as u64, figures.clone());
    replay.run(figures.clone(), acked.listener()).await;
    progress.finish();
    let took = started.elapsed();
    let ids = acked.into_ids()?;
    let ends = await_final(&server, args.clients, ids, args.final_within.duration()).await;
    summary(&figures, took, &ends);
    match ends.lost.is_empty()
        && ends.open.is_empty()
        && figures.given_up.load(Ordering::Relaxed) == 0
    {
        true => Ok(()),
        false => Err(Failure::Told),
    }
}

/// The orders that the shop took.
struct Acked {
    ids: Arc<Mutex<Vec<String>>>,
    file: Option<Arc<Mutex<BufWriter<File>>>>,
}

impl Acked {
    fn new(path: Option<&std::path::Path>) -> Outcome<Self> {
        let create = |path: &std::path::Path| {
            let unwritable = |e| Failure::at(format!("cannot write `{}`", path.display()), &e);
            File::create(path)
                .map(|file| Arc::new(Mutex::new(BufWriter::new(file))))
                .map_err(unwritable)
        };
        Ok(Self {
            ids: Arc::default(),
            file: path.map(create).transpose()?,
        })
    }

    fn listener(&self) -> OnAccepted {
        let (ids, file) = (self.ids.clone(), self.file.clone());
        Arc::new(move |id, _| {
            ids.lock()
                .expect("nothing panics with this lock")
                .push(id.to_owned());
            if let Some(file) = &file {
                let mut file = file.lock().expect("nothing panics with this lock");
                // What cannot be written shows when the file is closed.
                let _ = writeln!(file, "{id}").and_then(|()| file.flush());
            }
        })
    }

    fn into_ids(self) -> Outcome<Vec<String>> {
        if let Some(file) = &self.file {
            let mut file = file.lock().expect("nothing panics with this lock");
            file.flush()
                .map_err(|e| Failure::at("the list of orders cannot be written", &e))?;
        }
        Ok(std::mem::take(
            &mut *self.ids.lock().expect("nothing panics with this lock"),
        ))
    }
}

/// How the orders ended.
#[derive(Debug, Default)]
struct Ends {
    confirmed: u64,
    cancelled: u64,
    /// The shop does not know them.
    lost: Vec<String>,
    /// Not final in time.
    open: Vec<String>,
}

#[derive(Deserialize)]
struct OrderStatus {
    status: String,
}

/// Asks for each order until it is final, over some connections.
async fn await_final(server: &Server, clients: usize, ids: Vec<String>, within: Duration) -> Ends {
    let until = Instant::now() + within;
    let clients = clients.clamp(1, ids.len().max(1));
    let waiting = Arc::new(Mutex::new(VecDeque::from(ids)));
    let ends = Arc::new(Mutex::new(Ends::default()));
    let mut workers = JoinSet::new();
    for _ in 0..clients {
        let (waiting, ends) = (waiting.clone(), ends.clone());
        let mut connection = server.connection();
        workers.spawn(async move {
            let next = || {
                waiting
                    .lock()
                    .expect("nothing panics with this lock")
                    .pop_front()
            };
            let ends = || ends.lock().expect("nothing panics with this lock");
            let retries = AtomicU64::new(0);
            while let Some(id) = next() {
                let left = until.saturating_duration_since(Instant::now());
                let call = Call::get(format!("/v1/orders/{id}"));
                let answer = connection.send_until(&call, left, &retries).await;
                let status = answer
                    .as_ref()
                    .ok()
                    .and_then(|a| a.json::<OrderStatus>().ok());
                match (answer, status.as_ref().map(|s| s.status.as_str())) {
                    (Ok(_), Some("CONFIRMED" | "REFUNDED")) => ends().confirmed += 1,
                    (Ok(_), Some("CANCELLED")) => ends().cancelled += 1,
                    (Ok(answer), _) if answer.status == 404 && left.is_zero() => {
                        ends().lost.push(id)
                    }
                    _ if left.is_zero() => ends().open.push(id),
                    _ => {
                        waiting
                            .lock()
                            .expect("nothing panics with this lock")
                            .push_back(id);
                        tokio::time::sleep(ASK_EVERY).await;
                    }
                }
            }
        });
    }
    while workers.join_next().await.is_some() {}
    std::mem::take(&mut *ends.lock().expect("nothing panics with this lock"))
}

/// Ids that are printed of those lost or open.
const IDS_PRINTED_MAX: usize = 10;

fn summary(figures: &Figures, took: Duration, ends: &Ends) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let latency = figures
        .latency_us
        .lock()
        .expect("nothing panics with this lock");
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "accepted    {:>9}  in {:.1} s",
        count(&figures.accepted),
        took.as_secs_f64()
    );
    println!("refused     {:>9}", count(&figures.refused));
    println!("given up    {:>9}", count(&figures.given_up));
    println!("retries     {:>9}", count(&figures.retries));
    println!("confirmed   {:>9}", ends.confirmed);
    println!("cancelled   {:>9}", ends.cancelled);
    println!("not final   {:>9}", ends.open.len());
    println!("lost        {:>9}", ends.lost.len());
    println!(
        "orders/s    {:>9.0}",
        count(&figures.accepted) as f64 / took.as_secs_f64()
    );
    println!(
        "accepted within, ms: p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
        ms(0.5),
        ms(0.99),
        ms(0.999),
        ms(1.0)
    );
    for reason in figures
        .reasons
        .lock()
        .expect("nothing panics with this lock")
        .iter()
    {
        println!("refused or given up: {reason}");
    }
    for (what, ids) in [("lost", &ends.lost), ("not final", &ends.open)] {
        for id in ids.iter().take(IDS_PRINTED_MAX) {
            println!("{what}: {id}");
        }
    }
}
