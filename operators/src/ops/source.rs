//! `stream`: decode the records of a topic and push them on.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use millstream_topology::{BoxError, Error, ErrorKind, Record, Result, Topic, TopicRole};

use crate::{
    Cx, KStream, RawRecord, RawSource,
    builder::SharedDraft,
    edge::{Edge, Port},
};

/// Gets key, value, the log's timestamp and the partition's time so far; returns the event time.
pub(crate) type Extract<K, V> = Arc<dyn Fn(&K, &V, i64, i64) -> i64 + Send + Sync>;

pub(crate) fn source<K: Clone + 'static, V: Clone + 'static>(
    draft: &SharedDraft,
    topic: Topic<K, V>,
    role: TopicRole,
    extract: Option<Extract<K, V>>,
) -> KStream<K, V> {
    let id = draft.lock().plan.add_source(&[topic.name()], role);
    let out = KStream::new(draft, id, false);
    let port: Port<K, V> = out.port.clone();
    draft.lock().sources.insert(
        id,
        Arc::new(move |build| {
            let next = port.connect(build);
            let entry = build.node(id, move |cx: &mut Cx<'_>, record| next.push(cx, record));
            let extract = extract.clone();
            Rc::new(RefCell::new(Source {
                topic,
                extract,
                entry,
                decoded: None,
            }))
        }),
    );
    out
}

struct Source<K: 'static, V: 'static> {
    topic: Topic<K, V>,
    extract: Option<Extract<K, V>>,
    entry: Edge<K, V>,
    /// What `event_time` has decoded already, for the `push` that follows it.
    decoded: Option<(K, V)>,
}

impl<K, V> Source<K, V> {
    fn decode(&self, record: &RawRecord) -> Result<(K, V)> {
        let key = self
            .topic
            .key()
            .decode(record.key.as_deref())
            .map_err(bad("key"))?;
        let value = self
            .topic
            .value()
            .decode(record.value.as_deref())
            .map_err(bad("value"))?;
        Ok((key, value))
    }
}

pub(crate) fn bad(part: &'static str) -> impl Fn(BoxError) -> Error {
    move |source| {
        Error::caused(
            ErrorKind::Data,
            format!("{part} of a record does not decode"),
            source,
        )
    }
}

impl<K: Clone + 'static, V: Clone + 'static> RawSource for Source<K, V> {
    fn event_time(&mut self, record: &RawRecord, partition_time: i64) -> Result<i64> {
        let Some(extract) = &self.extract else {
            return Ok(record.timestamp);
        };
        let (key, value) = self.decode(record)?;
        let time = extract(&key, &value, record.timestamp, partition_time);
        self.decoded = Some((key, value));
        Ok(time)
    }

    fn push(&mut self, cx: &mut Cx<'_>, record: RawRecord, event_time: i64) -> Result<()> {
        let (key, value) = match self.decoded.take() {
            Some(decoded) => decoded,
            None => self.decode(&record)?,
        };
        let record = Record {
            key,
            value,
            timestamp: event_time,
            headers: record.headers,
        };
        self.entry.borrow_mut().push(cx, record)
    }
}
