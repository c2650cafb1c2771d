//! The topics that an application makes for itself: repartition topics and changelogs.

use std::{collections::BTreeMap, sync::Arc};

use millstream_broker::{Admin, Cleanup, NewTopic};
use millstream_operators::Topology;
use millstream_topology::{
    CHANGELOG_SUFFIX, Error, ErrorKind, Node, NodeKind, REPARTITION_SUFFIX, Result, StoreKind,
    TopicRole,
};

/// How much longer than its store a windowed changelog keeps records, as in Kafka Streams
/// (`windowstore.changelog.additional.retention.ms`): clocks of brokers and records differ.
const ADDITIONAL_RETENTION_MS: i64 = 24 * 3600 * 1000;

/// The full name of a topic: the application's own have its id before and what they are for behind.
pub fn full_name(application_id: &str, topic: &str, role: TopicRole) -> Arc<str> {
    match role {
        TopicRole::External => topic.into(),
        TopicRole::Repartition { .. } => {
            format!("{application_id}-{topic}{REPARTITION_SUFFIX}").into()
        }
    }
}

/// Behind the application's name: the topic in which its instances tell of themselves.
pub(crate) const MEMBERS: &str = "members";
/// Behind the application's name: the topic that keeps its manifest.
pub(crate) const MANIFEST: &str = "topology";

pub(crate) fn changelog_name(application_id: &str, store: &str) -> Arc<str> {
    format!("{application_id}-{store}{CHANGELOG_SUFFIX}").into()
}

/// How many partitions each topic has, by full name, and how many tasks each sub-topology.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) partitions: BTreeMap<Arc<str>, u32>,
    pub(crate) tasks: Vec<u32>,
}

/// The topology with the topics that its patterns match now. Those that an application makes for
/// itself are left alone.
///
/// # Errors
/// When no topic matches a pattern, or the log does not answer.
pub(crate) fn find_topics(
    admin: &dyn Admin,
    topology: &Topology,
    application_id: &str,
) -> Result<Topology> {
    let mut found = topology.clone();
    if topology
        .plan()
        .nodes()
        .iter()
        .all(|node| node.pattern.is_none())
    {
        return Ok(found);
    }
    let own = |name: &str| {
        let rest = name
            .strip_prefix(application_id)
            .and_then(|rest| rest.strip_prefix('-'));
        let is_own = |rest: &str| {
            let whole = [MEMBERS, MANIFEST].contains(&rest);
            whole || rest.ends_with(REPARTITION_SUFFIX) || rest.ends_with(CHANGELOG_SUFFIX)
        };
        rest.is_some_and(is_own)
    };
    for topic in admin.topics()? {
        if !own(&topic.name) {
            found = found.find_topic(&topic.name).unwrap_or(found);
        }
    }
    let waits = |node: &&Node| node.pattern.is_some() && node.topics.is_empty();
    match found.plan().nodes().iter().find(waits) {
        None => Ok(found),
        Some(node) => {
            let pattern = node.pattern.as_deref().unwrap_or_default();
            let what = format!(
                "no topic matches a pattern that is read; create one first. pattern=`{pattern}`"
            );
            Err(Error::new(ErrorKind::Topology, what).in_node(&node.name))
        }
    }
}

/// The topics that an application has to make for itself, and how all topics are divided then.
pub(crate) struct Plans {
    pub(crate) layout: Layout,
    wanted: Vec<NewTopic>,
    /// What is there already, and with how many partitions.
    existing: BTreeMap<Arc<str>, u32>,
}

impl Plans {
    /// That a topic is there now.
    pub(crate) fn exists(&self, topic: &str) -> bool {
        self.existing.contains_key(topic)
    }

    /// Checks that what is there has as many partitions as it must.
    ///
    /// # Errors
    /// When a topic has another number.
    pub(crate) fn check(&self) -> Result<()> {
        for topic in &self.wanted {
            let has = self.existing.get(&topic.name).copied();
            if has.is_some_and(|has| has != topic.partitions) {
                return Err(millstream_broker::Error::PartitionCount {
                    topic: topic.name.to_string(),
                    has: has.unwrap_or_default(),
                    wanted: topic.partitions,
                }
                .into());
            }
        }
        Ok(())
    }

    /// Creates what is missing.
    ///
    /// # Errors
    /// When the log refuses.
    pub(crate) fn carry_out(self, admin: &dyn Admin) -> Result<Layout> {
        admin.create_topics(&self.wanted)?;
        Ok(self.layout)
    }
}

/// Looks what is there and plans what is missing; nothing is created yet.
///
/// # Errors
/// When a topic that is read or written does not exist, counts do not fit, or the log does not
/// answer.
pub(crate) fn plan(admin: &dyn Admin, topology: &Topology, application_id: &str) -> Result<Plans> {
    let existing: BTreeMap<Arc<str>, u32> = admin
        .topics()?
        .into_iter()
        .map(|t| (t.name, t.partitions))
        .collect();
    let repartition = topology
        .plan()
        .repartition_counts(|t| existing.get(t).copied())?;

    let mut partitions = existing.clone();
    let mut wanted = Vec::new();
    for (topic, count) in &repartition {
        let role = TopicRole::Repartition { partitions: None };
        let name = full_name(application_id, topic, role);
        let cleanup = Cleanup::Delete { retention_ms: None };
        wanted.push(NewTopic {
            name,
            partitions: *count,
            cleanup,
        });
    }
    let mut tasks = Vec::new();
    for sub in topology.subtopologies() {
        let count = sub
            .sources
            .iter()
            .filter_map(|(topic, role)| match role {
                TopicRole::External => partitions.get(topic),
                TopicRole::Repartition { .. } => repartition.get(topic),
            })
            .max();
        let count = *count.expect("a sub-topology has a source");
        tasks.push(count);
        for store in &sub.stores {
            let spec = &topology.plan().stores()[store.0];
            if spec.logged {
                wanted.push(NewTopic {
                    name: changelog_name(application_id, &spec.name),
                    partitions: count,
                    cleanup: changelog_cleanup(spec.kind),
                });
            }
        }
    }
    partitions.extend(wanted.iter().map(|t| (t.name.clone(), t.partitions)));
    for (topic, role) in topology.sink_topics() {
        let name = full_name(application_id, topic, *role);
        if !partitions.contains_key(&name) {
            let what =
                format!("a topic that is written does not exist; create it first. topic=`{name}`");
            let error = Error::new(ErrorKind::Topology, what);
            let writes = |node: &&Node| node.kind == NodeKind::Sink && node.topics.contains(topic);
            return Err(match topology.plan().nodes().iter().find(writes) {
                Some(node) => error.in_node(&node.name),
                None => error,
            });
        }
    }
    Ok(Plans {
        layout: Layout { partitions, tasks },
        wanted,
        existing,
    })
}

fn changelog_cleanup(kind: StoreKind) -> Cleanup {
    match kind {
        StoreKind::KeyValue | StoreKind::Buffer => Cleanup::Compact,
        // Unlimited windows are kept for ever.
        StoreKind::Window {
            retention_ms: i64::MAX,
            ..
        } => Cleanup::Compact,
        StoreKind::Window { retention_ms, .. } | StoreKind::Session { retention_ms } => {
            Cleanup::CompactAndDelete {
                retention_ms: retention_ms.saturating_add(ADDITIONAL_RETENTION_MS),
            }
        }
    }
}
