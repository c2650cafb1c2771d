//! `GlobalTables`: the tables that an instance has whole, and the thread that keeps them up to
//! date.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millstream_broker::{Admin, Fetched, PartitionIx, Reader, Start, TopicPartition};
use millstream_operators::{Globals, RawRecord, Topology};
use millstream_state::{MemoryBytes, StoreDefinition, TaskState};
use millstream_topology::{Error, ErrorKind, Result};
use tracing::{info, warn};

use crate::{Policies, clock::WallClock, policy::ErrorPolicy};

/// Records read in one go.
const BATCH_RECORDS: usize = 20_000;
/// How long one step waits for records.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long the log is left alone after it failed to answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often those who wait for the tables look whether the application stops.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// The stores of the global tables. They lie in memory and are read from their topics at each
/// start: the topics are their changelogs.
pub(crate) struct GlobalTables {
    topology: Topology,
    state: TaskState,
}

impl GlobalTables {
    /// Empty stores.
    pub(crate) fn open(topology: &Topology) -> Result<Self> {
        let globals = topology.globals().iter();
        let definitions: Vec<Arc<dyn StoreDefinition>> =
            globals.map(|global| global.definition().clone()).collect();
        Ok(Self {
            topology: topology.clone(),
            state: TaskState::open(Arc::new(MemoryBytes::default()), &definitions)?,
        })
    }

    /// What tasks see of them.
    pub(crate) fn views(&self) -> Globals {
        Globals::new((0..self.topology.globals().len()).map(|index| self.state.view(index)))
    }

    /// The tables that are read from a topic.
    pub(crate) fn fed_by(&self, topic: &str) -> Vec<usize> {
        fed_by(&self.topology, topic)
    }

    /// Applies a record; `false` when it has no key and is dropped. Tasks see it after
    /// [`commit`](Self::commit).
    pub(crate) fn apply(&mut self, index: usize, record: &RawRecord) -> Result<bool> {
        self.topology.globals()[index].apply(&mut self.state, index, record)
    }

    /// Shows tasks what was applied.
    pub(crate) fn commit(&mut self) -> Result<()> {
        // What would be logged is what was read from the log.
        self.state.write_changelog(&mut |_, _, _, _| Ok(()))?;
        self.state.commit(&[])?;
        match self.state.start_flush() {
            Some(job) => job.run().map(|_| ()),
            None => Ok(()),
        }
    }

    /// The stores, for a driver that shows their entries.
    pub(crate) fn state(&mut self) -> &mut TaskState {
        &mut self.state
    }
}

fn fed_by(topology: &Topology, topic: &str) -> Vec<usize> {
    let globals = topology.globals().iter().enumerate();
    let fed = globals.filter(|(_, global)| &**global.topic() == topic);
    fed.map(|(index, _)| index).collect()
}

/// Tells stream threads when the global tables are there whole.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    views: Mutex<Option<Globals>>,
    changed: Condvar,
}

impl Ready {
    pub(crate) fn reach(&self, views: Globals) {
        *self.views.lock().expect("waiting does not panic") = Some(views);
        self.changed.notify_all();
    }

    /// Waits until the tables are there, or the application stops.
    pub(crate) fn wait(&self, stopping: impl Fn() -> bool) {
        let mut views = self.views.lock().expect("waiting does not panic");
        while views.is_none() && !stopping() {
            let waited = self.changed.wait_timeout(views, LOOK_AROUND);
            views = waited.expect("waiting does not panic").0;
        }
    }

    /// Whether the tables are there.
    pub(crate) fn is_reached(&self) -> bool {
        let views = self.views.lock().expect("waiting does not panic");
        views.is_some()
    }

    /// What tasks see of the tables; nothing before they are there.
    pub(crate) fn views(&self) -> Globals {
        let views = self.views.lock().expect("waiting does not panic");
        views.clone().unwrap_or_default()
    }
}

/// What is to be read for the global tables. Their stores belong to one thread, which
/// [opens](Self::open) them.
pub(crate) struct Reading {
    topology: Topology,
    reader: Box<dyn Reader>,
    /// By partition: the tables that it feeds, and where the topic ended when the reader began.
    partitions: Vec<(Vec<usize>, i64)>,
}

