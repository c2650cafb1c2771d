//! One run: start, load, faults, heal, verify.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::{
    Broker,
    kafka::{KafkaBroker, KafkaConfig},
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Options,
    cluster::Cluster,
    ends::Ends,
    process::Owned,
    report::{Kill, Report},
    schedule::{Step, schedule},
    tail,
};

/// Orders a second.
const RATE: u64 = 30;
/// This share of the orders that could have been confirmed while faults happened must be, in
/// percent: a run in which nothing worked proves nothing.
const WORK_MIN_PERCENT: usize = 25;
/// Longer than this no order may wait for another one to become final.
const PAUSE_MAX: Duration = Duration::from_secs(90);
/// How long the first start may take.
const START_MAX: Duration = Duration::from_secs(90);
/// How long the load may take to fill the shelves.
const SETUP_MAX: Duration = Duration::from_secs(180);
/// After the heal: until every instance serves, …
const TAIL_MAX: Duration = Duration::from_secs(120);
/// … until the load has seen the end of every order, …
const LOAD_MAX: Duration = Duration::from_secs(300);
/// … and until no transaction is open.
const OPEN_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs it and prints what was found; true when nothing was violated.
pub(crate) async fn run(options: &Options) -> io::Result<bool> {
    let Options {
        folder,
        length,
        seed,
        ..
    } = options;
    println!(
        "seed {seed}, {} s, logs in {}",
        length.as_secs(),
        folder.display()
    );
    let steps = schedule(*seed, *length);
    let cluster = Arc::new(Cluster::start(options).await?);
    let mut keepers = JoinSet::new();
    for instance in &cluster.instances {
        keepers.spawn(instance.clone().keep());
    }
    tokio::select! {
        outcome = disturbed(options, &cluster, &steps) => outcome,
        kept = keepers.join_next() => Err(match kept {
            Some(Ok(Err(error))) => error,
            _ => io::Error::other("an instance is not kept any more"),
        }),
    }
}

async fn disturbed(options: &Options, cluster: &Arc<Cluster>, steps: &[Step]) -> io::Result<bool> {
    let mut report = Report {
        steps: steps.to_vec(),
        ..Report::default()
    };
    all_ready(cluster).await?;
    tail::shelve(cluster.instances[0].port).await?;
    let mut load = Load::start(options, cluster)?;
    load.is_set_up().await?;
    let log: Arc<dyn Broker> =
        KafkaBroker::new(KafkaConfig::new(cluster.log_address())).map_err(io::Error::other)?;
    let ends = Ends::follow(log.clone()).map_err(io::Error::other)?;

    let began = Instant::now();
    report.kills = disturb(cluster, steps, options.length, began, &load, &ends).await?;
    let healed = Instant::now();
    say(began, "healed");
    report.confirmed = ends.seen().confirmed;
    report.pauses = ends.seen().pauses(began, healed);

    let mut tails = JoinSet::new();
    for instance in &cluster.instances {
        let instance = instance.clone();
        tails.spawn(async move { tail::serves(&instance, TAIL_MAX).await });
    }
    for served in tails.join_all().await {
        match served {
            Ok(took) => report.tails.push(took),
            Err(why) => report.violations.push(why),
        }
    }
    say(began, "every instance was asked");
    report.violations.extend(load.end().await?);
    say(began, "the load has ended");
    report.violations.extend(verify(options, cluster).await?);
    report.quiet_after = healed.elapsed();
    let look = move || millstream_verifier::open_transactions(&*log, OPEN_MAX);
    let open = tokio::task::spawn_blocking(look).await;
    let open = open.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let open = open
        .examples
        .into_iter()
        .map(|what| format!("a transaction is open: {what}"));
    report.violations.extend(open);
    report.violations.append(&mut ends.seen().twice);

    report.accepted = load.accepted();
    judge_work(&mut report, options.length);
    for instance in &cluster.instances {
        instance.end();
        report.times_to_ready.extend(instance.times_to_ready());
        report.violations.extend(instance.unasked_ends());
        let log = std::fs::read_to_string(&instance.errors)?;
        let errors = log.lines().filter(|line| line.contains(" ERROR "));
        report.errors_logged.extend(errors.map(str::to_owned));
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        report.violations.extend(panics.map(str::to_owned));
    }
    report.print();
    Ok(report.violations.is_empty())
}

