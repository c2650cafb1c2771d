//! `sink_progress`: how far each partition is written, and by whom.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_broker::{Broker, PartitionIx, Start, TopicPartition};

use crate::{
    Database, Dialect, Error, Migration, OnConflict, Result, Table, Value,
    transaction::{Lease, Transaction},
};

/// The component name of the sink's own migrations.
pub(crate) const COMPONENT: &str = "millstream-sinks";
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "sink progress",
        statements: &["CREATE TABLE IF NOT EXISTS `sink_progress` (\
            `sink` {id} NOT NULL, `cluster_id` {id} NOT NULL, `topic` {id} NOT NULL, \
            `topic_id` {id} NOT NULL, `partition` {int} NOT NULL, `epoch` {int} NOT NULL, \
            `next_offset` {int} NOT NULL, PRIMARY KEY (`sink`, `topic`, `partition`)){options}"],
    },
    Migration {
        version: 2,
        name: "who holds the lock, and dead letters",
        statements: &[
            "ALTER TABLE `sink_progress` ADD COLUMN `connection_id` {int} NOT NULL DEFAULT 0",
            "CREATE TABLE IF NOT EXISTS `sink_dead_letters` (\
            `sink` {id} NOT NULL, `topic` {id} NOT NULL, `partition` {int} NOT NULL, \
            `offset` {int} NOT NULL, `reason` {text} NOT NULL, \
            PRIMARY KEY (`sink`, `topic`, `partition`, `offset`)){options}",
        ],
    },
];

/// The records set aside, written with the progress that passes them: each is there exactly once,
/// while the letter itself may be sent again after a crash.
pub(crate) static LETTERS: Table = Table::new(
    "sink_dead_letters",
    &["sink", "topic", "partition", "offset", "reason"],
    4,
    OnConflict::Keep,
);

/// How far a sink has written one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: TopicPartition,
    /// How often the partition was taken over.
    pub epoch: i64,
    /// The offset of the next record to write; everything before is in the tables.
    pub next_offset: i64,
}

/// How far a sink has written each partition that it ever claimed.
///
/// # Errors
/// When the database does not answer.
pub async fn read_progress(database: &Database, sink: &str) -> Result<Vec<Progress>> {
    const ALL: &str = "SELECT `topic`, `partition`, `epoch`, `next_offset` FROM `sink_progress` \
        WHERE `sink` = ? ORDER BY `topic`, `partition`";
    database.migrate(COMPONENT, MIGRATIONS).await?;
    database
        .rows(ALL, &[sink.into()], |row| {
            let partition = i32::try_from(row.int(1)?).expect("partitions are written from i32");
            Ok(Progress {
                partition: TopicPartition::new(row.text(0)?, partition),
                epoch: row.int(2)?,
                next_offset: row.int(3)?,
            })
        })
        .await
}

/// How long [`caught_up`] looks for records that may not exist.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long one of its polls waits.
const LOOK_WAIT: Duration = Duration::from_millis(50);

/// True when the tables hold everything that these topics hold.
///
/// Offsets alone cannot tell: behind the last record there may be markers of transactions. So this
/// reads what comes behind the sink's progress, and answers `false` at the first record, or when it
/// takes too long.
///
/// # Errors
/// When log or database do not answer.
pub async fn caught_up(
    broker: Arc<dyn Broker>,
    database: &Database,
    sink: &str,
    topics: &[Arc<str>],
) -> Result<bool> {
    let progress = read_progress(database, sink).await?;
    let next: HashMap<_, _> = progress
        .into_iter()
        .map(|p| (p.partition, p.next_offset))
        .collect();
    let topics = topics.to_vec();
    let looked = tokio::task::spawn_blocking(move || nothing_follows(&*broker, &topics, &next));
    match looked.await {
        Ok(result) => result,
        Err(error) => Err(Error::Broken(error.to_string())),
    }
}

