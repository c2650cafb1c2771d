//! The `millstream` program: the shop, and tools around it.

mod baskets;
mod bench;
mod client;
mod failure;
mod import;
mod load;
mod progress;
mod replay;
mod signals;
mod stocking;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An order pipeline on an embedded log or on Kafka, and the tools around it.
#[derive(Parser, Debug)]
#[command(name = "millstream", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Replay baskets over HTTP against a running shop, and check that none is lost
    Load(load::Args),
    /// Load products, stock or orders from files, over HTTP
    Import(import::Args),
    /// Measure throughput
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("millstream: no threads can be had: {error}");
            return ExitCode::from(1);
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Load(args) => load::run(args).await,
            Command::Import(args) => import::run(args).await,
            Command::Bench(args) => bench::run(args).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
