//! `Plan`: the untyped shape of a topology: names, kinds, edges, stores and topics.
//!
//! The builder writes it, everything that looks at a topology reads it. It holds no types and no
//! closures.

use std::{fmt, sync::Arc};

use regex::Regex;

use crate::{Error, ErrorKind, Result};

/// Index of a node in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// Index of a store in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(pub usize);

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is the operator of that name")]
pub enum NodeKind {
    Source,
    Sink,
    Filter,
    DropNulls,
    Map,
    MapValues,
    FlatMap,
    Rekey,
    Peek,
    ForEach,
    Print,
    Split,
    Branch,
    Merge,
    Process,
    Table,
    ToStream,
    Aggregate,
    WindowAggregate,
    SlidingAggregate,
    SessionAggregate,
    Cogroup,
    Suppress,
    StreamJoin,
    StreamTableJoin,
    StreamGlobalJoin,
    TableFilter,
    TableMapValues,
    TableTransformValues,
    TableFlatten,
    Materialize,
    TableGroupBy,
    TableAggregate,
    TableJoin,
    ForeignKey,
    ForeignSubscribe,
    ForeignTable,
    ForeignJoin,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Filter => "filter",
            Self::DropNulls => "drop-nulls",
            Self::Map => "map",
            Self::MapValues => "map-values",
            Self::FlatMap => "flat-map",
            Self::Rekey => "rekey",
            Self::Peek => "peek",
            Self::ForEach => "for-each",
            Self::Print => "print",
            Self::Split => "split",
            Self::Branch => "branch",
            Self::Merge => "merge",
            Self::Process => "process",
            Self::Table => "table",
            Self::ToStream => "to-stream",
            Self::Aggregate => "aggregate",
            Self::WindowAggregate => "window-aggregate",
            Self::SlidingAggregate => "sliding-aggregate",
            Self::SessionAggregate => "session-aggregate",
            Self::Cogroup => "cogroup",
            Self::Suppress => "suppress",
            Self::StreamJoin => "stream-join",
            Self::StreamTableJoin => "stream-table-join",
            Self::StreamGlobalJoin => "stream-global-join",
            Self::TableFilter => "table-filter",
            Self::TableMapValues => "table-map-values",
            Self::TableTransformValues => "table-transform-values",
            Self::TableFlatten => "table-flatten",
            Self::Materialize => "materialize",
            Self::TableGroupBy => "table-group-by",
            Self::TableAggregate => "table-aggregate",
            Self::TableJoin => "table-join",
            Self::ForeignKey => "foreign-key",
            Self::ForeignSubscribe => "foreign-subscribe",
            Self::ForeignTable => "foreign-table",
            Self::ForeignJoin => "foreign-join",
        })
    }
}

/// Who makes a topic, and so how its name is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicRole {
    /// Made by others; the name stands as it is.
    External,
    /// Made by the application: `<application>-<name>-repartition`.
    Repartition {
        /// A fixed number of partitions, where the user gave one.
        partitions: Option<u32>,
    },
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its index.
    pub id: NodeId,
    /// Its name, unique in the plan.
    pub name: Arc<str>,
    /// What it does.
    pub kind: NodeKind,
    /// The nodes that push records into it.
    pub inputs: Vec<NodeId>,
    /// The stores that it reads or writes.
    pub stores: Vec<StoreId>,
    /// The topics that a source reads or a sink writes, by name without application prefix.
    pub topics: Vec<Arc<str>>,
    /// The regular expression over whole topic names by which a source finds its topics; `topics`
    /// are those found so far.
    pub pattern: Option<Arc<str>>,
    /// Who makes those topics.
    pub role: TopicRole,
    /// How long after its end a window of this node closes, in milliseconds; `None` when the node
    /// makes no windows.
    pub closes_after_ms: Option<i64>,
}

/// How the entries of a store are laid out and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The newest value of each key.
    KeyValue,
    /// Values by key and window start.
    Window {
        /// How long after its start a window is kept.
        retention_ms: i64,
        /// True when a key may hold several values at one time, as the buffers of joins do.
        duplicates: bool,
    },
    /// Values by key, end and start of a session.
    Session {
        /// How long after its end a session is kept.
        retention_ms: i64,
    },
    /// Entries of an operator that keeps a time with them, by keys that the operator makes and that
    /// never begin with a zero byte.
    Buffer,
}

