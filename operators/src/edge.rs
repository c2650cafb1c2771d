//! Typed edges: how a node hands a record to the nodes behind it.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_topology::{Record, Result};

use crate::{Cx, build::TaskBuild};

/// A node as its inputs see it.
pub(crate) trait Push<K, V> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Result<()>;
}

/// One node of one task. The graph has no cycles, so a node is never entered while it runs.
pub(crate) type Edge<K, V> = Rc<RefCell<dyn Push<K, V>>>;

/// Makes a node, with all nodes behind it, for one task.
pub(crate) type Factory<K, V> = Arc<dyn Fn(&mut TaskBuild<'_>) -> Edge<K, V> + Send + Sync>;

/// The nodes that listen to a stream, in the order in which they were added.
pub(crate) struct Port<K, V>(Arc<Mutex<Vec<Factory<K, V>>>>);

impl<K, V> Clone for Port<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: 'static, V: 'static> Port<K, V> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }

    pub(crate) fn subscribe(&self, factory: Factory<K, V>) {
        self.0
            .lock()
            .expect("building does not panic")
            .push(factory);
    }

    /// Builds all listeners of one task.
    pub(crate) fn connect(&self, build: &mut TaskBuild<'_>) -> Next<K, V> {
        let factories = self.0.lock().expect("building does not panic").clone();
        Next(factories.iter().map(|make| make(build)).collect())
    }
}

/// The nodes behind a node.
pub(crate) struct Next<K, V>(Vec<Edge<K, V>>);

impl<K, V> Clone for Next<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Next<K, V> {
    /// True when nobody listens, so that a record need not be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Clone, V: Clone> Next<K, V> {
    /// Hands a record to each node in turn, depth first; the last one gets the record itself.
    pub(crate) fn push(&self, cx: &mut Cx<'_>, record: Record<K, V>) -> Result<()> {
        let Some((last, others)) = self.0.split_last() else {
            return Ok(());
        };
        for edge in others {
            edge.borrow_mut().push(cx, record.clone())?;
        }
        last.borrow_mut().push(cx, record)
    }
}

/// Helps the compiler to see a closure as the body of a node.
pub(crate) fn edge<K, V, F>(body: F) -> F
where
    F: FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()> + 'static,
{
    body
}

/// A node's body with its name and its counter.
struct Node<F> {
    name: Arc<str>,
    records: Arc<AtomicU64>,
    body: F,
}

impl<K, V, F> Push<K, V> for Node<F>
where
    F: FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()>,
{
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Result<()> {
        // One task writes a counter, so a load and a store will do and cost no locked instruction.
        self.records
            .store(self.records.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        (self.body)(cx, record).map_err(|error| error.in_node(&self.name))
    }
}

/// Makes a node of a body.
pub(crate) fn node<K, V, F>(name: Arc<str>, records: Arc<AtomicU64>, body: F) -> Edge<K, V>
where
    F: FnMut(&mut Cx<'_>, Record<K, V>) -> Result<()> + 'static,
{
    Rc::new(RefCell::new(Node {
        name,
        records,
        body,
    }))
}
