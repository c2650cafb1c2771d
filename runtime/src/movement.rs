//! Movement: stream threads that come and go while an application runs, and pauses.

use std::sync::atomic::Ordering;

use millstream_topology::{Error, ErrorKind, Result};
use tracing::info;

use crate::{
    application::{Application, Health, Shared, start_thread},
    config::THREADS_MAX,
};

impl Application {
    /// Starts one more stream thread and returns its index, the lowest that is free. It joins the
    /// group in the background and gets its share of the tasks; until it has, and has restored
    /// them, [`health`](Self::health) is [`Health::Starting`](crate::Health::Starting).
    ///
    /// Each thread works on other tasks than the rest, so more threads than tasks of all instances
    /// do not help. The memory budget is divided by the new number of threads.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use millstream_broker::{Broker, Cleanup, NewTopic};
    /// # use millstream_broker::embedded::{EmbeddedBroker, EmbeddedConfig};
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{KvStore, Topic, text, u64_be};
    /// use millstream_runtime::{Application, Config, Health};
    ///
    /// # const WORDS: Topic<String, String> = Topic::new("words", text(), text());
    /// # const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
    /// # let dir = tempfile::tempdir()?;
    /// # let broker: Arc<dyn Broker> =
    /// #     EmbeddedBroker::open(&dir.path().join("log"), EmbeddedConfig::default())?;
    /// # let cleanup = Cleanup::Delete { retention_ms: None };
    /// # let topic = NewTopic { name: "words".into(), partitions: 4, cleanup };
    /// # broker.admin()?.create_topics(&[topic])?;
    /// # let b = StreamsBuilder::new();
    /// # b.stream(WORDS).group_by_key().count(COUNTS);
    /// # let topology = b.build()?;
    /// # fn wait(condition: impl Fn() -> bool) {
    /// #     while !condition() { std::thread::park_timeout(Duration::from_millis(5)); }
    /// # }
    /// let app = Application::start(&topology, broker, Config::new("app", dir.path()))?;
    /// assert_eq!(app.add_thread()?, 1);
    /// wait(|| app.health() == Health::Running && app.status().threads.len() == 2);
    ///
    /// assert_eq!(app.remove_thread()?, Some(1));
    /// wait(|| app.health() == Health::Running && app.status().threads.len() == 1);
    /// app.close()?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the application stops or has failed, when it has too many threads
    /// already, or when the machine starts no more of them.
    pub fn add_thread(&self) -> Result<usize> {
        let mut threads = self.threads.lock().expect("nothing panics with this lock");
        let index = self.shared.add_thread()?;
        let started = start_thread(&self.shared, index);
        let thread = started.inspect_err(|_| self.shared.roster.free(index))?;
        if let Some(left) = threads.insert(index, thread) {
            // It has left already: all that remains to it is to end. A panic in there was reported.
            let _ = left.join();
        }
        Ok(index)
    }

    /// Tells the stream thread of the highest index to leave, and returns its index; `None` when
    /// there is none any more.
    ///
    /// This does not wait, so that a function of the topology may call it, too. The thread commits,
    /// writes the state of its tasks to disk, closes them and leaves the group, which gives them to
    /// other threads at once, without waiting for the session timeout. Then it is gone from
    /// [`status`](Self::status), and its index is free for the next
    /// [`add_thread`](Self::add_thread).
    ///
    /// The last thread may leave, too, as in Kafka Streams: the instance then runs no task, until
    /// one is added, but keeps its standbys and knows where to ask for what others have.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the application stops or has failed.
    pub fn remove_thread(&self) -> Result<Option<usize>> {
        self.shared.remove_thread()
    }

