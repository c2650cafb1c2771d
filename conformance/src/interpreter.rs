//! `Interpreter`: builds the topology of a scenario, step by step, with the public DSL.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use millstream_operators::{GlobalKTable, KStream, KTable, StreamsBuilder, Topology};
use millstream_runtime::TestDriver;
use millstream_topology::{Error, KvStore, Topic, Windowed, nullable, text, u64_be};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value as Json;

use crate::{
    scenario::{Config, Scenario, StoreEntry},
    steps,
    text::{Key, KeyCodec, Text, WindowedKeyCodec, intern},
};

/// Every stream of a scenario: keys and values may be null.
pub type Stream = KStream<Option<Key>, Option<Text>>;

/// A table of a scenario.
#[derive(Clone)]
pub enum Table {
    /// Keyed by text.
    Plain(KTable<Key, Text>),
    /// Keyed by text and window.
    Windowed(KTable<Windowed<Key>, Text>),
}

/// Runs an expression on a table of either kind.
#[macro_export]
macro_rules! each_table {
    ($table:expr, $name:ident => $do:expr) => {
        match $table {
            $crate::Table::Plain($name) => $do,
            $crate::Table::Windowed($name) => $do,
        }
    };
}

/// What a table can be keyed by.
pub trait TableKey: Clone + 'static {
    /// The key as one of a stream.
    fn flat(&self) -> Key;
    /// The table with its kind.
    fn table(table: KTable<Self, Text>) -> Table;
    /// A store of tables with such keys.
    fn store(name: &'static str) -> KvStore<Self, Text>;
}

impl TableKey for Key {
    fn flat(&self) -> Key {
        self.clone()
    }
    fn table(table: KTable<Self, Text>) -> Table {
        Table::Plain(table)
    }
    fn store(name: &'static str) -> KvStore<Self, Text> {
        KvStore::new(name, KeyCodec, text())
    }
}

impl TableKey for Windowed<Key> {
    fn flat(&self) -> Key {
        Key::of_windowed(self)
    }
    fn table(table: KTable<Self, Text>) -> Table {
        Table::Windowed(table)
    }
    fn store(name: &'static str) -> KvStore<Self, Text> {
        KvStore::new(name, WindowedKeyCodec, text())
    }
}

/// Why a topology was not built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The library refuses it, or its types do not let it be written.
    Refused(String),
    /// The interpreter has no such step yet.
    Missing(String),
    /// The scenario is not one.
    Malformed(String),
    /// The driver failed while it ran.
    Failed(String),
}

impl From<String> for Stop {
    /// A function that there is not.
    fn from(unknown: String) -> Self {
        Self::Malformed(unknown)
    }
}

/// The outcome of a step.
pub type Applied<T = ()> = Result<T, Stop>;

/// An entry of a store.
pub type Entry = StoreEntry;

/// Reads the entries of a store.
pub type Dump = Box<dyn Fn(&mut TestDriver) -> Result<Vec<Entry>, Error>>;

/// The fields of a step, without its `op`.
#[derive(Clone, Debug)]
pub struct Fields(serde_json::Map<String, Json>);

impl Fields {
    /// Reads the fields as a type that denies unknown ones.
    ///
    /// # Errors
    /// When a field is unknown, missing or of another type.
    pub fn read<T: DeserializeOwned>(self) -> Applied<T> {
        let text = Json::Object(self.0.clone()).to_string();
        serde_json::from_value(Json::Object(self.0))
            .map_err(|e| Stop::Malformed(format!("{e} in {text}")))
    }
}

/// The `store` of a step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreField {
    /// Its name.
    pub name: String,
    /// History retention of a versioned store.
    pub versioned: Option<i64>,
    /// Retention of a window store.
    pub retention: Option<i64>,
}

/// What has been built of a scenario.
pub struct Interpreter {
    /// Where the topology starts.
    pub builder: StreamsBuilder,
    /// Settings of the whole topology.
    pub config: Config,
    /// The timestamps of all inputs.
    pub input_times: Vec<i64>,
    streams: HashMap<String, Stream>,
    /// Streams that went through a topic already, where steps may share one.
    repartitioned: HashMap<String, Stream>,
    tables: HashMap<String, Table>,
    globals: HashMap<String, GlobalKTable<Key, Text>>,
    dumps: Vec<(String, Dump)>,
    /// Tables whose values some step needs.
    needed: HashSet<String>,
}

