//! How fast the embedded log is on this machine: `cargo run --release -p millstream-broker
//! --example embedded_rate`.

use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_broker::{
    Broker, Cleanup, ConsumerConfig, Event, NewTopic, Outgoing, OwnedRecord, Producer, Start,
    TopicPartition,
    embedded::{EmbeddedBroker, EmbeddedConfig},
};
use millstream_topology::Headers;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Of the records that are written, 16 bytes of it the key.
const RECORD_BYTES: usize = 100;
const KEY_BYTES: usize = 16;
const RECORDS: u64 = 4_000_000;
const PARTITIONS: u32 = 4;
/// How long each of the small measurements takes.
const SPAN: Duration = Duration::from_secs(2);

fn main() -> Outcome {
    let dir = tempfile::tempdir_in(".")?;
    sync_cost(dir.path())?;
    let log = EmbeddedBroker::open(&dir.path().join("log"), EmbeddedConfig::default())?;
    let topic = NewTopic {
        name: "t".into(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Delete { retention_ms: None },
    };
    log.admin()?.create_topics(&[topic])?;
    for records in [1, 10, 50] {
        transactions(&log, 1, records)?;
    }
    transactions(&log, 4, 10)?;
    appends(&log, 1)?;
    appends(&log, 200)?;
    through(&log)?;
    catch_up(&log)?;
    Ok(())
}

/// Processor time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| -> f64 {
        let field = after_name.split_whitespace().nth(field);
        field.and_then(|ticks| ticks.parse().ok()).unwrap_or(0.0)
    };
    // User and system time, in the 100 ticks a second that Linux always shows.
    (ticks(11) + ticks(12)) / 100.0
}