    /// Stops processing until [`resume`](Self::resume), as in Kafka Streams (KIP-834): no record is
    /// processed, no timer fires, no standby follows, and no store is restored that has more than a
    /// thousand records to read. What is processed already is committed at once.
    ///
    /// The instance stays in the group and keeps its tasks; polling goes on, up to
    /// [`buffered_records_max`](crate::Config::buffered_records_max) of each partition;
    /// rebalances are answered, threads come and go, queries read what is committed, global tables
    /// are kept up to date. Tasks that arrive meanwhile wait for their restore.
    ///
    /// This does not wait for the record that is being processed:
    /// [`ThreadStatus::paused`](crate::ThreadStatus::paused) tells when a thread is done. A pause
    /// concerns this instance alone and is not remembered: a start is never paused.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use millstream_broker::{Broker, Cleanup, NewTopic};
    /// # use millstream_broker::embedded::{EmbeddedBroker, EmbeddedConfig};
    /// # use millstream_operators::StreamsBuilder;
    /// # use millstream_topology::{KvStore, Topic, text, u64_be};
    /// use millstream_runtime::{Application, Config, Health};
    ///
    /// # const WORDS: Topic<String, String> = Topic::new("words", text(), text());
    /// # const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
    /// # let dir = tempfile::tempdir()?;
    /// # let broker: Arc<dyn Broker> =
    /// #     EmbeddedBroker::open(&dir.path().join("log"), EmbeddedConfig::default())?;
    /// # let cleanup = Cleanup::Delete { retention_ms: None };
    /// # let topic = NewTopic { name: "words".into(), partitions: 1, cleanup };
    /// # broker.admin()?.create_topics(&[topic])?;
    /// # let b = StreamsBuilder::new();
    /// # b.stream(WORDS).group_by_key().count(COUNTS);
    /// # let topology = b.build()?;
    /// # fn wait(condition: impl Fn() -> bool) {
    /// #     while !condition() { std::thread::park_timeout(Duration::from_millis(5)); }
    /// # }
    /// let app = Application::start(&topology, broker, Config::new("app", dir.path()))?;
    /// wait(|| app.health() == Health::Running);
    /// app.pause();
    /// assert!(app.is_paused() && app.health() == Health::Paused);
    /// wait(|| app.status().threads.iter().all(|thread| thread.paused));
    /// assert_eq!(app.queries().get(&COUNTS, &"a".to_owned())?, None);
    ///
    /// app.resume();
    /// assert_eq!(app.health(), Health::Running);
    /// app.close()?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause(&self) {
        self.shared.pause();
    }

    /// Goes on after a [`pause`](Self::pause). Timers of the wall clock that have become due fire
    /// once, however often they were missed.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Whether it was told to pause.
    pub fn is_paused(&self) -> bool {
        self.shared.is_paused()
    }
}

impl Shared {
    /// Makes a place for one more stream thread.
    pub(crate) fn add_thread(&self) -> Result<usize> {
        self.may_move()?;
        let index = self.roster.add().ok_or_else(|| {
            let what = format!("there are too many stream threads. allowed={THREADS_MAX}");
            Error::new(ErrorKind::Config, what)
        })?;
        info!(thread = index, "stream thread is added");
        Ok(index)
    }

    pub(crate) fn remove_thread(&self) -> Result<Option<usize>> {
        self.may_move()?;
        let index = self.roster.dismiss();
        if let Some(thread) = index {
            info!(thread, "stream thread is told to leave");
        }
        Ok(index)
    }

    fn may_move(&self) -> Result<()> {
        let why = match self.health() {
            Health::Stopping => "the application stops; start it anew".to_owned(),
            Health::Failed(why) => {
                format!("the application has failed; start it anew. reason=`{why}`")
            }
            Health::Starting | Health::Running | Health::Paused | Health::Stalled(_) => {
                return Ok(());
            }
        };
        Err(Error::new(ErrorKind::Config, why))
    }

    pub(crate) fn pause(&self) {
        if !self.pause.swap(true, Ordering::AcqRel) {
            info!("the application pauses");
        }
    }

    pub(crate) fn resume(&self) {
        if self.pause.swap(false, Ordering::AcqRel) {
            info!("the application goes on");
        }
    }
}