impl Reading {
    /// Reads from the oldest record on, all partitions of each topic.
    pub(crate) fn begin(
        topology: &Topology,
        mut reader: Box<dyn Reader>,
        admin: &dyn Admin,
    ) -> Result<Self> {
        let topics = admin.topics()?;
        let counts: BTreeMap<&str, u32> = topics
            .iter()
            .map(|topic| (&*topic.name, topic.partitions))
            .collect();
        let (mut starts, mut partitions) = (Vec::new(), Vec::new());
        for global in topology.globals() {
            let name = global.topic();
            let count = counts.get(&**name).copied().ok_or_else(|| {
                let what = "the topic of a global table does not exist; create it first";
                let error = Error::new(ErrorKind::Topology, format!("{what}. topic=`{name}`"));
                error.in_node(&global.definition().spec().name)
            })?;
            for partition in 0..count {
                let place = TopicPartition::new(name.clone(), partition as i32);
                let ends = admin.watermarks(&place)?;
                starts.push((place, Start::Offset(ends.low)));
                partitions.push((fed_by(topology, name), ends.high));
            }
        }
        reader.assign(&starts)?;
        Ok(Self {
            topology: topology.clone(),
            reader,
            partitions,
        })
    }

    /// Opens the stores, empty.
    pub(crate) fn open(self) -> Result<Follower> {
        Ok(Follower {
            tables: GlobalTables::open(&self.topology)?,
            reading: self,
            whole: false,
            fetched: Vec::new(),
        })
    }
}

/// Reads the topics of the global tables until the application stops.
pub(crate) struct Follower {
    reading: Reading,
    tables: GlobalTables,
    /// Everything has been read that was there at the start.
    whole: bool,
    fetched: Vec<Fetched>,
}

impl Follower {
    /// Works until `stop` is set.
    pub(crate) fn run(
        mut self,
        ready: &Ready,
        policies: &Policies,
        clock: &dyn WallClock,
        stop: &AtomicBool,
    ) -> Result<()> {
        while !stop.load(Ordering::Acquire) {
            self.step(ready, policies, clock, POLL_WAIT)?;
        }
        Ok(())
    }

    /// Applies what comes within `wait`. A log that does not answer is asked again the next time.
    pub(crate) fn step(
        &mut self,
        ready: &Ready,
        policies: &Policies,
        clock: &dyn WallClock,
        wait: Duration,
    ) -> Result<()> {
        match self.read(ready, policies, wait) {
            Err(error) if error.kind() == ErrorKind::Broker => {
                warn!(error = %error.chain(), "global tables cannot be read; tries again");
                clock.wait(RETRY_PAUSE);
                Ok(())
            }
            other => other,
        }
    }

    fn read(&mut self, ready: &Ready, policies: &Policies, wait: Duration) -> Result<()> {
        if !self.whole && self.is_whole()? {
            self.whole = true;
            info!(
                partitions = self.reading.partitions.len(),
                "global tables are up to date"
            );
            ready.reach(self.tables.views());
        }
        self.fetched.clear();
        let reader = &mut self.reading.reader;
        reader.poll(wait, BATCH_RECORDS, &mut self.fetched)?;
        for record in self.fetched.drain(..) {
            let (fed, _) = &self.reading.partitions[record.partition.0 as usize];
            let raw = RawRecord {
                key: record.key,
                value: record.value,
                timestamp: record.timestamp,
                headers: record.headers,
            };
            for index in fed {
                if let Err(error) = self.tables.apply(*index, &raw) {
                    skip(policies, error)?;
                }
            }
        }
        self.tables.commit()
    }

    /// True when everything has been read that was there at the start.
    fn is_whole(&mut self) -> Result<bool> {
        for (at, (_, end)) in self.reading.partitions.iter().enumerate() {
            if *end > 0 && self.reading.reader.position(PartitionIx(at as u32))? < *end {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// There are no dead letters for records of global tables: every instance would write one.
fn skip(policies: &Policies, error: Error) -> Result<()> {
    match policies.for_error(&error) {
        ErrorPolicy::Fail => Err(error),
        ErrorPolicy::Skip | ErrorPolicy::DeadLetter => {
            warn!(error = %error.chain(), "a record of a global table is skipped");
            Ok(())
        }
    }
}
