//! `millstream import`: products, stock and orders from files, over HTTP.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use millstream_config::Time;

use crate::{
    baskets,
    client::Server,
    failure::{Failure, Outcome},
    progress::Progress,
    replay::{Figures, Replay, Tokens},
    stocking,
};

/// Flags of `import`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// A catalogue: CSV with sku, name, category and price_cents
    Products(Source),
    /// A stock list: CSV with sku and quantity. The pieces are added; the same list twice counts
    /// once
    Stock {
        #[command(flatten)]
        source: Source,
        /// Name of the list [default: the name of the file]
        #[arg(long, value_name = "NAME")]
        list: Option<String>,
    },
    /// Baskets: JSON Lines with order, customer, ts and lines of sku and qty. The same file twice
    /// orders once
    Orders {
        #[command(flatten)]
        source: Source,
        /// Do not say when the baskets were bought; else the shop must run with --allow-event-time
        #[arg(long)]
        now: bool,
    },
}

#[derive(clap::Args, Debug)]
struct Source {
    /// The file, gzipped or not
    file: PathBuf,
    /// Address of the shop
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Connections
    #[arg(long, value_name = "C", default_value_t = 32)]
    clients: usize,
}

/// How long one order is tried.
const GIVE_UP: Time = Time::from_secs(60);

/// Runs it.
pub(crate) async fn run(args: Args) -> Outcome {
    match args.what {
        What::Products(source) => {
            let products = baskets::read_rows(&source.file)?;
            let server = Server::parse(&source.url)?;
            let count = stocking::put_products(&server, source.clients, products).await?;
            println!("{count} products");
            Ok(())
        }
        What::Stock { source, list } => {
            let rows = baskets::read_rows(&source.file)?;
            let list = match list {
                Some(list) => list,
                None => file_name(&source)?,
            };
            let server = Server::parse(&source.url)?;
            let count = stocking::add_stock(&server, source.clients, &list, rows).await?;
            println!("{count} products counted");
            Ok(())
        }
        What::Orders { source, now } => orders(&source, !now).await,
    }
}

fn file_name(source: &Source) -> Outcome<String> {
    let name = source
        .file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.ok_or_else(|| Failure::Usage(format!("not a file. file=`{}`", source.file.display())))
}

async fn orders(source: &Source, event_time: bool) -> Outcome {
    let baskets = baskets::read_baskets(&source.file)?;
    let orders = baskets.len();
    if orders == 0 {
        println!("0 orders accepted");
        return Ok(());
    }
    let figures = Arc::new(Figures::new());
    let replay = Replay {
        server: Server::parse(&source.url)?,
        baskets: baskets.into(),
        orders,
        rate: 0.0,
        clients: source.clients,
        run: "import".to_owned(),
        tokens: Tokens::Approve,
        event_time,
        give_up: GIVE_UP.duration(),
        window: None,
    };
    let progress = Progress::accepting(orders as u64, figures.clone());
    replay.run(figures.clone(), Arc::new(|_, _| {})).await;
    progress.finish();
    let accepted = figures.accepted.load(Ordering::Relaxed);
    println!("{accepted} orders accepted");
    for reason in figures
        .reasons
        .lock()
        .expect("nothing panics with this lock")
        .iter()
    {
        println!("refused: {reason}");
    }
    if accepted == orders as u64 {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}
