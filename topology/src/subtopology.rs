//! Sub-topologies: the parts of a plan that only topics connect, and the tasks that run them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::{
    Error, ErrorKind, Result,
    plan::{Node, NodeId, NodeKind, Plan, StoreId, TopicRole},
};

/// One sub-topology on one partition: the unit that a thread runs and that moves between instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// Index of the sub-topology.
    pub subtopology: u32,
    /// The partition that it reads of each of its topics.
    pub partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

/// A connected part of a plan: its nodes hand records or share stores without a topic in between.
#[derive(Clone, Debug)]
pub struct SubTopology {
    /// Its index; sub-topologies are numbered by their oldest node.
    pub id: u32,
    /// Its nodes, oldest first.
    pub nodes: Vec<NodeId>,
    /// Its stores, oldest first.
    pub stores: Vec<StoreId>,
    /// The topics that it reads, by name without application prefix, with their roles.
    pub sources: Vec<(Arc<str>, TopicRole)>,
    /// The topics that it writes.
    pub sinks: Vec<(Arc<str>, TopicRole)>,
}

impl Plan {
    /// The sub-topologies, numbered by their oldest node.
    pub fn subtopologies(&self) -> Vec<SubTopology> {
        let mut groups = Groups::new(self.nodes().len());
        let mut first_user: BTreeMap<StoreId, NodeId> = BTreeMap::new();
        for node in self.nodes() {
            for input in &node.inputs {
                groups.union(input.0, node.id.0);
            }
            for store in &node.stores {
                let first = *first_user.entry(*store).or_insert(node.id);
                groups.union(first.0, node.id.0);
            }
        }
        let mut by_root: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for node in self.nodes() {
            // The root is the oldest node of its group, so the map's order is the numbering.
            by_root
                .entry(groups.root(node.id.0))
                .or_default()
                .push(node.id);
        }
        by_root
            .into_values()
            .enumerate()
            .map(|(id, nodes)| self.subtopology(id as u32, nodes))
            .collect()
    }

    fn subtopology(&self, id: u32, nodes: Vec<NodeId>) -> SubTopology {
        let members = || nodes.iter().map(|n| &self.nodes()[n.0]);
        let topics = |kind: NodeKind| {
            members()
                .filter(|n| n.kind == kind)
                .flat_map(|n| n.topics.iter().map(|t| (t.clone(), n.role)))
                .collect()
        };
        let stores: BTreeSet<StoreId> = members().flat_map(|n| n.stores.clone()).collect();
        SubTopology {
            id,
            sources: topics(NodeKind::Source),
            sinks: topics(NodeKind::Sink),
            stores: stores.into_iter().collect(),
            nodes,
        }
    }

