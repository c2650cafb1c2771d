//! `KTable`: the newest value of each key, as a stream of changes with a way to look values up.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_topology::{Change, NodeId, Result, StoreId};

use crate::{Cx, KStream, build::TaskBuild, builder::SharedDraft, edge::Port, ops};

/// Looks up a table's present value and its timestamp.
pub(crate) type Getter<K, V> = Rc<dyn Fn(&mut Cx<'_>, &K) -> Result<Option<(V, i64)>>>;

/// Makes the getter of one task.
pub(crate) type GetterFactory<K, V> = Arc<dyn Fn(&TaskBuild<'_>) -> Getter<K, V> + Send + Sync>;

/// What those behind a table ask of the node that makes it.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Somebody needs the value before a change.
    old_values: AtomicBool,
    /// Changes are passed on once a commit, not once an update.
    on_commit: AtomicBool,
}

impl Wishes {
    pub(crate) fn old_values(&self) -> bool {
        self.old_values.load(Ordering::Relaxed)
    }

    pub(crate) fn on_commit(&self) -> bool {
        self.on_commit.load(Ordering::Relaxed)
    }
}

/// A table: the newest value of each key.
pub struct KTable<K: 'static, V: 'static> {
    pub(crate) draft: SharedDraft,
    pub(crate) id: NodeId,
    pub(crate) port: Port<K, Change<V>>,
    pub(crate) getter: GetterFactory<K, V>,
    /// The stores that the getter reads.
    pub(crate) stores: Vec<StoreId>,
    pub(crate) wishes: Arc<Wishes>,
}

impl<K, V> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            draft: self.draft.clone(),
            id: self.id,
            port: self.port.clone(),
            getter: self.getter.clone(),
            stores: self.stores.clone(),
            wishes: self.wishes.clone(),
        }
    }
}

impl<K: Clone + 'static, V: Clone + 'static> KTable<K, V> {
    /// The changes of the table as records; `None` says that the key was deleted.
    pub fn to_stream(&self) -> KStream<K, Option<V>> {
        ops::to_stream::to_stream(self)
    }

    /// Passes a change on once for each key and commit, with the newest value, instead of once for
    /// each update. The store is the same either way (Kafka Streams' record cache does this by
    /// size, here it is the operator's choice).
    ///
    /// Only tables made by an aggregation hold changes back; others pass each on at once.
    pub fn emit_on_commit(self) -> Self {
        self.wishes.on_commit.store(true, Ordering::Relaxed);
        self
    }

    #[allow(dead_code, reason = "asked for by operators on tables")]
    pub(crate) fn want_old_values(&self) {
        self.wishes.old_values.store(true, Ordering::Relaxed);
    }
}
