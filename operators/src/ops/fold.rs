//! What all aggregations over several inputs or windows have in common: inputs without their value
//! types, a store, and a table.

use std::sync::Arc;

use millstream_state::StoreDefinition;
use millstream_topology::{Change, Headers, NodeId, NodeKind, Record, Result};

use crate::{
    Cx, KStream, KTable,
    build::TaskBuild,
    builder::SharedDraft,
    edge::{Port, edge},
    ops::{
        aggregate::Step,
        cogroup::KeyFold,
        held::{EncodeKey, Passing},
        session_aggregate::SessionFold,
        sliding_aggregate::SlidingFold,
        window_aggregate::WindowFold,
    },
    table::{Getter, GetterFactory, Wishes},
};

/// What an aggregation does with the records of one of its inputs.
pub(crate) enum Folder<K: 'static, A: 'static> {
    /// One fold for each key.
    Key(KeyFold<K, A>),
    /// One for each key and tumbling, hopping or unlimited window.
    Window(WindowFold<K, A>),
    /// One for each key and sliding window.
    Sliding(SlidingFold<K, A>),
    /// One for each key and session.
    Session(SessionFold<K, A>),
}

impl<K: Clone + 'static, A: Clone + 'static> Folder<K, A> {
    /// Folds a record, whose value `step` has.
    fn add(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<K, ()>,
        step: impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        match self {
            Self::Key(fold) => fold.add(cx, record, step),
            Self::Window(fold) => fold.add(cx, record, step),
            Self::Sliding(fold) => fold.add(cx, record, step),
            Self::Session(fold) => fold.add(cx, record, step),
        }
    }
}

/// Makes the folder of one input, for one task.
type MakeFolder<K, A> = Arc<dyn Fn(&mut TaskBuild<'_>) -> Folder<K, A> + Send + Sync>;

/// A stream and how its values are folded, without the type of the values.
pub(crate) struct Input<K: 'static, A: 'static> {
    draft: SharedDraft,
    id: NodeId,
    attach: Box<dyn FnOnce(NodeId, MakeFolder<K, A>) + Send>,
}

impl<K: Clone + 'static, A: Clone + 'static> Input<K, A> {
    pub(crate) fn new<V: Clone + 'static>(stream: KStream<K, V>, step: Step<K, V, A>) -> Self {
        let KStream {
            draft, id, port, ..
        } = stream;
        let attach = move |node, make: MakeFolder<K, A>| {
            port.subscribe(Arc::new(move |build| {
                let mut folder = make(build);
                let step = step.clone();
                let body = edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
                    let Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    } = record;
                    let record = Record {
                        key,
                        value: (),
                        timestamp,
                        headers,
                    };
                    folder.add(cx, record, |key, so_far| step(key, value.clone(), so_far))
                });
                build.node(node, body)
            }));
        };
        let attach = Box::new(attach);
        Self { draft, id, attach }
    }
}

/// Where a folder finds its state, and where its results go.
pub(crate) struct Place<KO: 'static, A: 'static> {
    /// The index of the store.
    pub(crate) store: usize,
    /// The number of the input among those that share the store.
    input: usize,
    passing: Passing<KO, A>,
}

impl<KO: Clone + 'static, A: Clone + 'static> Place<KO, A> {
    /// Moves the input's stream time; returns it as it was and as it is.
    pub(crate) fn advance(&self, cx: &mut Cx<'_>, timestamp: i64) -> (i64, i64) {
        let before = cx.state.input_time(self.store, self.input);
        let now = before.max(timestamp);
        cx.state.set_input_time(self.store, self.input, now);
        (before, now)
    }

    /// True when nobody listens, so that a change need not be made.
    pub(crate) fn is_quiet(&self) -> bool {
        self.passing.is_quiet()
    }

    /// True when changes wait for the commit.
    pub(crate) fn is_held(&self) -> bool {
        self.passing.is_held()
    }

    /// True when a change needs the value before it.
    pub(crate) fn wants_old(&self) -> bool {
        self.passing.wants_old()
    }

    /// Passes a change on, now or at the commit.
    pub(crate) fn pass(&self, cx: &mut Cx<'_>, change: Record<KO, Change<A>>) -> Result<()> {
        self.passing.pass(cx, change)
    }
}

/// Makes what reads a table out of the store with that index.
pub(crate) type GetterAt<KO, A> = Arc<dyn Fn(usize) -> Getter<KO, A> + Send + Sync>;

/// What tells one aggregation from another.
pub(crate) struct Parts<K: 'static, KO: 'static, A: 'static> {
    pub(crate) kind: NodeKind,
    pub(crate) definition: Arc<dyn StoreDefinition>,
    pub(crate) encode: EncodeKey<KO>,
    pub(crate) getter: GetterAt<KO, A>,
    pub(crate) folder: Arc<dyn Fn(Place<KO, A>) -> Folder<K, A> + Send + Sync>,
}

/// Makes one node of the inputs, with its store and its table.
pub(crate) fn table<K, KO, A>(inputs: Vec<Input<K, A>>, parts: Parts<K, KO, A>) -> KTable<KO, A>
where
    K: Clone + 'static,
    KO: Clone + 'static,
    A: Clone + 'static,
{
    let draft = inputs
        .first()
        .expect("an aggregation has an input")
        .draft
        .clone();
    let own = inputs.iter().filter(|input| input.draft.is(&draft));
    let ids: Vec<NodeId> = own.map(|input| input.id).collect();
    let (node, store) = {
        let mut draft = draft.lock();
        let node = draft.plan.add_node(parts.kind, &ids);
        if ids.len() > 1 {
            draft.plan.copartition(node, &ids);
        }
        (node, draft.own_store(node, parts.definition))
    };
    for input in &inputs {
        draft.meets(&input.draft, node);
    }
    let port: Port<KO, Change<A>> = Port::new();
    let wishes: Arc<Wishes> = Arc::default();
    for (number, input) in inputs.into_iter().enumerate() {
        let (port, wishes) = (port.clone(), wishes.clone());
        let (encode, folder) = (parts.encode.clone(), parts.folder.clone());
        let make: MakeFolder<K, A> = Arc::new(move |build| {
            let passing = build.once(node, |build| {
                let next = port.connect(build);
                Passing::new(build, &wishes, || encode.clone(), next)
            });
            folder(Place {
                store: build.store(store),
                input: number,
                passing,
            })
        });
        (input.attach)(node, make);
    }
    let make = parts.getter;
    let getter: GetterFactory<KO, A> = Arc::new(move |build| make(build.store(store)));
    let id = node;
    let stores = vec![store];
    KTable {
        draft,
        id,
        port,
        getter,
        history: None,
        stores,
        wishes,
    }
}

/// A change to pass on.
pub(crate) fn change<KO, A>(
    key: KO,
    (new, old): (Option<A>, Option<A>),
    timestamp: i64,
    headers: &Headers,
) -> Record<KO, Change<A>> {
    Record {
        key,
        value: Change::new(new, old),
        timestamp,
        headers: headers.clone(),
    }
}
