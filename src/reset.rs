//! `millstream reset`: makes the shop's streams begin anew.

use millstream_config::Flags;
use millstream_processors::{
    model::parse_rfc3339,
    topology::{ShopPolicy, shop},
};
use millstream_runtime::{Reset, ResetTo};

use crate::{
    failure::{Failure, Outcome},
    inspect,
    open::Opened,
};

/// Flags of `reset`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = MEANING)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Where the streams begin to read again: earliest, latest, or a time as 2017-01-01T12:00:00Z
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: ResetTo,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// What people must know before they say yes.
const MEANING: &str = "\
What it does:
  It deletes the changelogs, the repartition topics, the topic of the members and the local state,
  and sets the offsets of what the streams read. The topic of the manifest stays, empty but for
  what keeps old state of other machines from being used; their folders may be deleted by hand.
  Stop all processes of the shop first: as long as one is a member of the group, nothing is done.

What it does not do:
  No topic with a name of its own is deleted: orders, events, commands, replies, reports and dead
  letters stay. With `--to earliest` the streams read the orders and the replies again from the
  first one and append what follows from them to the same topics a second time; programs that read
  those topics see it twice. The shop's own reports are such programs: they count each order twice.
  Each order is decided again. Stock and money end as before: inventory knows the reservations from
  their commands, and the gateway answers a repeated call as it did the first time. `verify` finds
  two histories of each order and says so; docs/reliability-verify.md lists what it reports then.
  No SQL table is changed, `sink_progress` neither: the sink goes on where it was and applies what
  is appended from then on. To build the tables anew, empty them, `sink_progress` too; the sink then
  reads its topics from their beginning. Leave `gateway_ledger` as it is: these are the books of the
  simulated gateway, and without them it would capture again.

When it is cut off, the shop does not start before the same command has been run again to its end.

Exit codes: 0 it was done, or printed with --dry-run; 1 it failed, or members are alive; 2 it was
called wrongly, or --yes is missing.";

/// Runs it.
pub(crate) fn run(args: &Args) -> Outcome {
    let settings = inspect::read(&args.flags)?;
    let opened = Opened::log(&settings)?;
    let topology = shop(&ShopPolicy::default())?;
    let application = &settings.streams.application_id;
    let state = settings.state_dir();
    let reset = Reset::plan(&*opened.log, &topology, application, args.to, Some(&state))?;
    print!("{reset}");
    if args.dry_run {
        return Ok(());
    }
    if !reset.members().is_empty() {
        return Err(Failure::Failed(
            "members of the application are alive; stop them first, or wait until their sessions \
             have ended"
                .to_owned(),
        ));
    }
    if !args.yes {
        return Err(Failure::Usage(
            "nothing was done; say --yes to do it".to_owned(),
        ));
    }
    reset.run(&*opened.log)?;
    println!("done");
    Ok(())
}

fn place(text: &str) -> Result<ResetTo, String> {
    match text {
        "earliest" => Ok(ResetTo::Earliest),
        "latest" => Ok(ResetTo::Latest),
        time => parse_rfc3339(time)
            .map(ResetTo::Time)
            .ok_or_else(|| "allowed: earliest, latest, or a time in RFC 3339".to_owned()),
    }
}
