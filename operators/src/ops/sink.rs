//! `to`: write the records of a stream to a topic.

use std::sync::Arc;

use millstream_topology::{
    AnyTopic, Error, ErrorKind, NodeKind, Record, Result, Serde, Topic, TopicRole,
};

use crate::{Cx, KStream, Scratch, builder::add_node, edge::edge};

/// The timestamp and the headers of a record go with it.
///
/// A topic of the application brings equal keys together, so a record without a key has no place in
/// it: it vanishes, uncounted, unless a join behind the topic has a use for it (KIP-962).
pub(crate) fn sink<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    topic: Topic<K, V>,
    role: TopicRole,
) {
    write(stream, topic, role, role == TopicRole::External);
}

/// As [`sink`], where records without a key always have a place.
pub(crate) fn sink_any_key<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    topic: Topic<K, V>,
    role: TopicRole,
) {
    write(stream, topic, role, true);
}

fn write<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    topic: Topic<K, V>,
    role: TopicRole,
    any_key: bool,
) {
    let id = stream
        .draft
        .lock()
        .plan
        .add_sink(stream.id, topic.name(), role);
    stream.terminal(id, move |build| {
        let sink = build.sink(topic.name(), role);
        let any_key = any_key || build.wants_null_keys(topic.name());
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let (key, value) = encode(cx.scratch, topic.key(), topic.value(), &record)?;
            if key.is_none() && !any_key {
                return Ok(());
            }
            cx.out
                .send(sink, key, value, record.timestamp, &record.headers)
        })
    });
}

/// Names the topic of a record.
pub(crate) type Choice<K, V> = Arc<dyn Fn(&K, &V) -> String + Send + Sync>;

/// As [`sink`], to the topic that each record chooses.
pub(crate) fn sink_to_any<K: Clone + 'static, V: Clone + 'static>(
    stream: KStream<K, V>,
    topic: AnyTopic<K, V>,
    choose: Choice<K, V>,
) {
    let id = add_node(&stream.draft, NodeKind::Sink, &[stream.id]);
    stream.terminal(id, move |_| {
        let choose = choose.clone();
        edge(move |cx: &mut Cx<'_>, record: Record<K, V>| {
            let name = choose(&record.key, &record.value);
            let (key, value) = encode(cx.scratch, topic.key(), topic.value(), &record)?;
            cx.out
                .send_to(&name, key, value, record.timestamp, &record.headers)
        })
    });
}

type Encoded<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

fn encode<'a, K, V>(
    scratch: &'a mut Scratch,
    key: Serde<K>,
    value: Serde<V>,
    record: &Record<K, V>,
) -> Result<Encoded<'a>> {
    scratch.key.clear();
    scratch.value.clear();
    let refuse =
        |source| Error::caused(ErrorKind::User, "a record does not encode", source).on_output();
    let has_key = key.encode(&record.key, &mut scratch.key).map_err(refuse)?;
    let has_value = value
        .encode(&record.value, &mut scratch.value)
        .map_err(refuse)?;
    Ok((
        has_key.then_some(&scratch.key[..]),
        has_value.then_some(&scratch.value[..]),
    ))
}
