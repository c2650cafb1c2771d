//! `millstream bench`: the throughput programs that are compared with Kafka Streams.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand, ValueEnum};
use millstream_benches::{inputs, topology};
use millstream_broker::{
    Broker, Cleanup, NewTopic, Outgoing, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_config::Size;
use millstream_runtime::{Application, Config, Health};
use millstream_topology::{Headers, partition_for_key};

use crate::failure::{Failure, Outcome, chain};

/// Throughput programs: stateless (w1, w1b), count (w2), join (w4)
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Run a workload on topics that exist on a Kafka cluster, until SIGTERM
    Run(RunArgs),
    /// w1 on the embedded log: parse a JSON order, change it, write it
    W1(LocalArgs),
    /// w1b on the embedded log: pass 100 bytes through, one of them changed
    W1b(LocalArgs),
    /// w2 on the embedded log: count per key
    W2(LocalArgs),
    /// w4 on the embedded log: join two streams within 10 s
    W4(LocalArgs),
}

/// What the program promises about failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guarantee {
    /// Exactly once
    Eos,
    /// At least once; run as exactly once, which is stronger
    Alos,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The cluster
    #[arg(long, value_name = "HOSTS")]
    bootstrap_servers: String,
    /// w1, w1b, w2 or w4
    #[arg(long)]
    workload: String,
    /// Names the group and the internal topics
    #[arg(long, value_name = "ID")]
    application_id: String,
    /// Keep state in this folder
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// What is promised about failures
    #[arg(long, value_enum, default_value = "eos")]
    guarantee: Guarantee,
    /// Number of stream threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Longest time between two commits under load, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 100)]
    commit_interval_ms: u64,
    /// Bytes that stores, caches and buffers should take
    #[arg(long, value_name = "BYTES", default_value = "256MiB")]
    memory_budget: Size,
}

#[derive(Args, Debug)]
struct LocalArgs {
    /// How many input records
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// How many different keys
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
}

/// Runs what was asked for.
pub(crate) fn bench(args: BenchArgs) -> Outcome {
    match args.command {
        BenchCommand::Run(args) => run(args),
        BenchCommand::W1(args) => local("w1", &args),
        BenchCommand::W1b(args) => local("w1b", &args),
        BenchCommand::W2(args) => local("w2", &args),
        BenchCommand::W4(args) => local("w4", &args),
    }
}

fn run(args: RunArgs) -> Outcome {
    if args.guarantee == Guarantee::Alos {
        eprintln!("millstream: --guarantee alos runs as eos, which promises more");
    }
    let topology = topology(&args.workload)?;
    let broker = KafkaBroker::new(KafkaConfig::new(&args.bootstrap_servers))?;
    let mut config = Config::new(&args.application_id, &args.state_dir);
    config.threads = args.threads;
    config.commit_interval = Duration::from_millis(args.commit_interval_ms);
    config.commit_pause = config.commit_pause.min(config.commit_interval);
    config.memory_budget = args.memory_budget.bytes() as usize;
    let broker: Arc<dyn Broker> = broker;
    let app = Application::start(&topology, broker, config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::at("the runtime cannot be started", &e))?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .map_err(|e| Failure::at("signals cannot be handled", &e))?;
        let mut said = false;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = tokio::signal::ctrl_c() => return Ok(()),
                _ = tick.tick() => match app.health() {
                    Health::Running if !said => {
                        println!("RUNNING");
                        said = true;
                    }
                    Health::Failed(why) => return Err(Failure::Failed(why)),
                    Health::Running | Health::Starting | Health::Stopping => {}
                },
            }
        }
    })?;
    Ok(app.close()?)
}

const PARTITIONS: u32 = 4;
/// Records in one transaction of the loader.
const LOAD_BATCH: u64 = 10_000;
/// First timestamp of the generated records.
const T0: i64 = 1_700_000_000_000;