fn sync_cost(dir: &Path) -> Outcome {
    let mut file = File::create(dir.join("sync"))?;
    let mut took = Vec::new();
    for _ in 0..500 {
        file.write_all(&[7; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort();
    println!(
        "a sync of 4 KiB: median {:?}, 99 % {:?}",
        took[250], took[495]
    );
    Ok(())
}

fn send(producer: &mut dyn Producer, number: u64) -> Outcome {
    let topic = producer.topic("t");
    send_to(producer, topic, number)
}

fn send_to(producer: &mut dyn Producer, topic: millstream_broker::TopicIx, number: u64) -> Outcome {
    let mut record = [b'x'; RECORD_BYTES];
    record[..8].copy_from_slice(&number.to_le_bytes());
    let headers = Headers::default();
    producer.send(Outgoing {
        topic,
        partition: (number % u64::from(PARTITIONS)) as i32,
        timestamp: 1_700_000_000_000 + number as i64 / 1000,
        key: Some(&record[..KEY_BYTES]),
        value: Some(&record[KEY_BYTES..]),
        headers: &headers,
    })?;
    Ok(())
}

/// Small transactions, one behind the other in each thread.
fn transactions(log: &Arc<EmbeddedBroker>, threads: usize, records: u64) -> Outcome {
    let commits = AtomicU64::new(0);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    thread::scope(|scope| -> Outcome {
        let commits = &commits;
        let work = (0..threads).map(|thread| {
            scope.spawn(move || -> Outcome {
                let mut producer = log.producer(&format!("small-{thread}"))?;
                producer.init()?;
                while began.elapsed() < SPAN {
                    producer.begin()?;
                    (0..records).try_for_each(|number| send(&mut *producer, number))?;
                    producer.commit()?;
                    commits.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let work: Vec<_> = work.collect();
        work.into_iter()
            .try_for_each(|w| w.join().map_err(|_| "a thread panicked")?)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = commits.load(Ordering::Relaxed) as f64 / seconds;
    let cpu = (cpu_seconds() - cpu) / seconds * 100.0;
    println!(
        "transactions of {records} records, {threads} thread(s): \
         {rate:.0} commits/s, {cpu:.0} % of a core"
    );
    Ok(())
}

/// Single records with so many waiting for their acknowledgement at a time.
fn appends(log: &Arc<EmbeddedBroker>, waiting: usize) -> Outcome {
    let appender = log.appender()?;
    let (done, acknowledged) = mpsc::channel();
    let mut sent = 0_u64;
    let mut slowest = Duration::ZERO;
    let mut total = Duration::ZERO;
    let mut count = 0_u32;
    let began = Instant::now();
    while began.elapsed() < SPAN {
        while sent < u64::from(count) + waiting as u64 {
            let done = done.clone();
            let at = Instant::now();
            let record = OwnedRecord {
                to: TopicPartition::new("t", (sent % u64::from(PARTITIONS)) as i32),
                timestamp: 1,
                key: None,
                value: Some(Bytes::from(vec![0; RECORD_BYTES])),
                headers: Headers::default(),
            };
            appender.append(
                record,
                Box::new(move |_| {
                    let _ = done.send(at.elapsed());
                }),
            )?;
            sent += 1;
        }
        let took = acknowledged.recv()?;
        slowest = slowest.max(took);
        total += took;
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    println!(
        "appends, {waiting} waiting: {rate:.0}/s, mean {:?}, slowest {slowest:?}",
        total / count
    );
    Ok(())
}

/// From a producer to a member of a group that reads at the tail.
fn through(log: &Arc<EmbeddedBroker>) -> Outcome {
    let mut consumer = log.consumer(ConsumerConfig {
        group_id: "rate".to_owned(),
        instance_id: "m".to_owned(),
        topics: vec!["t".into()],
        session_timeout: Duration::from_secs(60),
    })?;
    loop {
        if let Event::Assigned(partitions) =
            consumer.poll(Duration::from_secs(1), 1, &mut Vec::new())?
        {
            let from: Vec<_> = partitions.into_iter().map(|p| (p, Start::Latest)).collect();
            consumer.assign(&from)?;
            break;
        }
    }
    let read = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let (began, cpu, syncs) = (Instant::now(), cpu_seconds(), log.figures().syncs);
    thread::scope(|scope| -> Outcome {
        let (read, failed) = (&read, &failed);
        let writes = scope.spawn(move || -> Outcome {
            let mut producer = log.producer("bulk")?;
            producer.init()?;
            let topic = producer.topic("t");
            let mut number = 0;
            while number < RECORDS {
                producer.begin()?;
                for _ in 0..20_000 {
                    send_to(&mut *producer, topic, number)?;
                    number += 1;
                }
                producer
                    .commit()
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                // As an engine does, it does not run ahead of its reader for ever.
                while number - read.load(Ordering::Relaxed) > 200_000 {
                    thread::yield_now();
                }
            }
            Ok(())
        });
        let mut batch = Vec::new();
        while read.load(Ordering::Relaxed) < RECORDS && !failed.load(Ordering::Relaxed) {
            consumer.poll(Duration::from_millis(100), 1_000, &mut batch)?;
            read.fetch_add(batch.len() as u64, Ordering::Relaxed);
            batch.clear();
        }
        writes.join().map_err(|_| "a thread panicked")?
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let millions = RECORDS as f64 / 1e6;
    println!(
        "producer to consumer at the tail: {:.2} M records/s, \
         {:.2} µs of processor time a record, {} syncs",
        millions / seconds,
        cpu / millions,
        log.figures().syncs - syncs
    );
    consumer.close(false);
    Ok(())
}

/// Reads all from the oldest record on.
fn catch_up(log: &Arc<EmbeddedBroker>) -> Outcome {
    let mut reader = log.reader()?;
    let partitions = (0..PARTITIONS as i32).map(|p| (TopicPartition::new("t", p), Start::Earliest));
    reader.assign(&partitions.collect::<Vec<_>>())?;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut batch = Vec::new();
    let mut records = 0;
    loop {
        reader.poll(Duration::ZERO, 1_000, &mut batch)?;
        if batch.is_empty() {
            break;
        }
        records += batch.len();
        batch.clear();
    }
    let millions = records as f64 / 1e6;
    println!(
        "catching up: {:.2} M records/s, {:.2} µs of processor time a record",
        millions / began.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) / millions
    );
    Ok(())
}
