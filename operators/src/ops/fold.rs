//! What all aggregations over several inputs or windows have in common: inputs without their value
//! types, a store, and a table.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use foldhash::fast::FixedState;
use millstream_state::StoreDefinition;
use millstream_topology::{
    BoxError, Change, Error, ErrorKind, Headers, NodeId, NodeKind, Record, Result,
};

use crate::{
    Cx, KStream, KTable,
    build::TaskBuild,
    builder::SharedDraft,
    edge::{Next, Port, edge},
    ops::{
        aggregate::Step, cogroup::KeyFold, session_aggregate::SessionFold,
        sliding_aggregate::SlidingFold, window_aggregate::WindowFold,
    },
    processor::Shared,
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
    next: Next<KO, Change<A>>,
    held: Option<Shared<Held<KO, A>>>,
    with_old: bool,
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
        self.next.is_empty()
    }

    /// True when changes wait for the commit.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// True when a change needs the value before it.
    pub(crate) fn wants_old(&self) -> bool {
        self.with_old || self.held.is_some()
    }

    /// Passes a change on, now or at the commit.
    pub(crate) fn pass(&self, cx: &mut Cx<'_>, change: Record<KO, Change<A>>) -> Result<()> {
        match &self.held {
            _ if self.is_quiet() => Ok(()),
            Some(held) => held.borrow_mut().add(change),
            None => self.next.push(cx, change),
        }
    }
}

/// Appends the bytes of a key of a table.
pub(crate) type EncodeKey<KO> =
    Arc<dyn Fn(&KO, &mut Vec<u8>) -> Result<bool, BoxError> + Send + Sync>;

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
    let ids: Vec<NodeId> = inputs.iter().map(|input| input.id).collect();
    let (node, store) = {
        let mut draft = draft.lock();
        let node = draft.plan.add_node(parts.kind, &ids);
        if ids.len() > 1 {
            draft.plan.copartition(&ids);
        }
        (node, draft.own_store(node, parts.definition))
    };
    if inputs.iter().any(|input| !input.draft.is(&draft)) {
        draft.lock().fail(Error::new(
            ErrorKind::Topology,
            "streams of two builders cannot meet; make both with one `StreamsBuilder`",
        ));
    }
    let port: Port<KO, Change<A>> = Port::new();
    let wishes: Arc<Wishes> = Arc::default();
    for (number, input) in inputs.into_iter().enumerate() {
        let (port, wishes) = (port.clone(), wishes.clone());
        let (encode, folder) = (parts.encode.clone(), parts.folder.clone());
        let make: MakeFolder<K, A> = Arc::new(move |build| {
            let (next, held) = build.once(node, |build| {
                let next = port.connect(build);
                let held = wishes
                    .on_commit()
                    .then(|| hold_back(build, encode.clone(), next.clone(), wishes.old_values()));
                (next, held)
            });
            folder(Place {
                store: build.store(store),
                input: number,
                next,
                held,
                with_old: wishes.old_values(),
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

/// Changes that wait for the commit, by the time of the last update of their key: for each key the
/// value before the first of them, and the last one.
pub(crate) struct Held<KO: 'static, A: 'static> {
    encode: EncodeKey<KO>,
    index_of: HashMap<Vec<u8>, usize, FixedState>,
    changes: Vec<Option<Record<KO, Change<A>>>>,
    scratch: Vec<u8>,
}

impl<KO, A> Held<KO, A> {
    fn add(&mut self, mut change: Record<KO, Change<A>>) -> Result<()> {
        self.scratch.clear();
        let encoded = (self.encode)(&change.key, &mut self.scratch);
        encoded.map_err(crate::ops::source::bad("key"))?;
        let at = self.changes.len();
        match self.index_of.get_mut(self.scratch.as_slice()) {
            Some(place) => {
                let earlier = self.changes[std::mem::replace(place, at)].take();
                change.value.old = earlier.and_then(|earlier| earlier.value.old);
            }
            None => drop(self.index_of.insert(self.scratch.clone(), at)),
        }
        self.changes.push(Some(change));
        Ok(())
    }
}

/// Passes at the commit what has changed since the last one; a key that came and went has not.
fn hold_back<KO: Clone + 'static, A: Clone + 'static>(
    build: &mut TaskBuild<'_>,
    encode: EncodeKey<KO>,
    next: Next<KO, Change<A>>,
    with_old: bool,
) -> Shared<Held<KO, A>> {
    let held = Rc::new(RefCell::new(Held {
        encode,
        index_of: HashMap::default(),
        changes: Vec::new(),
        scratch: Vec::new(),
    }));
    let waiting = held.clone();
    let flush = move |cx: &mut Cx<'_>| {
        let changes = {
            let mut held = waiting.borrow_mut();
            held.index_of.clear();
            std::mem::take(&mut held.changes)
        };
        for mut change in changes.into_iter().flatten() {
            if change.value.new.is_none() && change.value.old.is_none() {
                continue;
            }
            change.value.old = change.value.old.filter(|_| with_old);
            next.push(cx, change)?;
        }
        Ok(())
    };
    build.flushes.push(Rc::new(RefCell::new(flush)));
    held
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
