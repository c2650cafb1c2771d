//! Feeds a scenario to a `TestDriver` and writes down what it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millstream_operators::{RawRecord, Topology};
use millstream_runtime::TestDriver;
use millstream_state::{ByteStore, RocksBytes, RocksShared};
use millstream_topology::{Codec, Error, Headers, TopicRole};

use crate::{
    interpreter::{Applied, Dump, Interpreter, Stop},
    scenario::{Describe, DescribedPart, Incoming, Input, Output, Scenario, StoreEntry},
    text::KeyCodec,
};

/// Ways to run one scenario, all with the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Stores in memory, in one go.
    Memory,
    /// Stopped in the middle; the stores come back from their changelogs.
    Restored,
    /// Stores in RocksDB, stopped in the middle and opened again.
    OnDisk,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Restored, Self::OnDisk];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "in memory",
            Self::Restored => "restored in the middle",
            Self::OnDisk => "on disk, reopened in the middle",
        }
    }
}

/// What a driver did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// For each input the records written because of it.
    pub outputs: Vec<Vec<Output>>,
    /// The named stores at the end.
    pub stores: BTreeMap<String, Vec<StoreEntry>>,
    /// How many records operators dropped.
    pub dropped: u64,
    /// The shape of the topology.
    pub describe: Describe,
}

/// Runs a scenario.
///
/// # Errors
/// Why it could not be built, or what it failed with.
pub fn run(scenario: &Scenario, variant: Variant) -> Applied<Actual> {
    let (topology, dumps) = Interpreter::build(scenario)?;
    let folder = tempfile::tempdir().map_err(|e| Stop::Failed(e.to_string()))?;
    let driver = match variant {
        Variant::Memory | Variant::Restored => TestDriver::new(&topology),
        Variant::OnDisk => TestDriver::with_bases(&topology, bases(&topology, folder.path())?),
    };
    let mut driver = driver.map_err(failed)?;
    let restart_at = match punctuates(scenario) {
        true => None,
        false => Some(scenario.inputs.len() / 2),
    };
    let mut actual = Actual {
        describe: describe(&topology, &dumps),
        ..Actual::default()
    };
    for (at, input) in scenario.inputs.iter().enumerate() {
        if restart_at == Some(at) {
            match variant {
                Variant::Memory => {}
                Variant::Restored => driver.restart(false).map_err(failed)?,
                Variant::OnDisk => driver.restart(true).map_err(failed)?,
            }
        }
        feed(&mut driver, input).map_err(failed)?;
        actual.outputs.push(outputs(&mut driver)?);
    }
    for (name, dump) in &dumps {
        let mut entries = dump(&mut driver).map_err(failed)?;
        entries.sort();
        actual.stores.insert(name.clone(), entries);
    }
    actual.dropped = driver.dropped();
    Ok(actual)
}

fn failed(error: Error) -> Stop {
    Stop::Failed(error.chain())
}

/// Most memory that the block cache of all stores of a scenario takes.
const CACHE_BYTES: usize = 8 << 20;

fn bases(topology: &Topology, folder: &Path) -> Applied<Vec<Arc<dyn ByteStore>>> {
    let shared = RocksShared::new(CACHE_BYTES).map_err(failed)?;
    let open = |at: usize| {
        let base = RocksBytes::open(&folder.join(at.to_string()), &shared).map_err(failed)?;
        Ok(Arc::new(base) as Arc<dyn ByteStore>)
    };
    (0..topology.subtopologies().len()).map(open).collect()
}

/// A stop loses when timers are due, so scenarios with timers run in one go.
fn punctuates(scenario: &Scenario) -> bool {
    scenario
        .topology
        .iter()
        .any(|step| step.contains_key("every"))
}

fn feed(driver: &mut TestDriver, input: &Input) -> Result<(), Error> {
    match input {
        Input::Clock(advance) => {
            driver.advance_wall_clock(Duration::from_millis(advance.advance_wall_clock_ms))
        }
        Input::Record(Incoming {
            topic,
            key,
            value,
            ts,
            headers,
        }) => {
            let mut carried = Headers::default();
            for (name, text) in headers {
                carried.push(name.as_str(), Bytes::from(text.clone()));
            }
            let raw = RawRecord {
                key: key.clone().map(Bytes::from),
                value: value.clone().map(Bytes::from),
                timestamp: *ts,
                headers: carried,
            };
            driver.send_raw(topic, raw)
        }
    }
}

fn outputs(driver: &mut TestDriver) -> Applied<Vec<Output>> {
    let written = driver.read_all_raw();
    let each = written.into_iter().flat_map(|(topic, records)| {
        records
            .into_iter()
            .map(move |record| output(&topic, record))
    });
    each.collect()
}

fn output(topic: &str, record: RawRecord) -> Applied<Output> {
    let bad = |e| Stop::Failed(format!("an output does not decode: {e}"));
    let key = record
        .key
        .map(|key| KeyCodec::decode(&key))
        .transpose()
        .map_err(bad)?;
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let header = |header: &millstream_topology::Header| {
        (
            header.name.to_string(),
            header.value.as_ref().map(text).unwrap_or_default(),
        )
    };
    Ok(Output {
        topic: topic.to_owned(),
        window: key.as_ref().and_then(|key| key.window),
        key: key.map(|key| key.text),
        value: record.value.as_ref().map(text),
        ts: record.timestamp,
        headers: record.headers.iter().map(header).collect(),
    })
}

fn describe(topology: &Topology, dumps: &[(String, Dump)]) -> Describe {
    let named = |name: &str| dumps.iter().any(|(dumped, _)| dumped == name);
    let external = |topics: &[(Arc<str>, TopicRole)]| -> Vec<String> {
        let outside = topics
            .iter()
            .filter(|(_, role)| *role == TopicRole::External);
        let sorted: BTreeSet<String> = outside.map(|(name, _)| name.to_string()).collect();
        sorted.into_iter().collect()
    };
    let parts = topology.subtopologies().iter().map(|sub| {
        let stores = sub
            .stores
            .iter()
            .map(|id| &*topology.plan().stores()[id.0].name);
        let stores: BTreeSet<String> = stores
            .filter(|name| named(name))
            .map(str::to_owned)
            .collect();
        let nodes = sub.nodes.iter().map(|id| &topology.plan().nodes()[id.0]);
        let patterns = nodes.filter_map(|node| Some(format!("/{}/", node.pattern.as_ref()?)));
        let mut sources = external(&sub.sources);
        sources.extend(patterns);
        sources.sort();
        DescribedPart {
            sources,
            sinks: external(&sub.sinks),
            stores: stores.into_iter().collect(),
        }
    });
    let mut subtopologies: Vec<DescribedPart> = parts.collect();
    subtopologies.sort();
    Describe {
        subtopologies,
        global_stores: topology.globals().len(),
    }
}