impl Interpreter {
    /// Builds the topology of a scenario; with it, how to read its named stores.
    ///
    /// # Errors
    /// Why it could not be built.
    pub fn build(scenario: &Scenario) -> Applied<(Topology, Vec<(String, Dump)>)> {
        let mut this = Self {
            builder: StreamsBuilder::new(),
            config: scenario.config.clone(),
            input_times: scenario.input_times(),
            streams: HashMap::new(),
            repartitioned: HashMap::new(),
            tables: HashMap::new(),
            globals: HashMap::new(),
            dumps: Vec::new(),
            needed: tables_needed(&scenario.topology),
        };
        for step in &scenario.topology {
            let mut fields = step.clone();
            let op = fields.remove("op");
            let op = op.as_ref().and_then(Json::as_str).unwrap_or_default();
            let apply = steps::step(op)
                .ok_or_else(|| Stop::Malformed(format!("there is no step `{op}`")))?;
            apply(&mut this, Fields(fields))?;
        }
        let refused = |error: Error| Stop::Refused(error.chain());
        let topology = this.builder.build().map_err(refused)?;
        let partitions = &this.config.partitions;
        let count = |topic: &str| Some(partitions.get(topic).copied().unwrap_or(1));
        topology.plan().repartition_counts(count).map_err(refused)?;
        Ok((topology, this.dumps))
    }

    /// The stream of that id.
    ///
    /// # Errors
    /// When no step before made one.
    pub fn stream(&self, id: &str) -> Applied<Stream> {
        let known = self.streams.get(id).cloned();
        known.ok_or_else(|| Stop::Malformed(format!("there is no stream `{id}`")))
    }

    /// The table of that id.
    ///
    /// # Errors
    /// When no step before made one.
    pub fn table(&self, id: &str) -> Applied<Table> {
        let known = self.tables.get(id).cloned();
        known.ok_or_else(|| Stop::Malformed(format!("there is no table `{id}`")))
    }

    /// The global table of that id.
    ///
    /// # Errors
    /// When no step before made one.
    pub fn global(&self, id: &str) -> Applied<GlobalKTable<Key, Text>> {
        let known = self.globals.get(id).cloned();
        known.ok_or_else(|| Stop::Malformed(format!("there is no global table `{id}`")))
    }

    /// Makes a global table known to the steps that follow.
    pub fn add_global(&mut self, id: &str, table: GlobalKTable<Key, Text>) {
        self.globals.insert(id.to_owned(), table);
    }

    /// Makes a stream known to the steps that follow.
    pub fn add_stream(&mut self, id: &str, stream: Stream) {
        self.streams.insert(id.to_owned(), stream);
    }

    /// Makes a table known to the steps that follow.
    pub fn add_table(&mut self, id: &str, table: Table) {
        self.tables.insert(id.to_owned(), table);
    }

    /// The stream of that id, its equal keys in one task: through a topic of that name, if its keys
    /// may have changed.
    ///
    /// What Kafka Streams' optimisation finds out for itself is said in a Millstream program: steps
    /// that read one stream read it through one topic.
    ///
    /// # Errors
    /// When no step before made the stream.
    pub fn partitioned(&mut self, from: &str, name: &str) -> Applied<Stream> {
        let stream = self.stream(from)?;
        if !stream.is_rekeyed() {
            return Ok(stream);
        }
        if let Some(known) = self.repartitioned.get(from) {
            return Ok(known.clone());
        }
        let through = stream.repartition(topic(name));
        if self.config.optimize {
            self.repartitioned.insert(from.to_owned(), through.clone());
        }
        Ok(through)
    }

    /// The table, its changes passed on at the commit if the scenario asks for a cache.
    pub fn cached<K: Clone + 'static, V: Clone + 'static>(
        &self,
        table: KTable<K, V>,
    ) -> KTable<K, V> {
        match self.config.caching {
            true => table.emit_on_commit(),
            false => table,
        }
    }

    /// Says how a store that the scenario names is read at the end.
    pub fn dump(
        &mut self,
        name: &str,
        read: impl Fn(&mut TestDriver) -> Result<Vec<Entry>, Error> + 'static,
    ) {
        self.dumps.push((name.to_owned(), Box::new(read)));
    }