/// One store.
#[derive(Clone, Debug)]
pub struct StoreSpec {
    /// Its name, unique in the plan.
    pub name: Arc<str>,
    /// Its layout.
    pub kind: StoreKind,
    /// True when a changelog topic backs it.
    pub logged: bool,
}

/// The shape of a topology.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    nodes: Vec<Node>,
    stores: Vec<StoreSpec>,
    /// Nodes in which equal keys of several inputs meet, with those inputs.
    copartitioned: Vec<(NodeId, Vec<NodeId>)>,
    /// Inputs of nodes that have a use for records without a key.
    null_keys: Vec<(NodeId, NodeId)>,
    globals: Vec<GlobalSpec>,
}

/// A table that every instance has whole: it stands beside the sub-topologies, not in one.
#[derive(Clone, Debug)]
pub struct GlobalSpec {
    /// The topic that it is read from, all partitions of it. It is the store's changelog too.
    pub topic: Arc<str>,
    /// Its store.
    pub store: StoreSpec,
}

impl Plan {
    /// Adds a node behind `inputs`; its name is its kind and its index until
    /// [`rename`](Self::rename).
    pub fn add_node(&mut self, kind: NodeKind, inputs: &[NodeId]) -> NodeId {
        let id = NodeId(self.nodes.len());
        assert!(
            inputs.iter().all(|input| input.0 < id.0),
            "inputs are older than their consumers"
        );
        self.nodes.push(Node {
            id,
            name: format!("{kind}-{}", id.0).into(),
            kind,
            inputs: inputs.to_vec(),
            stores: Vec::new(),
            topics: Vec::new(),
            pattern: None,
            role: TopicRole::External,
            closes_after_ms: None,
        });
        id
    }

    /// Adds a source of those topics.
    pub fn add_source(&mut self, topics: &[&str], role: TopicRole) -> NodeId {
        self.add_topic_node(NodeKind::Source, &[], topics, role)
    }

    /// Adds a source of all topics whose whole names match a regular expression.
    pub fn add_pattern_source(&mut self, pattern: &str) -> NodeId {
        let id = self.add_node(NodeKind::Source, &[]);
        self.nodes[id.0].pattern = Some(pattern.into());
        id
    }

    /// Lets the sources by pattern read a topic that has been found; `false` when none of them
    /// matches, or another source reads the topic already.
    pub fn find_topic(&mut self, topic: &str) -> bool {
        let Some(source) = self.finder_of(topic) else {
            return false;
        };
        self.nodes[source.0].topics.push(topic.into());
        true
    }

    /// The first source whose pattern matches a topic that no source reads yet.
    pub fn finder_of(&self, topic: &str) -> Option<NodeId> {
        let sources = || self.nodes.iter().filter(|n| n.kind == NodeKind::Source);
        let takes = |n: &&Node| n.pattern.as_ref().is_some_and(|p| matches(p, topic));
        let finder = sources().find(takes)?;
        let known = sources()
            .flat_map(|n| &n.topics)
            .any(|known| &**known == topic);
        (!known).then_some(finder.id)
    }

    /// Adds a sink to that topic behind `input`.
    pub fn add_sink(&mut self, input: NodeId, topic: &str, role: TopicRole) -> NodeId {
        self.add_topic_node(NodeKind::Sink, &[input], &[topic], role)
    }

    fn add_topic_node(
        &mut self,
        kind: NodeKind,
        inputs: &[NodeId],
        topics: &[&str],
        role: TopicRole,
    ) -> NodeId {
        let id = self.add_node(kind, inputs);
        self.nodes[id.0].topics = topics.iter().map(|t| Arc::from(*t)).collect();
        self.nodes[id.0].role = role;
        id
    }

    /// Gives a node a name of the user's.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when another node has that name.
    pub fn rename(&mut self, id: NodeId, name: &str) -> Result<()> {
        if self.nodes.iter().any(|n| n.id != id && &*n.name == name) {
            return Err(Error::new(
                ErrorKind::Topology,
                format!("two nodes have one name; give one of them another. name=`{name}`"),
            )
            .in_node(&self.nodes[id.0].name));
        }
        self.nodes[id.0].name = name.into();
        Ok(())
    }