/// Loads the workload's input into an embedded log in a temporary folder, runs it to the end, prints rates.
fn local(workload: &str, args: &LocalArgs) -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| Failure::at("no temporary folder", &e))?;
    let log = EmbeddedBroker::open(&folder.path().join("log"), EmbeddedConfig::default())?;
    let inputs = inputs(workload)?;
    let output = format!("{workload}-out");
    let topics: Vec<NewTopic> = inputs
        .iter()
        .copied()
        .chain([output.as_str()])
        .map(|name| NewTopic {
            name: name.into(),
            partitions: PARTITIONS,
            cleanup: Cleanup::Delete { retention_ms: None },
        })
        .collect();
    let admin = log.admin()?;
    admin.create_topics(&topics)?;
    load(&*log, workload, inputs, args)?;

    let partitions: Vec<TopicPartition> = inputs
        .iter()
        .flat_map(|t| (0..PARTITIONS as i32).map(|p| TopicPartition::new(*t, p)))
        .collect();
    let mut ends = Vec::new();
    for partition in &partitions {
        ends.push(admin.watermarks(partition)?.high);
    }
    let topology = topology(workload)?;
    let mut config = Config::new("bench", folder.path().join("state"));
    config.memory_budget = 256 << 20;
    let (started, cpu_before) = (Instant::now(), cpu_seconds());
    let app = Application::start(&topology, log.clone(), config)?;
    loop {
        let committed = admin.committed("bench", &partitions)?;
        if committed.iter().zip(&ends).all(|(at, end)| at.unwrap_or(0) >= *end) {
            break;
        }
        if let Health::Failed(why) = app.health() {
            return Err(Failure::Failed(why));
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let took = started.elapsed();
    let cpu = cpu_before.zip(cpu_seconds()).map(|(before, after)| after - before);
    app.close()?;
    let rate = args.records as f64 / took.as_secs_f64();
    let mut line = format!("{workload}: {} records, {rate:.0} records/s", args.records);
    if let Some(cpu) = cpu {
        let per_million = cpu / args.records as f64 * 1e6;
        // Writing to a string cannot fail.
        let _ = write!(line, ", {per_million:.2} CPU-seconds per million records (log included)");
    }
    println!("{line}");
    Ok(())
}

fn load(log: &EmbeddedBroker, workload: &str, inputs: &[&str], args: &LocalArgs) -> Outcome {
    let failed = |e: millstream_broker::ProducerError| Failure::Failed(chain(&e));
    let mut producer = log.producer("bench-loader")?;
    producer.init().map_err(failed)?;
    let topics: Vec<_> = inputs.iter().map(|t| producer.topic(t)).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for n in 0..args.records {
        if n % LOAD_BATCH == 0 {
            producer.begin().map_err(failed)?;
        }
        // xorshift: the same records in every run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = format!("k{:015}", random % args.keys.max(1));
        let timestamp = T0 + (n / 2) as i64;
        let value = value_of(workload, n, random, timestamp);
        let record = Outgoing {
            topic: topics[n as usize % topics.len()],
            partition: partition_for_key(key.as_bytes(), PARTITIONS),
            timestamp,
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: &Headers::default(),
        };
        producer.send(record).map_err(failed)?;
        if n % LOAD_BATCH == LOAD_BATCH - 1 || n + 1 == args.records {
            producer.drain().map_err(failed)?;
            producer.commit().map_err(failed)?;
        }
    }
    Ok(())
}

fn value_of(workload: &str, n: u64, random: u64, timestamp: i64) -> Vec<u8> {
    match workload {
        "w1" => format!(
            r#"{{"id":"o-{n:012}","customer":"c{:07}","product":"p-{:05}","quantity":{},"price":{},"currency":"USD","status":"PENDING","ts":{timestamp}}}"#,
            random % 100_000,
            random % 10_000,
            1 + random % 9,
            100 + random % 90_000,
        )
        .into_bytes(),
        "w2" => random.to_be_bytes().repeat(4),
        _ => random.to_be_bytes().repeat(13)[..100].to_vec(),
    }
}

/// User and system time of this process, where the system tells.
fn cpu_seconds() -> Option<f64> {
    /// Linux counts in hundredths of a second, whatever the kernel's own clock is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