    /// As [`table_store`](Self::table_store), of counts, which are read as text.
    ///
    /// # Errors
    /// As [`table_store`](Self::table_store).
    pub fn count_store(
        &mut self,
        id: &str,
        field: &Option<StoreField>,
    ) -> Applied<KvStore<Key, u64>> {
        let name = plain_name(field)?.unwrap_or_else(|| unnamed(id));
        let store = KvStore::new(name, KeyCodec, u64_be());
        if field.is_some() {
            self.dump(name, move |driver| {
                let entries = driver.entries(store)?.into_iter();
                let entry = |(key, count, ts): (Key, u64, i64)| (key, count.to_string(), ts);
                Ok(entries.map(entry).map(entry_with_time).collect())
            });
        }
        Ok(store)
    }

    /// True when the table that a step makes is kept in a store. If the scenario names none, it is
    /// kept only where its values are needed: Kafka Streams finds that out for itself, a Millstream
    /// program says it.
    pub fn is_kept(&self, id: &str, field: &Option<StoreField>) -> bool {
        field.is_some() || self.needed.contains(id)
    }

    /// The key-value store of a table step, read at the end if the scenario names it; one that it
    /// does not name is called after the step.
    ///
    /// # Errors
    /// When the scenario asks for a versioned store or a retention, which this is not for.
    pub fn table_store<T: TableKey>(
        &mut self,
        id: &str,
        field: &Option<StoreField>,
    ) -> Applied<KvStore<T, Text>> {
        let Some(name) = plain_name(field)? else {
            return Ok(T::store(unnamed(id)));
        };
        let store = T::store(name);
        self.dump(name, move |driver| {
            let entries = driver.entries(store)?;
            Ok(entries.into_iter().map(entry_with_time).collect())
        });
        Ok(store)
    }
}

/// The tables that a step looks values up in or takes old ones from, itself or through tables that
/// have no store.
fn tables_needed(steps: &[serde_json::Map<String, Json>]) -> HashSet<String> {
    let mut needed = HashSet::new();
    for step in steps.iter().rev() {
        let text = |field: &str| step.get(field).and_then(Json::as_str).unwrap_or_default();
        let above: &[&str] = match text("op") {
            "stream_table_join" => &["right"],
            "table_table_join" | "fk_join" => &["left", "right"],
            "table_aggregate" => &["from"],
            "table_filter"
            | "table_filter_not"
            | "table_map_values"
            | "table_transform_values"
            | "suppress"
                if needed.contains(text("id")) && !step.contains_key("store") =>
            {
                &["from"]
            }
            _ => &[],
        };
        needed.extend(above.iter().map(|field| text(field).to_owned()));
    }
    needed
}

/// The name of a store that is neither versioned nor kept for some time.
fn plain_name(field: &Option<StoreField>) -> Applied<Option<&'static str>> {
    match field {
        None => Ok(None),
        Some(field) if field.versioned.is_some() || field.retention.is_some() => {
            let what = format!("a plain store was expected, `{}` is none", field.name);
            Err(Stop::Malformed(what))
        }
        Some(field) => Ok(Some(intern(&field.name))),
    }
}

fn entry_with_time<T: TableKey>((key, value, ts): (T, Text, i64)) -> Entry {
    let Key { text, window } = key.flat();
    Entry {
        key: text,
        window,
        ts: Some(ts),
        value,
    }
}

/// The name of a store that the scenario does not name.
pub fn unnamed(id: &str) -> &'static str {
    intern(&format!("{id}-store"))
}

/// A topic of that name; keys and values may be null.
pub fn topic(name: &str) -> Topic<Option<Key>, Option<Text>> {
    Topic::new(intern(name), nullable(KeyCodec), nullable(text()))
}

/// The name of the repartition topic of a step, given or made of its id.
pub fn repartition_name(id: &str, given: &Option<String>) -> String {
    given.clone().unwrap_or_else(|| format!("{id}-by"))
}

/// Milliseconds as a duration.
///
/// # Errors
/// A negative number is refused: a `Duration` cannot hold it.
pub fn duration(ms: i64) -> Applied<Duration> {
    match u64::try_from(ms) {
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) => Err(Stop::Refused(format!(
            "a `Duration` is not negative. ms={ms}"
        ))),
    }
}