    /// Adds a store.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when the plan has a store of that name.
    pub fn add_store(&mut self, spec: StoreSpec) -> Result<StoreId> {
        check_name("store", &spec.name)?;
        self.check_store_is_new(&spec)?;
        self.stores.push(spec);
        Ok(StoreId(self.stores.len() - 1))
    }

    /// Adds a global table.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when the plan has a store of that name.
    pub fn add_global(&mut self, topic: &str, store: StoreSpec) -> Result<()> {
        check_name("store", &store.name)
            .and_then(|()| self.check_store_is_new(&store))
            .map_err(|error| error.in_node(&store.name))?;
        let topic = topic.into();
        self.globals.push(GlobalSpec { topic, store });
        Ok(())
    }

    /// The global tables, in the order in which they were added.
    pub fn globals(&self) -> &[GlobalSpec] {
        &self.globals
    }

    fn check_store_is_new(&self, spec: &StoreSpec) -> Result<()> {
        let first = match self.store(&spec.name) {
            Some(id) => {
                let first = self.nodes.iter().find(|node| node.stores.contains(&id));
                first.map_or("", |node| &*node.name)
            }
            None if self.globals.iter().any(|g| g.store.name == spec.name) => "a global table",
            None => return Ok(()),
        };
        Err(Error::new(
            ErrorKind::Topology,
            format!(
                "two operators use one store; name a store each. store=`{}`, first=`{first}`",
                spec.name
            ),
        ))
    }

    /// Says that a node reads or writes a store.
    pub fn connect(&mut self, node: NodeId, store: StoreId) {
        let stores = &mut self.nodes[node.0].stores;
        if !stores.contains(&store) {
            stores.push(store);
        }
    }

    /// Says that records with one key must reach `node` from all of these inputs in one task.
    pub fn copartition(&mut self, node: NodeId, inputs: &[NodeId]) {
        self.copartitioned.push((node, inputs.to_vec()));
    }

    /// Says that a node makes windows, and how long after its end one closes.
    pub fn closes_after(&mut self, node: NodeId, ms: i64) {
        self.nodes[node.0].closes_after_ms = Some(ms);
    }

    /// How long after its end a window at `node` closes, in milliseconds: the longest time that the
    /// nodes which make the windows give. `None` when records come to it from a topic without
    /// windows in between.
    pub fn window_closes_after_ms(&self, node: NodeId) -> Option<i64> {
        let node = &self.nodes[node.0];
        if node.closes_after_ms.is_some() {
            return node.closes_after_ms;
        }
        let above = node
            .inputs
            .iter()
            .map(|input| self.window_closes_after_ms(*input));
        above.collect::<Option<Vec<i64>>>()?.into_iter().max()
    }

    /// Says that `node` has a use for records without a key that come from `input`, as a left join
    /// has for those of its left side.
    pub fn take_null_keys(&mut self, input: NodeId, node: NodeId) {
        self.null_keys.push((input, node));
    }

