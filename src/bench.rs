//! `millstream bench`: the workloads that are compared with Kafka Streams.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use millstream_benches::{Input, Workload, records};
use millstream_broker::{
    Admin, Broker, Cleanup, NewTopic, Outgoing, Producer, TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
    kafka::{KafkaBroker, KafkaConfig},
};
use millstream_config::Size;
use millstream_runtime::{Application, Config, Health};
use millstream_topology::{Headers, partition_for_key};

use crate::{
    failure::{Failure, Outcome},
    signals::Stop,
};

/// Flags of `bench`.
#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Run a workload on a Kafka cluster whose topics are loaded, until SIGTERM
    Run(OnKafka),
    /// Parse a JSON order, change its status, write it; on a log of its own
    W1(OnEmbedded),
    /// Copy 100 bytes and change the first; on a log of its own
    W1b(OnEmbedded),
    /// Count per key; on a log of its own
    W2(OnEmbedded),
    /// Join two streams within ten seconds; on a log of its own
    W4(OnEmbedded),
}

#[derive(ClapArgs, Debug)]
struct OnKafka {
    /// Brokers as host:port
    #[arg(long, value_name = "HOSTS")]
    bootstrap_servers: String,
    /// w1, w1b, w2 or w4
    #[arg(long, value_name = "W")]
    workload: Workload,
    /// Group, and prefix of internal topics
    #[arg(long, value_name = "ID")]
    application_id: String,
    /// Folder of the state
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Exactly once, or at least once (which runs as exactly once)
    #[arg(long, value_enum, default_value_t = Guarantee::Eos)]
    guarantee: Guarantee,
    #[command(flatten)]
    engine: Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guarantee {
    Eos,
    Alos,
}

#[derive(ClapArgs, Debug)]
struct Engine {
    /// Stream threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Longest time between two commits
    #[arg(long, value_name = "N", default_value_t = 100)]
    commit_interval_ms: u64,
    /// Memory for stores, caches and buffers, as bytes or 256MiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB")]
    memory_budget: Size,
}

#[derive(ClapArgs, Debug)]
struct OnEmbedded {
    /// Records to process
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    keys: u64,
    /// Partitions of each topic
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: u32,
    #[command(flatten)]
    engine: Engine,
}

/// How often a program looks whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs it.
pub(crate) async fn run(args: Args) -> Outcome {
    match args.what {
        What::Run(args) => run_on_kafka(args).await,
        What::W1(args) => run_on_embedded(Workload::JsonMap, args).await,
        What::W1b(args) => run_on_embedded(Workload::BytesMap, args).await,
        What::W2(args) => run_on_embedded(Workload::Count, args).await,
        What::W4(args) => run_on_embedded(Workload::Join, args).await,
    }
}

impl Engine {
    fn config(&self, application_id: &str, state_dir: PathBuf) -> Config {
        let commit_interval = Duration::from_millis(self.commit_interval_ms);
        let config = Config::new(application_id, state_dir);
        Config {
            threads: self.threads,
            commit_interval,
            commit_pause: config.commit_pause.min(commit_interval),
            memory_budget: self.memory_budget.bytes(),
            ..config
        }
    }
}

async fn run_on_kafka(args: OnKafka) -> Outcome {
    let mut stop = Stop::listen()?;
    if args.guarantee == Guarantee::Alos {
        println!("at least once runs as exactly once");
    }
    let started = Instant::now();
    let broker = KafkaBroker::new(KafkaConfig::new(&*args.bootstrap_servers))?;
    let config = args.engine.config(&args.application_id, args.state_dir);
    let application = Application::start(&args.workload.topology()?, broker, config)?;
    let mut running = false;
    loop {
        match application.health() {
            Health::Failed(_) => break,
            Health::Running if !running => {
                running = true;
                tell_restored(&application, started);
                println!("RUNNING after {} ms", started.elapsed().as_millis());
            }
            Health::Starting
            | Health::Running
            | Health::Paused
            | Health::Stalled(_)
            | Health::Stopping => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.told() => break,
        }
    }
    Ok(application.close()?)
}

/// One line for each store of each task, in the words that the comparison's scripts look for.
fn tell_restored(application: &Application, started: Instant) {
    let took = started.elapsed().as_millis();
    for task in application
        .status()
        .threads
        .iter()
        .flat_map(|thread| &thread.tasks)
    {
        for store in &task.stores {
            let (name, id, count) = (&store.name, &task.id, store.replayed);
            println!("restore end {name}-{id} {count} after {took} ms");
        }
    }
}

const APPLICATION_ID: &str = "bench";
/// Records that are loaded in one transaction.
const LOAD_BATCH: u64 = 20_000;

async fn run_on_embedded(workload: Workload, args: OnEmbedded) -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| Failure::at("no folder can be made", &e))?;
    let broker = EmbeddedBroker::open(&folder.path().join("log"), EmbeddedConfig::default())?;
    let admin = broker.admin()?;
    let inputs = load(workload, &args, &*broker, &*admin)?;

    let config = args
        .engine
        .config(APPLICATION_ID, folder.path().join("state"));
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let application = Application::start(&workload.topology()?, broker.clone(), config)?;
    while !is_done(&*admin, &inputs)? {
        if let Health::Failed(_) = application.health() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    application.close()?;
    let per_million = cpu / args.records as f64 * 1e6;
    println!(
        "{} {} records in {took:.2} s: {:.0} records/s, {per_million:.2} CPU-seconds per million \
         records, the log included",
        workload.name(),
        args.records,
        args.records as f64 / took,
    );
    Ok(())
}

