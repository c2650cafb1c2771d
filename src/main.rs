//! The `millstream` program: the shop, and tools around it.

mod shop;
mod waiting;
mod open;
mod data_dir;
mod demo;
mod finality;
mod load;
mod replay;
mod import;
mod stocking;
mod baskets;
mod client;
mod verify;
mod inspect;
mod dlq;
mod topology;
mod reset;
mod bench;
mod progress;
mod table;
mod signals;
mod logging;
mod failure;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millstream_config::Flags;

/// An order pipeline on an embedded log or on Kafka, and the tools around it.
#[derive(Parser, Debug)]
#[command(name = "millstream", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the whole shop in one process, on real baskets, and check that it keeps its promises
    Demo(demo::Args),
    /// Run the shop
    Shop(Flags),
    /// Replay baskets over HTTP against a running shop, and check that none is lost
    Load(load::Args),
    /// Load products, stock or orders from files, over HTTP
    Import(import::Args),
    /// Check that log, tables and the gateway's books keep the shop's promises
    Verify(verify::Args),
    /// Print the shop's topology
    Topology(topology::Args),
    /// List the topics of the log
    Topics(Flags),
    /// List the shop's stores
    Stores(Flags),
    /// List the consumer groups, and how far they are behind
    Groups(Flags),
    /// Show records that could not be read or processed
    Dlq(dlq::Args),
    /// Make the streams begin anew: delete their state, set their offsets
    Reset(reset::Args),
    /// Measure throughput
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("millstream: no threads can be had: {error}");
            return ExitCode::from(1);
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Shop(flags) => shop::run(&flags).await,
            Command::Load(args) => load::run(args).await,
            Command::Import(args) => import::run(args).await,
            Command::Verify(args) => verify::run(&args).await,
            Command::Topology(args) => topology::run(&args),
            Command::Topics(flags) => inspect::topics(&flags),
            Command::Stores(flags) => inspect::stores(&flags),
            Command::Groups(flags) => inspect::groups(&flags),
            Command::Dlq(args) => dlq::run(&args),
            Command::Reset(args) => reset::run(&args),
            Command::Bench(args) => bench::run(args).await,
        }
    });
    // What still blocks was given its time; nothing that matters is lost with it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