    /// The number of partitions of each repartition topic, from those of the topics that exist.
    ///
    /// A repartition topic has the number that the user gave; else that of the topics with which a
    /// join needs it co-partitioned; else the greatest number among the topics that feed it.
    ///
    /// # Errors
    /// [`ErrorKind::Topology`] when a topic that is read does not exist, or topics that a join
    /// needs co-partitioned have different numbers.
    pub fn repartition_counts(
        &self,
        count_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<BTreeMap<Arc<str>, u32>> {
        let subtopologies = self.subtopologies();
        let mut counts: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        let mut free: Vec<Arc<str>> = Vec::new();
        for (topic, role) in subtopologies.iter().flat_map(|s| &s.sources) {
            match role {
                TopicRole::External => {
                    let count = count_of(topic).ok_or_else(|| self.missing(topic))?;
                    counts.insert(topic.clone(), count);
                }
                TopicRole::Repartition {
                    partitions: Some(count),
                } => {
                    counts.insert(topic.clone(), *count);
                }
                TopicRole::Repartition { partitions: None } => free.push(topic.clone()),
            }
        }
        let groups = self.copartitioned_topics();
        self.spread(&groups, &mut counts)?;
        // Each round settles at least one topic, so this ends; a cycle of free topics cannot be
        // built.
        while let Some(at) = free.iter().position(|topic| !counts.contains_key(topic)) {
            let known = free.iter().enumerate().find_map(|(i, topic)| {
                let count = upstream(&subtopologies, topic, &counts)?;
                (!counts.contains_key(topic)).then_some((i, count))
            });
            let (i, count) = known.unwrap_or((at, 1));
            counts.insert(free[i].clone(), count);
            self.spread(&groups, &mut counts)?;
        }
        counts.retain(|topic, _| {
            subtopologies
                .iter()
                .flat_map(|s| &s.sources)
                .any(|(name, role)| name == topic && matches!(role, TopicRole::Repartition { .. }))
        });
        Ok(counts)
    }

    fn copartitioned_topics(&self) -> Vec<Together> {
        let topics = |(node, inputs): &(NodeId, Vec<NodeId>)| Together {
            node: self.nodes()[node.0].name.clone(),
            topics: inputs
                .iter()
                .flat_map(|n| self.topics_above(*n))
                .map(|(t, _)| t)
                .collect(),
        };
        self.copartition_groups().iter().map(topics).collect()
    }

    fn missing(&self, topic: &str) -> Error {
        let what = format!("a topic that is read does not exist; create it first. topic=`{topic}`");
        let reads = |node: &&Node| {
            node.kind == NodeKind::Source && node.topics.iter().any(|t| &**t == topic)
        };
        let error = Error::new(ErrorKind::Topology, what);
        match self.nodes().iter().find(reads) {
            Some(node) => error.in_node(&node.name),
            None => error,
        }
    }

    /// Gives the free topics of each co-partitioned group the number that the others have.
    fn spread(&self, groups: &[Together], counts: &mut BTreeMap<Arc<str>, u32>) -> Result<()> {
        for Together { node, topics } in groups {
            let mut known: Option<(Arc<str>, u32)> = None;
            for topic in topics {
                let Some(count) = counts.get(topic).copied() else {
                    continue;
                };
                match &known {
                    None => known = Some((topic.clone(), count)),
                    Some((_, first)) if *first == count => {}
                    Some((first_topic, first)) => {
                        return Err(Error::new(
                            ErrorKind::Topology,
                            format!(
                                "topics that meet in one operator have different numbers of \
                                 partitions; `repartition` one side. `{first_topic}` has {first}, \
                                 `{topic}` has {count}"
                            ),
                        )
                        .in_node(node));
                    }
                }
            }
            if let Some((_, count)) = known {
                for topic in topics {
                    counts.entry(topic.clone()).or_insert(count);
                }
            }
        }
        Ok(())
    }
}

/// Topics whose records with equal keys meet in a node.
struct Together {
    node: Arc<str>,
    topics: Vec<Arc<str>>,
}

/// The greatest number of partitions among the topics that feed `topic`, once all are known.
fn upstream(
    subtopologies: &[SubTopology],
    topic: &Arc<str>,
    counts: &BTreeMap<Arc<str>, u32>,
) -> Option<u32> {
    let feeders = subtopologies
        .iter()
        .filter(|s| s.sinks.iter().any(|(t, _)| t == topic));
    feeders
        .flat_map(|s| &s.sources)
        .map(|(t, _)| counts.get(t).copied())
        .max_by_key(|c| {
            // An unknown count must win, so that the caller waits for it.
            c.unwrap_or(u32::MAX)
        })?
}

/// Union-find in which the root is the smallest member.
struct Groups(Vec<usize>);

impl Groups {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn union(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{StoreKind, StoreSpec};

    const FREE: TopicRole = TopicRole::Repartition { partitions: None };

    /// in (2) -> by-customer (free) -> joined with customers
    fn join_after_rekey() -> (Plan, NodeId, NodeId) {
        let mut plan = Plan::default();
        let orders = plan.add_source(&["orders"], TopicRole::External);
        plan.add_sink(orders, "by-customer", FREE);
        let by_customer = plan.add_source(&["by-customer"], FREE);
        let customers = plan.add_source(&["customers"], TopicRole::External);
        let join = plan.add_node(NodeKind::StreamTableJoin, &[by_customer, customers]);
        plan.copartition(join, &[by_customer, customers]);
        (plan, orders, join)
    }

    #[test]
    fn a_topic_in_between_separates_and_a_store_connects() {
        let (mut plan, orders, join) = join_after_rekey();
        assert_eq!(plan.subtopologies().len(), 2);
        let spec = StoreSpec {
            name: "s".into(),
            kind: StoreKind::KeyValue,
            logged: true,
        };
        let store = plan.add_store(spec).expect("fresh");
        plan.connect(orders, store);
        plan.connect(join, store);
        assert_eq!(plan.subtopologies().len(), 1);
    }

    #[track_caller]
    fn check(plan: &Plan, topics: &[(&str, u32)], expect: Result<u32, &str>) {
        let count_of = |t: &str| topics.iter().find(|(name, _)| *name == t).map(|(_, n)| *n);
        match (plan.repartition_counts(count_of), expect) {
            (Ok(counts), Ok(count)) => assert_eq!(counts["by-customer"], count),
            (Err(error), Err(say)) => assert!(error.to_string().contains(say), "{error}"),
            (got, expect) => panic!("got {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn a_free_repartition_topic_follows_the_join() {
        let (plan, ..) = join_after_rekey();
        check(&plan, &[("orders", 2), ("customers", 6)], Ok(6));
        let say = "topic=`customers`, node=`source-3`";
        check(&plan, &[("orders", 2)], Err(say));
    }

    #[test]
    fn a_free_repartition_topic_without_join_follows_its_feeders() {
        let mut plan = Plan::default();
        let a = plan.add_source(&["a", "b"], TopicRole::External);
        plan.add_sink(a, "by-customer", FREE);
        plan.add_source(&["by-customer"], FREE);
        check(&plan, &[("a", 3), ("b", 5)], Ok(5));
    }

    #[test]
    fn a_join_of_unequal_topics_is_refused() {
        let mut plan = Plan::default();
        let a = plan.add_source(&["a"], TopicRole::External);
        let b = plan.add_source(&["b"], TopicRole::External);
        let join = plan.add_node(NodeKind::StreamJoin, &[a, b]);
        plan.copartition(join, &[a, b]);
        let say = "`a` has 3, `b` has 5, node=`stream-join-2`";
        check(&plan, &[("a", 3), ("b", 5)], Err(say));
    }
}
