//! `millstream dlq`: records that could not be read or processed.

use std::collections::BTreeMap;

use millstream_broker::Fetched;
use millstream_config::Flags;
use millstream_processors::{model::rfc3339, topics::DEAD_LETTERS};
use millstream_verifier::Scan;

use crate::{
    failure::{Failure, Outcome},
    inspect,
    open::Opened,
    table::Table,
};

/// Flags of `dlq`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// List the dead letters: where they came from, and why they are here
    List {
        #[command(flatten)]
        flags: Flags,
        /// Show the newest of them only
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Show one dead letter with headers, key and value
    Show {
        /// Partition of the letter
        partition: i32,
        /// Offset of the letter
        offset: i64,
        #[command(flatten)]
        flags: Flags,
    },
}

/// Characters of a reason in the list.
const REASON_CHARS_MAX: usize = 100;
/// Names of the headers that tell the origin, in the words of the engine and of the sinks.
const ORIGINS: [&str; 2] = ["__streams.errors.", "millstream."];

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    match &args.what {
        What::List { flags, limit } => list(flags, *limit),
        What::Show {
            partition,
            offset,
            flags,
        } => show(flags, *partition, *offset),
    }
}

fn list(flags: &Flags, limit: usize) -> Outcome {
    let mut newest = BTreeMap::new();
    for_each(flags, &mut |partition, record| {
        newest.insert(
            (record.timestamp, partition, record.offset),
            row(partition, record),
        );
        if newest.len() > limit {
            newest.pop_first();
        }
    })?;
    let mut table = Table::new(["PARTITION", "OFFSET", "AT", "FROM", "REASON"]);
    newest.into_values().for_each(|cells| table.row(cells));
    table.print();
    Ok(())
}

fn row(partition: i32, record: &Fetched) -> [String; 5] {
    let origin = |name: &str| {
        let found = ORIGINS
            .iter()
            .find_map(|prefix| header(record, &format!("{prefix}{name}")));
        found.unwrap_or_else(|| "?".to_owned())
    };
    let reason = header(record, "__streams.errors.message");
    let reason = reason
        .or_else(|| header(record, "millstream.error"))
        .unwrap_or_default();
    [
        partition.to_string(),
        record.offset.to_string(),
        rfc3339(record.timestamp),
        format!(
            "{}-{}@{}",
            origin("topic"),
            origin("partition"),
            origin("offset")
        ),
        reason.chars().take(REASON_CHARS_MAX).collect(),
    ]
}

fn show(flags: &Flags, partition: i32, offset: i64) -> Outcome {
    let mut found = false;
    for_each(flags, &mut |at, record| {
        if (at, record.offset) == (partition, offset) {
            found = true;
            print(record);
        }
    })?;
    match found {
        true => Ok(()),
        false => {
            let place = format!("partition={partition}, offset={offset}");
            Err(Failure::Failed(format!(
                "there is no such dead letter. {place}"
            )))
        }
    }
}

fn print(record: &Fetched) {
    let text = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "null".to_owned(),
    };
    println!("at {}", rfc3339(record.timestamp));
    for header in record.headers.iter() {
        println!("header {} = {}", header.name, text(header.value.as_deref()));
    }
    println!("key {}", text(record.key.as_deref()));
    println!("{}", text(record.value.as_deref()));
}

fn header(record: &Fetched, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&record.headers.last(name)?).into_owned())
}

fn for_each(flags: &Flags, each: &mut dyn FnMut(i32, &Fetched)) -> Outcome {
    let settings = inspect::read(flags)?;
    let opened = Opened::log(&settings)?;
    Scan::new(&*opened.log)?.topic(DEAD_LETTERS.name(), &mut |partition, record| {
        each(partition, record);
        Ok(())
    })
}