async fn all_ready(cluster: &Cluster) -> io::Result<()> {
    let until = Instant::now() + START_MAX;
    while !cluster.instances.iter().all(|instance| instance.is_ready()) {
        if Instant::now() >= until {
            return Err(io::Error::other(
                "not every instance was ready at the start",
            ));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Has all faults happen, and waits until the time and the last of them are over.
async fn disturb(
    cluster: &Arc<Cluster>,
    steps: &[Step],
    length: Duration,
    began: Instant,
    load: &Load,
    ends: &Ends,
) -> io::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    let mut before = (load.accepted(), ends.seen().confirmed);
    let mut faults = JoinSet::new();
    for step in steps.iter().copied() {
        sleep(step.at.saturating_sub(began.elapsed())).await;
        say(
            began,
            &format!("{:?} for {:.1} s", step.fault, step.lasts.as_secs_f64()),
        );
        if step.fault.is_kill() {
            let now = (load.accepted(), ends.seen().confirmed);
            kills.push(Kill {
                at: step.at,
                what: format!("{:?}", step.fault),
                accepted: now.0 - before.0,
                confirmed: now.1 - before.1,
            });
            before = now;
        }
        let cluster = cluster.clone();
        faults.spawn(async move { cluster.suffer(step).await });
    }
    sleep(length.saturating_sub(began.elapsed())).await;
    while let Some(over) = faults.join_next().await {
        over.map_err(io::Error::other)??;
    }
    Ok(kills)
}

fn judge_work(report: &mut Report, length: Duration) {
    let possible = (RATE * length.as_secs()) as usize;
    let wanted = possible * WORK_MIN_PERCENT / 100;
    if report.confirmed < wanted {
        let few = format!(
            "too little work was done. confirmed={}, wanted={wanted}",
            report.confirmed
        );
        report.violations.push(few);
    }
    let too_long = report
        .pauses
        .iter()
        .filter(|(_, length)| *length > PAUSE_MAX);
    let too_long: Vec<String> = too_long
        .map(|(at, length)| format!("no order became final for {length:.1?} from {at:.1?} on"))
        .collect();
    report.violations.extend(too_long);
}

fn say(began: Instant, what: &str) {
    println!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
}

/// The program that places orders.
struct Load {
    process: Owned,
    out: PathBuf,
    acked: PathBuf,
}

impl Load {
    fn start(options: &Options, cluster: &Cluster) -> io::Result<Self> {
        let file = |name: &str| options.folder.join(name);
        let (out, acked) = (file("load.out"), file("acked"));
        let orders = (RATE * options.length.as_secs()).to_string();
        let mut command = Command::new(&options.binary);
        command.args([
            "load",
            "--orders",
            &orders,
            "--rate",
            &RATE.to_string(),
            "--setup",
        ]);
        command.args([
            "--mixed-payments",
            "--give-up",
            "240s",
            "--final-within",
            "240s",
        ]);
        command
            .args(["--run", &format!("chaos-{}", options.seed)])
            .arg("--acked")
            .arg(&acked);
        for instance in &cluster.instances {
            command.args(["--url", &format!("http://127.0.0.1:{}", instance.port)]);
        }
        let process = Owned::start(&mut command, &out, &file("load.log"))?;
        Ok(Self {
            process,
            out,
            acked,
        })
    }

    /// Returns when catalogue and stock are there.
    async fn is_set_up(&mut self) -> io::Result<()> {
        let until = Instant::now() + SETUP_MAX;
        while !read(&self.out)
            .lines()
            .any(|line| line.starts_with("stock "))
        {
            if Instant::now() >= until || self.process.ended()?.is_some() {
                return Err(io::Error::other("the load could not fill the shelves"));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn accepted(&self) -> usize {
        read(&self.acked).lines().count()
    }

    /// Waits for its end; what it complains about.
    async fn end(&mut self) -> io::Result<Option<String>> {
        let until = Instant::now() + LOAD_MAX;
        loop {
            match self.process.ended()? {
                Some(status) if status.success() => return Ok(None),
                Some(status) => {
                    let said = read(&self.out).replace('\n', "; ");
                    return Ok(Some(format!("load: {status}: {said}")));
                }
                None if Instant::now() >= until => {
                    return Ok(Some("load: it does not end".to_owned()));
                }
                None => sleep(LOOK_EVERY).await,
            }
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Runs `millstream verify`; what is broken.
async fn verify(options: &Options, cluster: &Cluster) -> io::Result<Option<String>> {
    let (out, errors) = (
        options.folder.join("verify.out"),
        options.folder.join("verify.log"),
    );
    let mut command = Command::new(&options.binary);
    command.args(["verify", "--wait", "120s", "--set", "payment.deadline=20s"]);
    command.args(["--bootstrap-servers", &cluster.log_address()]);
    command.args(["--database-url", &cluster.database_url()]);
    command.arg("--data-dir").arg(options.folder.join("verify"));
    let mut process = Owned::start(&mut command, &out, &errors)?;
    let until = Instant::now() + LOAD_MAX;
    let status = loop {
        match process.ended()? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                return Ok(Some("verify: it does not end".to_owned()));
            }
            None => sleep(LOOK_EVERY).await,
        }
    };
    let verdict = read(&out);
    Ok(
        match status.success() && verdict.ends_with("all promises hold\n") {
            true => None,
            false => Some(format!("verify: {status}: {verdict}{}", read(&errors))),
        },
    )
}
