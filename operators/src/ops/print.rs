//! `print`: show each record to people.

use std::{fmt::Debug, sync::Arc};

use millstream_topology::{NodeKind, Record};

use crate::{Cx, KStream, builder::add_node, edge::edge};

/// One line for each record: `[label]: key, value`, in their `Debug` form.
pub(crate) fn print<K: Clone + Debug + 'static, V: Clone + Debug + 'static>(
    stream: KStream<K, V>,
    label: &'static str,
    write: Arc<dyn Fn(&str) + Send + Sync>,
) {
    let id = add_node(&stream.draft, NodeKind::Print, &[stream.id]);
    stream.terminal(id, move |_| {
        let write = write.clone();
        edge(move |_: &mut Cx<'_>, record: Record<K, V>| {
            write(&format!("[{label}]: {:?}, {:?}", record.key, record.value));
            Ok(())
        })
    });
}
