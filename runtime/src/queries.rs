//! `Queries`: reads the stores of a running application, and says who else holds a key.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use millstream_operators::Topology;
use millstream_state::{StoreDefinition, StoreView};
use millstream_topology::{
    Error, ErrorKind, KvStore, Result, StoreKind, TaskId, partition_for_key,
};
use serde::Serialize;

use crate::{internal_topics::Layout, members::Members, stale_reads::Copies, task::Task};

/// A store of the topology.
#[derive(Clone)]
struct Known {
    definition: Arc<dyn StoreDefinition>,
    subtopology: u32,
    partitions: u32,
    /// It is restored from the log, so that a standby can follow it.
    followed: bool,
}

/// A store, for people.
#[derive(Clone, Debug, Serialize)]
pub struct StoreInfo {
    /// Its name.
    pub name: String,
    /// `key-value`, `window`, `session` or `buffer`.
    pub kind: &'static str,
    /// How many partitions it has in all.
    pub partitions: u32,
    /// Those that this instance holds, and serves.
    pub local: Vec<i32>,
    /// About how many entries this instance holds.
    pub entries: u64,
}

/// Where a key is.
pub enum Located {
    /// Here.
    Here(Box<StoreView>),
    /// At the instance with this endpoint.
    There(String),
    /// With nobody who serves it at the moment: it is restoring or on its way.
    Nowhere,
}

#[derive(Default)]
struct Serving(BTreeMap<(String, i32), StoreView>);

impl Serving {
    fn remove(&mut self, id: TaskId, is_of: impl Fn(&str) -> bool) {
        self.0
            .retain(|(name, partition), _| *partition != id.partition || !is_of(name));
    }
}

/// Reads the stores of a running application. Clones read the same.
#[derive(Clone)]
pub struct Queries {
    stores: Arc<BTreeMap<String, Known>>,
    serving: Arc<RwLock<Serving>>,
    /// Of standbys: a little behind.
    pub(crate) copies: Arc<RwLock<Copies>>,
    pub(crate) members: Members,
}

impl Queries {
    pub(crate) fn new(topology: &Topology, layout: &Layout, members: Members) -> Self {
        let mut stores = BTreeMap::new();
        for sub in topology.subtopologies() {
            for store in &sub.stores {
                let known = Known {
                    definition: topology.definition(*store).clone(),
                    subtopology: sub.id,
                    partitions: layout.tasks[sub.id as usize],
                    followed: topology.plan().stores()[store.0].logged
                        || topology.refill(*store).is_some(),
                };
                stores.insert(topology.plan().stores()[store.0].name.to_string(), known);
            }
        }
        Self {
            stores: Arc::new(stores),
            serving: Arc::default(),
            copies: Arc::default(),
            members,
        }
    }

    /// A task serves, so that nothing older is needed any more.
    pub(crate) fn register(&self, id: TaskId, task: &Task) {
        let mut serving = self.serving.write().expect("registering does not panic");
        for (at, name) in task.store_names().enumerate() {
            serving
                .0
                .insert((name.to_owned(), id.partition), task.state.view(at));
        }
        drop(serving);
        self.deregister_standby(id);
    }

    /// Nothing of a task is read any more, neither as its own nor as the standby that it was.
    pub(crate) fn deregister(&self, id: TaskId) {
        let mut serving = self.serving.write().expect("registering does not panic");
        serving.remove(id, |name| self.is_of(name, id));
        drop(serving);
        self.deregister_standby(id);
    }

    pub(crate) fn is_of(&self, store: &str, id: TaskId) -> bool {
        self.stores[store].subtopology == id.subtopology
    }

    pub(crate) fn is_followed(&self, store: &str) -> bool {
        self.stores[store].followed
    }

    /// The task of a partition of a store that there is.
    pub(crate) fn task_id(&self, store: &str, partition: i32) -> TaskId {
        TaskId {
            subtopology: self.stores[store].subtopology,
            partition,
        }
    }

