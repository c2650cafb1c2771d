//! What a sink or its database says no with.

use millstream_topology::{BoxError, ErrorKind};

/// A result of this crate.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Errors of databases and sinks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL of the database is wrong.
    #[error("database URL is not usable: {reason}. url=`{url}`")]
    Url {
        /// The URL without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database did not do it.
    #[error("database failed at {what}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// The database refuses what the sink does, and will go on to.
    #[error("database refuses the sink; {advice}, then start it again. sink=`{sink}`")]
    Refused {
        /// The sink.
        sink: String,
        /// What to do.
        advice: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// MySQL's upsert looks at every unique key and may overwrite another row.
    #[error(
        "table has a second unique key, on which an upsert may overwrite another row; make it a \
         plain index. table=`{table}`, key=`{key}`"
    )]
    SecondKey {
        /// The table.
        table: &'static str,
        /// Its other unique key.
        key: String,
    },
    /// The database did not answer in time.
    #[error("database did not answer in time at {0}")]
    Timeout(&'static str),
    /// A column is not what the query's reader expects.
    #[error("column does not read. column={column}")]
    Column {
        /// The column, from 0.
        column: usize,
        /// Why.
        source: sqlx::Error,
    },
    /// A migration that was applied long ago reads differently now.
    #[error(
        "migration was changed after it was applied; add a new one instead. \
         component=`{component}`, version={version}"
    )]
    MigrationChanged {
        /// Whose migration.
        component: String,
        /// Which one.
        version: i64,
    },
    /// The database was migrated by a later version of the program.
    #[error(
        "database is newer than this program. component=`{component}`, database={database}, \
         program={program}"
    )]
    DatabaseNewer {
        /// Whose migrations.
        component: String,
        /// The newest version in the database.
        database: i64,
        /// The newest version of the program.
        program: i64,
    },
    /// Somebody else writes this sink's partitions now, or the database was set back.
    #[error(
        "progress is not what this writer left; another has taken over, or the database was set \
         back. sink=`{sink}`, partition=`{partition}`"
    )]
    Fenced {
        /// The sink.
        sink: String,
        /// The first partition that showed it.
        partition: String,
    },
    /// The tables were filled from another log or another topic of the same name.
    #[error(
        "tables belong to another log or a deleted topic; use another database or reset the \
         sink. sink=`{sink}`, partition=`{partition}`, database=`{database}`, log=`{log}`"
    )]
    OtherLog {
        /// The sink.
        sink: String,
        /// The partition.
        partition: String,
        /// Identity in the database: cluster and topic.
        database: String,
        /// Identity of the log that is read.
        log: String,
    },
    /// Records that the sink has not read are gone, or the log ends before what the sink has read.
    #[error(
        "log does not hold what the sink must read next. sink=`{sink}`, partition=`{partition}`, \
         next={next}, low={low}, high={high}"
    )]
    Missing {
        /// The sink.
        sink: String,
        /// The partition.
        partition: String,
        /// What the sink must read next.
        next: i64,
        /// Oldest offset of the log.
        low: i64,
        /// End of the log.
        high: i64,
    },
    /// A record could not be set aside.
    #[error("dead letter was not accepted")]
    DeadLetter(#[source] BoxError),
    /// The log failed.
    #[error("log failed")]
    Log(#[from] millstream_broker::Error),
    /// A projection panicked or a thread ended: a bug.
    #[error("sink broke off: {0}")]
    Broken(String),
    /// The sink did not stop within its deadline.
    #[error("sink did not stop in time; what it was writing is rolled back or repeated")]
    StopDeadline,
}

impl Error {
    pub(crate) fn database(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { what, source }
    }

    /// True when the same call may work a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Database { source, .. } => crate::fault::classify(source).is_temporary(),
            Self::Log(error) => matches!(
                error,
                millstream_broker::Error::Client { .. }
                    | millstream_broker::Error::Fenced(_)
                    | millstream_broker::Error::Full
                    | millstream_broker::Error::State(_)
            ),
            Self::Timeout(_) | Self::Fenced { .. } | Self::DeadLetter(_) => true,
            Self::Url { .. }
            | Self::Refused { .. }
            | Self::SecondKey { .. }
            | Self::Column { .. }
            | Self::MigrationChanged { .. }
            | Self::DatabaseNewer { .. }
            | Self::OtherLog { .. }
            | Self::Missing { .. }
            | Self::Broken(_)
            | Self::StopDeadline => false,
        }
    }
}

impl From<Error> for millstream_topology::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Url { .. }
            | Error::Refused { .. }
            | Error::SecondKey { .. }
            | Error::MigrationChanged { .. }
            | Error::DatabaseNewer { .. }
            | Error::OtherLog { .. } => ErrorKind::Config,
            Error::Fenced { .. } => ErrorKind::Fenced,
            Error::Column { .. } => ErrorKind::Data,
            Error::Log(_) | Error::Missing { .. } | Error::DeadLetter(_) => ErrorKind::Broker,
            Error::Broken(_) => ErrorKind::User,
            Error::Database { .. } | Error::Timeout(_) | Error::StopDeadline => ErrorKind::State,
        };
        Self::caused(kind, "SQL sink failed", error)
    }
}
