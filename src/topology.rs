//! `millstream topology`: the shop's topology for people and programs.

use clap::ValueEnum;
use millstream_processors::topology::{ShopPolicy, shop};

use crate::failure::{Failure, Outcome};

/// Flags of `topology`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Mermaid,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let description = shop(&ShopPolicy::default())?.describe();
    match args.format {
        Format::Text => print!("{description}"),
        Format::Mermaid => print!("{}", description.mermaid()),
        Format::Json => {
            let text = serde_json::to_string_pretty(&description);
            println!(
                "{}",
                text.map_err(|e| Failure::at("it has no JSON form", &e))?
            );
        }
    }
    Ok(())
}
