//! `TaskBuild`: turns the factories of one sub-topology into the nodes of one task.

use std::{
    any::Any,
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
};

use millstream_topology::{NodeId, Record, Result, StoreId, TopicRole};

use crate::{
    Cx, SinkIx, Topology,
    edge::{Edge, node},
    processor::Live,
};

/// Emits what an operator held back until the commit.
pub(crate) type Flush = Rc<RefCell<dyn FnMut(&mut Cx<'_>) -> Result<()>>>;

/// The state of building one task.
pub(crate) struct TaskBuild<'a> {
    topology: &'a Topology,
    /// The task's stores, oldest first; a store's place here is its index in the task's state.
    stores: &'a [StoreId],
    made: HashMap<NodeId, Box<dyn Any>>,
    pub(crate) counters: HashMap<NodeId, Arc<AtomicU64>>,
    /// Nodes are built from the sinks up, so the reverse of this order is topological.
    pub(crate) flushes: Vec<Flush>,
    pub(crate) processors: Vec<(Arc<str>, Rc<RefCell<dyn Live>>)>,
}

impl<'a> TaskBuild<'a> {
    pub(crate) fn new(topology: &'a Topology, stores: &'a [StoreId]) -> Self {
        Self {
            topology,
            stores,
            made: HashMap::new(),
            counters: HashMap::new(),
            flushes: Vec::new(),
            processors: Vec::new(),
        }
    }

    /// Makes a node of a body, named and counted as node `id` of the plan.
    pub(crate) fn node<K: 'static, V: 'static>(
        &mut self,
        id: NodeId,
        body: impl FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()> + 'static,
    ) -> Edge<K, V> {
        let records = self.counters.entry(id).or_default().clone();
        node(self.name(id), records, body)
    }

    /// Makes what several inputs share only once for a task.
    pub(crate) fn once<T: Clone + 'static>(
        &mut self,
        id: NodeId,
        make: impl FnOnce(&mut Self) -> T,
    ) -> T {
        if let Some(made) = self.made.get(&id) {
            return made
                .downcast_ref::<T>()
                .expect("a node is made of one type")
                .clone();
        }
        let made = make(self);
        self.made.insert(id, Box::new(made.clone()));
        made
    }

    /// The index of a store in the task's state.
    pub(crate) fn store(&self, id: StoreId) -> usize {
        self.stores
            .iter()
            .position(|s| *s == id)
            .expect("a node's stores are in its sub-topology")
    }

    /// The index of a topic among all that the topology writes.
    pub(crate) fn sink(&self, topic: &str, role: TopicRole) -> SinkIx {
        let wanted = |t: &(Arc<str>, TopicRole)| &*t.0 == topic && t.1 == role;
        let index = self.topology.sink_topics().iter().position(wanted);
        SinkIx(index.expect("a sink's topic is in the plan") as u32)
    }

    /// True when records without a key have a use behind the topic of the application of that name.
    pub(crate) fn wants_null_keys(&self, topic: &str) -> bool {
        self.topology.plan().wants_null_keys(topic)
    }

    /// The stores of a node, in the order in which it was connected to them.
    pub(crate) fn stores_of(&self, id: NodeId) -> Vec<StoreId> {
        self.topology.plan().nodes()[id.0].stores.clone()
    }

    pub(crate) fn store_name(&self, id: StoreId) -> &str {
        &self.topology.plan().stores()[id.0].name
    }

    /// The index of a global table among all of them.
    pub(crate) fn global(&self, store: &str) -> Option<usize> {
        let mut globals = self.topology.globals().iter();
        globals.position(|global| &*global.definition().spec().name == store)
    }

    pub(crate) fn name(&self, id: NodeId) -> Arc<str> {
        self.topology.plan().nodes()[id.0].name.clone()
    }
}