fn nothing_follows(
    broker: &dyn Broker,
    topics: &[Arc<str>],
    next: &HashMap<TopicPartition, i64>,
) -> Result<bool> {
    let admin = broker.admin()?;
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    for topic in admin
        .topics()?
        .into_iter()
        .filter(|t| topics.contains(&t.name))
    {
        for partition in 0..topic.partitions.cast_signed() {
            let partition = TopicPartition::new(topic.name.clone(), partition);
            let marks = admin.watermarks(&partition)?;
            let from = next.get(&partition).copied().unwrap_or(0).max(marks.low);
            if from < marks.high {
                starts.push((partition, Start::Offset(from)));
                ends.push(marks.high);
            }
        }
    }
    if starts.is_empty() {
        return Ok(true);
    }
    let mut reader = broker.reader()?;
    reader.assign(&starts)?;
    let until = Instant::now() + LOOK_MAX;
    let mut found = Vec::new();
    while Instant::now() < until {
        reader.poll(LOOK_WAIT, 1, &mut found)?;
        if !found.is_empty() {
            return Ok(false);
        }
        let mut all = true;
        for (at, end) in (0..).zip(&ends) {
            all &= reader.position(PartitionIx(at))? >= *end;
        }
        if all {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Which log and topic the offsets count in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    /// Empty where the log has no topic ids.
    pub(crate) topic_id: String,
}

/// One partition's progress as its present writer knows it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) partition: TopicPartition,
    pub(crate) epoch: i64,
    pub(crate) next_offset: i64,
}

/// A partition's step within a batch.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) partition: TopicPartition,
    pub(crate) epoch: i64,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

fn key(sink: &str, partition: &TopicPartition) -> [Value; 3] {
    [
        sink.into(),
        partition.topic.clone().into(),
        partition.partition.into(),
    ]
}

/// Takes a partition over: from now on every older writer's batch fails.
pub(crate) async fn claim(
    tx: &mut Transaction<'_>,
    sink: &str,
    partition: &TopicPartition,
    identity: &Identity,
) -> Result<Claim> {
    const BUMP: &str = "UPDATE `sink_progress` SET `epoch` = `epoch` + 1, \
        `connection_id` = {connection} WHERE `sink` = ? AND `topic` = ? AND `partition` = ?";
    const FIRST: &str = "INSERT INTO `sink_progress` (`sink`, `topic`, `partition`, `cluster_id`, \
        `topic_id`, `epoch`, `next_offset`, `connection_id`) \
        VALUES (?, ?, ?, ?, ?, 1, 0, {connection})";
    const READ: &str = "SELECT `cluster_id`, `topic_id`, `epoch`, `next_offset` \
        FROM `sink_progress` WHERE `sink` = ? AND `topic` = ? AND `partition` = ?";
    let failed = || Error::database("claiming a partition");
    let key = key(sink, partition);
    let dialect = tx.dialect();
    if tx
        .execute(with_connection(dialect, BUMP), &key)
        .await
        .map_err(failed())?
        == 0
    {
        // Two first claims at once: the second one's insert fails, and it tries again.
        let mut row = key.to_vec();
        row.extend([
            identity.cluster_id.as_str().into(),
            identity.topic_id.as_str().into(),
        ]);
        let first = with_connection(dialect, FIRST);
        tx.execute(first, &row).await.map_err(failed())?;
        return Ok(Claim {
            partition: partition.clone(),
            epoch: 1,
            next_offset: 0,
        });
    }
    let rows = tx
        .rows(READ, &key, |row| {
            Ok((row.text(0)?, row.text(1)?, row.int(2)?, row.int(3)?))
        })
        .await?;
    let (cluster_id, topic_id, epoch, next_offset) = rows
        .into_iter()
        .next()
        .expect("the row was updated in this transaction");
    let other_topic = topic_id != identity.topic_id && !topic_id.is_empty();
    if cluster_id != identity.cluster_id || (other_topic && !identity.topic_id.is_empty()) {
        return Err(Error::OtherLog {
            sink: sink.to_owned(),
            partition: partition.to_string(),
            database: format!("{cluster_id}/{topic_id}"),
            log: format!("{}/{}", identity.cluster_id, identity.topic_id),
        });
    }
    Ok(Claim {
        partition: partition.clone(),
        epoch,
        next_offset,
    })
}

/// Moves a partition on, if it still is where its writer left it; `false` means that it is not.
///
/// The row stays locked until the end of the transaction, so a writer that lost the partition and
/// its successor go one after the other.
pub(crate) async fn advance(
    tx: &mut Transaction<'_>,
    sink: &str,
    step: &Step,
) -> Result<bool, sqlx::Error> {
    // The epoch is the same before and after; written, it shows a trigger or a binary log whose
    // step it was.
    const ADVANCE: &str = "UPDATE `sink_progress` SET `next_offset` = ?, `epoch` = ?, \
        `connection_id` = {connection} WHERE `sink` = ? AND `topic` = ? AND `partition` = ? \
        AND `epoch` = ? AND `next_offset` = ?";
    let [sink, topic, partition] = key(sink, &step.partition);
    let arguments = [
        step.to.into(),
        step.epoch.into(),
        sink,
        topic,
        partition,
        step.epoch.into(),
        step.from.into(),
    ];
    let advance = with_connection(tx.dialect(), ADVANCE);
    let matched = tx.execute(advance, &arguments).await?;
    assert!(matched <= 1, "the key is unique");
    Ok(matched == 1)
}

/// Every change of progress says which connection makes it, for [`holder`].
fn with_connection(dialect: Dialect, sql: &str) -> String {
    sql.replace(
        "{connection}",
        match dialect {
            // One process at a time writes the file, whatever its connections are called.
            Dialect::Sqlite => "0",
            Dialect::MySql | Dialect::MariaDb => "CONNECTION_ID()",
        },
    )
}

/// The connection that holds the lock on a partition's progress in an unfinished transaction.
///
/// A transaction of a sink changes progress first, so what is there uncommitted differs from what
/// was committed before, and names its connection. The id that was committed proves nothing: its
/// connection may have ended, and the server may have given the number to another program.
///
/// The lease must not be given back: its isolation level is changed.
pub(crate) async fn holder(
    lease: &mut Lease,
    sink: &str,
    partition: &TopicPartition,
) -> Result<Option<i64>> {
    const READ: &str = "SELECT `epoch`, `next_offset`, `connection_id` FROM `sink_progress` \
        WHERE `sink` = ? AND `topic` = ? AND `partition` = ?";
    let mut seen = Vec::with_capacity(2);
    // In this order: what differs in the second look was written since the first one, so its
    // connection is no old one.
    for level in ["READ COMMITTED", "READ UNCOMMITTED"] {
        let level = format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}");
        let failed = Error::database("looking for the holder of a lock");
        lease.execute(level).await.map_err(failed)?;
        let rows = lease
            .rows(READ, &key(sink, partition), |row| {
                Ok(((row.int(0)?, row.int(1)?), row.int(2)?))
            })
            .await?;
        seen.push(rows.into_iter().next());
    }
    let [committed, uncommitted] = seen[..] else {
        unreachable!("two levels were read");
    };
    let committed = committed.map(|(at, _)| at);
    Ok(uncommitted.and_then(|(at, id)| (Some(at) != committed).then_some(id)))
}

/// What became of a batch whose fate is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Committed,
    NotCommitted,
    /// Another writer has this partition.
    Fenced(TopicPartition),
}

/// Looks a batch's fate up.
pub(crate) async fn fate(tx: &mut Transaction<'_>, sink: &str, steps: &[Step]) -> Result<Fate> {
    const READ: &str = "SELECT `epoch`, `next_offset` FROM `sink_progress` \
        WHERE `sink` = ? AND `topic` = ? AND `partition` = ?";
    let mut committed = 0;
    for step in steps {
        let rows = tx
            .rows(READ, &key(sink, &step.partition), |row| {
                Ok((row.int(0)?, row.int(1)?))
            })
            .await?;
        match rows[..] {
            [(epoch, next)] if epoch == step.epoch && next == step.to => committed += 1,
            [(epoch, next)] if epoch == step.epoch && next == step.from => {}
            _ => return Ok(Fate::Fenced(step.partition.clone())),
        }
    }
    match committed {
        0 => Ok(Fate::NotCommitted),
        all if all == steps.len() => Ok(Fate::Committed),
        // The steps are made in one transaction, so somebody else has changed the rows.
        _ => Ok(Fate::Fenced(steps[0].partition.clone())),
    }
}