/// Creates the topics and fills the inputs. Answers where each input ends.
fn load(
    workload: Workload,
    args: &OnEmbedded,
    broker: &dyn Broker,
    admin: &dyn Admin,
) -> Outcome<Vec<(TopicPartition, i64)>> {
    let cleanup = Cleanup::Delete { retention_ms: None };
    let names = workload.inputs().iter().copied().chain([workload.output()]);
    let topics = names.map(|name| NewTopic {
        name: name.into(),
        partitions: args.partitions,
        cleanup,
    });
    admin.create_topics(&topics.collect::<Vec<_>>())?;
    let mut producer = broker.producer("bench-load").map_err(Failure::from)?;
    producer.init().map_err(millstream_topology::Error::from)?;
    let mut input = records(workload, args.records, args.keys, 1).peekable();
    while input.peek().is_some() {
        let batch = input.by_ref().take(LOAD_BATCH as usize);
        send(&mut *producer, args.partitions, batch).map_err(millstream_topology::Error::from)?;
    }
    let inputs = workload.inputs().iter();
    let all = inputs.flat_map(|&topic| {
        (0..args.partitions.cast_signed()).map(move |p| TopicPartition::new(topic, p))
    });
    all.map(|partition| {
        let end = admin.watermarks(&partition)?.high;
        Ok((partition, end))
    })
    .collect()
}

fn send(
    producer: &mut dyn Producer,
    partitions: u32,
    batch: impl Iterator<Item = Input>,
) -> Result<(), millstream_broker::ProducerError> {
    let headers = Headers::default();
    producer.begin()?;
    for input in batch {
        let topic = producer.topic(input.topic);
        producer.send(Outgoing {
            topic,
            partition: partition_for_key(&input.key, partitions),
            timestamp: input.timestamp,
            key: Some(&input.key),
            value: Some(&input.value),
            headers: &headers,
        })?;
    }
    producer.drain()?;
    producer.commit()
}

/// True when the group has committed all of the input.
fn is_done(admin: &dyn Admin, inputs: &[(TopicPartition, i64)]) -> Outcome<bool> {
    let partitions: Vec<_> = inputs
        .iter()
        .map(|(partition, _)| partition.clone())
        .collect();
    let committed = admin.committed(APPLICATION_ID, &partitions)?;
    Ok(inputs
        .iter()
        .zip(committed)
        .all(|((_, end), at)| at.unwrap_or(0) >= *end))
}

/// CPU-seconds of this process so far, all threads together.
fn cpu_seconds() -> f64 {
    /// Linux counts in hundredths, whatever its own clock does.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program stands in brackets and may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |at: usize| {
        fields
            .split_whitespace()
            .nth(at)
            .and_then(|t| t.parse().ok())
    };
    let (user, system): (Option<f64>, Option<f64>) = (ticks(11), ticks(12));
    (user.unwrap_or(0.0) + system.unwrap_or(0.0)) / TICKS_PER_SECOND
}
