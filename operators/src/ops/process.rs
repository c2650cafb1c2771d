//! `process`: a node of the user's own.

use std::{cell::RefCell, rc::Rc};

use millstream_topology::{NodeKind, Record};

use crate::{
    Cx, KStream, Processor, Stores,
    edge::edge,
    processor::{Instance, Shared},
    processor_stores::handles_of,
};

pub(crate) fn process<K, V, S, P>(
    stream: KStream<K, V>,
    stores: S,
    make: impl Fn(S::Handles) -> P + Send + Sync + 'static,
) -> KStream<P::OutKey, P::OutValue>
where
    K: Clone + 'static,
    V: Clone + 'static,
    S: Stores,
    P: Processor<Key = K, Value = V>,
{
    let draft = stream.draft.clone();
    // The node's id is known once the stream has added it, and its stores are connected right
    // after.
    let id = millstream_topology::NodeId(draft.lock().plan.nodes().len());
    let out = stream.unary(NodeKind::Process, move |build, next| {
        let ids = build.stores_of(id);
        let processor = make(handles_of(stores, build, &ids));
        let instance: Shared<Instance<P>> =
            Rc::new(RefCell::new(Instance::new(processor, next, Vec::new())));
        let name = build.name(id);
        build.processors.push((name, instance.clone()));
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| instance.borrow_mut().process(cx, record))
    });
    assert_eq!(out.id, id, "one node was added");
    stores.connect(&mut draft.lock(), id);
    out
}