    /// True when some node behind the topic of that name, however far, has a use for records
    /// without a key. Where none has, they are not worth sending.
    pub fn wants_null_keys(&self, repartition_topic: &str) -> bool {
        let reads = |node: &Node, topic: &str| {
            let own = matches!(node.role, TopicRole::Repartition { .. });
            node.kind == NodeKind::Source && own && node.topics.iter().any(|t| &**t == topic)
        };
        let readers = |topic: &str| -> Vec<NodeId> {
            self.nodes
                .iter()
                .filter(|n| reads(n, topic))
                .map(|n| n.id)
                .collect()
        };
        let mut open = readers(repartition_topic);
        let mut seen = vec![false; self.nodes.len()];
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.0], true) {
                continue;
            }
            if self.null_keys.iter().any(|(input, _)| *input == id) {
                return true;
            }
            let behind = self.nodes.iter().filter(|n| n.inputs.contains(&id));
            open.extend(behind.map(|n| n.id));
            let node = &self.nodes[id.0];
            if node.kind == NodeKind::Sink && node.role != TopicRole::External {
                open.extend(node.topics.iter().flat_map(|topic| readers(topic)));
            }
        }
        false
    }

    /// The nodes, in the order in which they were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The stores, in the order in which they were added.
    pub fn stores(&self) -> &[StoreSpec] {
        &self.stores
    }

    /// The store of that name.
    pub fn store(&self, name: &str) -> Option<StoreId> {
        self.stores
            .iter()
            .position(|s| &*s.name == name)
            .map(StoreId)
    }

    pub(crate) fn copartition_groups(&self) -> &[(NodeId, Vec<NodeId>)] {
        &self.copartitioned
    }

    /// The topics, by name, that the records of `node` came from.
    pub(crate) fn topics_above(&self, node: NodeId) -> Vec<(Arc<str>, TopicRole)> {
        let mut found = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut open = vec![node];
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.0], true) {
                continue;
            }
            let node = &self.nodes[id.0];
            if node.kind == NodeKind::Source {
                found.extend(node.topics.iter().map(|t| (t.clone(), node.role)));
            }
            open.extend(&node.inputs);
        }
        found
    }

    /// Checks what only the whole plan can tell.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when no node reads a topic, two sources read one topic, or a topic
    /// has a name that Kafka does not take. A global table is called by its store.
    pub fn check(&self) -> Result<()> {
        let sources = || self.nodes.iter().filter(|n| n.kind == NodeKind::Source);
        if sources().next().is_none() {
            return Err(Error::new(
                ErrorKind::Topology,
                "a topology reads at least one topic; start with `stream` or `table`",
            ));
        }
        let mut read: Vec<(&str, &str, &str)> = Vec::new();
        for GlobalSpec { topic, store } in &self.globals {
            check_name("topic", topic).map_err(|error| error.in_node(&store.name))?;
            refuse_twice(&read, topic, COPY_FOR_GLOBAL).map_err(|e| e.in_node(&store.name))?;
            read.push((topic, &store.name, COPY_FOR_GLOBAL));
        }
        for node in &self.nodes {
            self.check_topics(node, &mut read)
                .map_err(|error| error.in_node(&node.name))?;
        }
        Ok(())
    }

    fn check_topics<'a>(
        &self,
        node: &'a Node,
        read: &mut Vec<(&'a str, &'a str, &'a str)>,
    ) -> Result<()> {
        for topic in &node.topics {
            check_name("topic", topic)?;
        }
        if node.kind != NodeKind::Source {
            return Ok(());
        }
        if node.topics.is_empty() && node.pattern.is_none() {
            let what = "a stream of several topics has at least one; give `stream` a topic";
            return Err(Error::new(ErrorKind::Topology, what));
        }
        if let Some(pattern) = &node.pattern {
            whole(pattern).map_err(|source| {
                let what = format!(
                    "a pattern of topics is no regular expression; write it as the `regex` crate \
                     reads it. pattern=`{pattern}`"
                );
                Error::caused(ErrorKind::Topology, what, source)
            })?;
        }
        for topic in &node.topics {
            refuse_twice(read, topic, READ_ONCE)?;
            read.push((topic, &node.name, READ_ONCE));
        }
        Ok(())
    }
}

/// What to do where two streams or tables read one topic.
const READ_ONCE: &str = "read it once: `clone` the stream or the table, make the table of the \
                         stream by `to_table`, or the stream of the table by `to_stream`";
/// What to do where one of them is a global table, which nothing can be made of.
const COPY_FOR_GLOBAL: &str = "let the global table read a copy of the topic, which another \
                               application writes";

/// Refuses a topic that has been read already, by a source of that name and with that advice.
fn refuse_twice(read: &[(&str, &str, &str)], topic: &str, advice: &str) -> Result<()> {
    let Some((_, first, other)) = read.iter().find(|(known, ..)| *known == topic) else {
        return Ok(());
    };
    let advice = if *other == COPY_FOR_GLOBAL {
        other
    } else {
        advice
    };
    Err(Error::new(
        ErrorKind::Topology,
        format!("two sources read one topic; {advice}. topic=`{topic}`, first=`{first}`"),
    ))
}

