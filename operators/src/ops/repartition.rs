//! `repartition`: send a stream through a topic of the application, so that equal keys meet in one
//! task.

use millstream_topology::{Topic, TopicRole};

use crate::{
    KStream,
    ops::{
        sink::sink,
        source::{Origin, source},
    },
};

pub(crate) fn repartition<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    through: Topic<K, V>,
    partitions: Option<u32>,
) -> KStream<K, V> {
    let role = TopicRole::Repartition { partitions };
    let draft = stream.draft.clone();
    sink(stream, through, role);
    let out = source(&draft, Origin::Topics(vec![through]), role, None);
    if partitions == Some(0) {
        let what = format!(
            "a topic has at least one partition; give `repartition_to` 1 or more, or let \
             `repartition` choose. topic=`{}`",
            through.name()
        );
        draft.lock().refuse(out.id, what);
    }
    out
}
