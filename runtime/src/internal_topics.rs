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
        let ends =
            |rest: &str| rest.ends_with(REPARTITION_SUFFIX) || rest.ends_with(CHANGELOG_SUFFIX);
        rest.is_some_and(ends)
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

/// Creates what is missing and checks what is there.
///
/// # Errors
/// When a topic that is read or written does not exist, counts do not fit, or the log refuses.
pub(crate) fn prepare(
    admin: &dyn Admin,
    topology: &Topology,
    application_id: &str,
) -> Result<Layout> {
    let existing: BTreeMap<Arc<str>, u32> = admin
        .topics()?
        .into_iter()
        .map(|t| (t.name, t.partitions))
        .collect();
    let repartition = topology
        .plan()
        .repartition_counts(|t| existing.get(t).copied())?;

    let mut partitions = existing;
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
    admin.create_topics(&wanted)?;
    partitions.extend(wanted.into_iter().map(|t| (t.name, t.partitions)));
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
    Ok(Layout { partitions, tasks })
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
