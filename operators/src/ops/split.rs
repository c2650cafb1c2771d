//! `split`: send each record to the first branch that takes it.

use std::sync::{Arc, Mutex};

use millstream_topology::{NodeId, NodeKind, Record};

use crate::{
    Cx, KStream,
    builder::add_node,
    edge::{Edge, Port, edge},
    ops::filter::Predicate,
};

struct Branch<K: 'static, V: 'static> {
    take: Predicate<K, V>,
    id: NodeId,
    port: Port<K, V>,
}

/// The branches of one split, in the order in which they were added.
pub(crate) struct Branches<K: 'static, V: 'static>(Arc<Mutex<Vec<Branch<K, V>>>>);

impl<K, V> Branches<K, V> {
    pub(crate) fn add(&self, take: Predicate<K, V>, id: NodeId, port: Port<K, V>) {
        let mut branches = self.0.lock().expect("building does not panic");
        branches.push(Branch { take, id, port });
    }
}

/// A record that no branch takes is dropped without being counted.
pub(crate) fn split<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
) -> (NodeId, Branches<K, V>) {
    let id = add_node(&stream.draft, NodeKind::Split, &[stream.id]);
    let branches = Branches(Arc::new(Mutex::new(Vec::new())));
    let shared = branches.0.clone();
    stream.terminal(id, move |build| {
        let branches = shared.lock().expect("building does not panic");
        let mut exits: Vec<(Predicate<K, V>, Edge<K, V>)> = Vec::new();
        for branch in branches.iter() {
            let next = branch.port.connect(build);
            let entry = build.node(branch.id, move |cx: &mut Cx<'_>, r| next.push(cx, r));
            exits.push((branch.take.clone(), entry));
        }
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let taken = exits
                .iter()
                .find(|(take, _)| take(&record.key, &record.value));
            match taken {
                Some((_, exit)) => exit.borrow_mut().push(cx, record),
                None => Ok(()),
            }
        })
    });
    (id, branches)
}
