//! `to`: write the records of a stream to a topic.

use millstream_topology::{Error, ErrorKind, Record, Topic, TopicRole};

use crate::{Cx, KStream, edge::edge};

/// The timestamp and the headers of a record go with it.
///
/// A topic of the application brings equal keys together, so a record without a key has no place in it:
/// it vanishes, uncounted, unless a join behind the topic has a use for it (KIP-962).
pub(crate) fn sink<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    topic: Topic<K, V>,
    role: TopicRole,
) {
    let id = stream
        .draft
        .lock()
        .plan
        .add_sink(stream.id, topic.name(), role);
    stream.terminal(id, move |build| {
        let sink = build.sink(topic.name(), role);
        let any_key = role == TopicRole::External || build.wants_null_keys(topic.name());
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let scratch = &mut *cx.scratch;
            scratch.key.clear();
            scratch.value.clear();
            let refuse =
                |source| Error::caused(ErrorKind::User, "a record does not encode", source);
            let key = topic
                .key()
                .encode(&record.key, &mut scratch.key)
                .map_err(refuse)?;
            if !key && !any_key {
                return Ok(());
            }
            let value = topic
                .value()
                .encode(&record.value, &mut scratch.value)
                .map_err(refuse)?;
            cx.out.send(
                sink,
                key.then_some(&scratch.key[..]),
                value.then_some(&scratch.value[..]),
                record.timestamp,
                &record.headers,
            )
        })
    });
}