    /// All stores of the topology.
    pub fn stores(&self) -> Vec<StoreInfo> {
        let serving = self.serving.read().expect("registering does not panic");
        let info = |(name, known): (&String, &Known)| {
            let of_store = serving.0.iter().filter(|((n, _), _)| n == name);
            StoreInfo {
                name: name.clone(),
                kind: match known.definition.spec().kind {
                    StoreKind::KeyValue => "key-value",
                    StoreKind::Window { .. } => "window",
                    StoreKind::Session { .. } => "session",
                    StoreKind::Buffer => "buffer",
                },
                partitions: known.partitions,
                local: of_store
                    .clone()
                    .map(|((_, partition), _)| *partition)
                    .collect(),
                entries: of_store.map(|(_, view)| view.approximate_entries()).sum(),
            }
        };
        self.stores.iter().map(info).collect()
    }

    /// How a store's keys and values are read and shown.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topology has no such store.
    pub fn definition(&self, store: &str) -> Result<&Arc<dyn StoreDefinition>> {
        self.known(store).map(|known| &known.definition)
    }

    /// How many partitions a store has in all.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topology has no such store.
    pub fn partitions(&self, store: &str) -> Result<u32> {
        self.known(store).map(|known| known.partitions)
    }

    fn known(&self, store: &str) -> Result<&Known> {
        self.stores
            .get(store)
            .ok_or_else(|| Error::new(ErrorKind::Config, format!("no such store. store=`{store}`")))
    }

    /// Where an encoded key is. The default partitioner decides, as it did when the key was
    /// written.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topology has no such store.
    pub fn locate(&self, store: &str, key: &[u8]) -> Result<Located> {
        let task = self.task(store, key)?;
        let serving = self.serving.read().expect("registering does not panic");
        if let Some(view) = serving.0.get(&(store.to_owned(), task.partition)) {
            return Ok(Located::Here(Box::new(view.clone())));
        }
        drop(serving);
        Ok(match self.members.owner(task) {
            Some(endpoint) => Located::There(endpoint),
            None => Located::Nowhere,
        })
    }

    /// The task that has an encoded key.
    fn task(&self, store: &str, key: &[u8]) -> Result<TaskId> {
        let partitions = self.partitions(store)?;
        Ok(self.task_id(store, partition_for_key(key, partitions)))
    }

    /// The partitions of a store that this instance serves, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topology has no such store.
    pub fn local(&self, store: &str) -> Result<Vec<(i32, StoreView)>> {
        self.known(store)?;
        let serving = self.serving.read().expect("registering does not panic");
        let of_store = serving.0.iter().filter(|((name, _), _)| name == store);
        Ok(of_store
            .map(|((_, partition), view)| (*partition, view.clone()))
            .collect())
    }

    /// The endpoints of the other instances that serve partitions of a store.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topology has no such store.
    pub fn elsewhere(&self, store: &str) -> Result<Vec<String>> {
        let known = self.known(store)?;
        let mut endpoints: Vec<String> = (0..known.partitions as i32)
            .filter_map(|partition| {
                self.members.owner(TaskId {
                    subtopology: known.subtopology,
                    partition,
                })
            })
            .collect();
        endpoints.sort();
        endpoints.dedup();
        Ok(endpoints)
    }

    /// The committed value of a key and its timestamp, from this instance.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the topology has no such store, [`ErrorKind::State`] when this
    /// instance does not serve the key or reading fails.
    pub fn get<K, V: Clone>(&self, store: &KvStore<K, V>, key: &K) -> Result<Option<(V, i64)>> {
        self.read(store, key, Self::locate)
    }

    pub(crate) fn read<K, V: Clone>(
        &self,
        store: &KvStore<K, V>,
        key: &K,
        locate: impl Fn(&Self, &str, &[u8]) -> Result<Located>,
    ) -> Result<Option<(V, i64)>> {
        let bad = |what: &'static str| move |e| Error::caused(ErrorKind::Data, what, e);
        let mut bytes = Vec::new();
        store
            .key()
            .encode(key, &mut bytes)
            .map_err(bad("key does not encode"))?;
        match locate(self, store.name(), &bytes)? {
            Located::Here(view) => {
                let Some((value, timestamp)) = view.get(&bytes)? else {
                    return Ok(None);
                };
                let value = store
                    .value()
                    .decode(Some(&value))
                    .map_err(bad("value does not decode"))?;
                Ok(Some((value, timestamp)))
            }
            Located::There(_) | Located::Nowhere => Err(Error::new(
                ErrorKind::State,
                "the key is not served by this instance",
            )),
        }
    }
}
