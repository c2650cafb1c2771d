//! `stream`: decode the records of a topic and push them on.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use millstream_topology::{
    BoxError, Error, ErrorKind, Record, Result, Serde, Topic, TopicPattern, TopicRole,
};

use crate::{
    Cx, KStream, RawRecord, RawSource,
    builder::SharedDraft,
    edge::{Edge, Port},
};

/// Gets key, value, the log's timestamp and the partition's time so far; returns the event time.
pub(crate) type Extract<K, V> = Arc<dyn Fn(&K, &V, i64, i64) -> i64 + Send + Sync>;

/// The topics of one stream.
pub enum Origin<K: 'static, V: 'static> {
    /// By name.
    Topics(Vec<Topic<K, V>>),
    /// By pattern.
    Pattern(TopicPattern<K, V>),
}

impl<K, V> Origin<K, V> {
    /// Names in a fixed order, or the pattern: what tells one origin from another.
    pub(crate) fn identity(&self) -> (Vec<&'static str>, Option<&'static str>) {
        match self {
            Self::Topics(topics) => {
                let mut names: Vec<_> = topics.iter().map(Topic::name).collect();
                names.sort_unstable();
                (names, None)
            }
            Self::Pattern(pattern) => (Vec::new(), Some(pattern.pattern())),
        }
    }

    /// How the records of each topic are read; those of a pattern are all read alike.
    fn serdes(&self) -> Vec<(Serde<K>, Serde<V>)> {
        match self {
            Self::Topics(topics) => topics.iter().map(|t| (t.key(), t.value())).collect(),
            Self::Pattern(pattern) => vec![(pattern.key(), pattern.value())],
        }
    }
}

/// The records of several topics are one stream; between topics there is no order but that of time.
pub(crate) fn source<K: Clone + 'static, V: Clone + 'static>(
    draft: &SharedDraft,
    origin: Origin<K, V>,
    role: TopicRole,
    extract: Option<Extract<K, V>>,
) -> KStream<K, V> {
    let id = match &origin {
        Origin::Topics(topics) => {
            let names: Vec<&str> = topics.iter().map(Topic::name).collect();
            draft.lock().plan.add_source(&names, role)
        }
        Origin::Pattern(pattern) => draft.lock().plan.add_pattern_source(pattern.pattern()),
    };
    let serdes = origin.serdes();
    let out = KStream::new(draft, id, false);
    let port: Port<K, V> = out.port.clone();
    draft.lock().sources.insert(
        id,
        Arc::new(move |build| {
            let next = port.connect(build);
            let entry = build.node(id, move |cx: &mut Cx<'_>, record| next.push(cx, record));
            let (serdes, extract) = (serdes.clone(), extract.clone());
            Rc::new(move |at: usize| {
                let (key, value) = serdes[at.min(serdes.len() - 1)];
                let (extract, entry) = (extract.clone(), entry.clone());
                Rc::new(RefCell::new(Source {
                    key,
                    value,
                    extract,
                    entry,
                    decoded: None,
                })) as _
            })
        }),
    );
    out
}

struct Source<K: 'static, V: 'static> {
    key: Serde<K>,
    value: Serde<V>,
    extract: Option<Extract<K, V>>,
    entry: Edge<K, V>,
    /// What `event_time` has decoded already, for the `push` that follows it.
    decoded: Option<(K, V)>,
}

impl<K, V> Source<K, V> {
    fn decode(&self, record: &RawRecord) -> Result<(K, V)> {
        let key = self.key.decode(record.key.as_deref()).map_err(bad("key"))?;
        let value = self
            .value
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