/// The regular expression, over whole names.
fn whole(pattern: &str) -> std::result::Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// True when the whole name matches; what is no regular expression matches nothing.
fn matches(pattern: &str, topic: &str) -> bool {
    whole(pattern).is_ok_and(|regex| regex.is_match(topic))
}

/// Kafka's limit, less room for the application's prefix and a suffix.
const NAME_LENGTH_MAX: usize = 200;

/// Names become parts of topic names, so Kafka's rules hold for them.
fn check_name(what: &str, name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.chars().all(legal) {
        return Err(Error::new(
            ErrorKind::Topology,
            format!(
                "a {what} has a name of 1 to {NAME_LENGTH_MAX} letters, digits, dots, underscores \
                 and dashes; give it such a name. {what}=`{name}`"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> StoreSpec {
        StoreSpec {
            name: name.into(),
            kind: StoreKind::KeyValue,
            logged: true,
        }
    }

    #[track_caller]
    fn refused(result: Result<impl Sized>, say: &str) {
        let error = result.err().expect("must be refused");
        assert_eq!(error.kind(), ErrorKind::Topology);
        assert!(error.to_string().contains(say), "{error}");
    }

    #[test]
    fn a_name_is_used_once() {
        let mut plan = Plan::default();
        plan.add_store(store("s")).expect("first");
        refused(plan.add_store(store("s")), "store=`s`");
        let a = plan.add_source(&["t"], TopicRole::External);
        plan.rename(a, "orders").expect("free");
        let b = plan.add_source(&["t"], TopicRole::External);
        refused(plan.rename(b, "orders"), "name=`orders`");
        refused(plan.check(), "topic=`t`");
    }

    #[test]
    fn a_pattern_covers_whole_names_and_leaves_topics_of_others_alone() {
        let mut plan = Plan::default();
        plan.add_source(&["in-b"], TopicRole::External);
        let all = plan.add_pattern_source("in-[a-z]|out");
        for topic in ["in-b", "in-ab", "xin-a", "in-"] {
            assert!(!plan.find_topic(topic), "{topic}");
        }
        assert!(plan.find_topic("in-a"));
        assert!(!plan.find_topic("in-a"), "found already");
        assert_eq!(plan.nodes()[all.0].topics, ["in-a".into()]);
        plan.add_pattern_source("(");
        refused(plan.check(), "regular expression");
    }

    #[test]
    fn a_window_closes_when_the_last_of_its_makers_says_so() {
        let mut plan = Plan::default();
        let source = plan.add_source(&["t"], TopicRole::External);
        let makers = [3, 5].map(|ms| {
            let maker = plan.add_node(NodeKind::WindowAggregate, &[source]);
            plan.closes_after(maker, ms);
            plan.add_node(NodeKind::Filter, &[maker])
        });
        let both = plan.add_node(NodeKind::Merge, &makers);
        let mixed = plan.add_node(NodeKind::Merge, &[both, source]);
        assert_eq!(plan.window_closes_after_ms(both), Some(5));
        assert_eq!(plan.window_closes_after_ms(makers[0]), Some(3));
        assert_eq!(plan.window_closes_after_ms(mixed), None);
    }

    #[test]
    fn null_keys_are_wanted_where_a_node_behind_takes_them() {
        let free = TopicRole::Repartition { partitions: None };
        let mut plan = Plan::default();
        let orders = plan.add_source(&["orders"], TopicRole::External);
        for (through, next) in [("one", "two"), ("three", "four")] {
            plan.add_sink(orders, through, free);
            let first = plan.add_source(&[through], free);
            plan.add_sink(first, next, free);
        }
        let second = plan.add_source(&["two"], free);
        let join = plan.add_node(NodeKind::StreamTableJoin, &[second]);
        plan.take_null_keys(second, join);
        assert!(plan.wants_null_keys("one"), "through another topic");
        assert!(plan.wants_null_keys("two"));
        assert!(!plan.wants_null_keys("three"));
    }

    #[test]
    fn names_are_legal_in_kafka() {
        refused(Plan::default().add_store(store("no spaces")), "no spaces");
        refused(Plan::default().add_store(store("")), "1 to 200");
        refused(Plan::default().check(), "at least one topic");
    }
}
