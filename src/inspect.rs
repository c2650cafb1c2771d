//! `millstream topics`, `stores`, `groups`: what is on the log.

use std::collections::BTreeMap;

use millstream_broker::{Admin, TopicInfo, TopicPartition, Watermarks};
use millstream_config::{Flags, Settings};
use millstream_processors::topology::{ShopPolicy, shop};
use millstream_topology::{CHANGELOG_SUFFIX, StoreKind};

use crate::{failure::Outcome, logging, open::Opened, table::Table};

/// Lists the topics with their sizes.
pub(crate) fn topics(flags: &Flags) -> Outcome {
    let settings = read(flags)?;
    let opened = Opened::log(&settings)?;
    let admin = opened.log.admin()?;
    let mut table = Table::new(["TOPIC", "PARTITIONS", "RECORDS", "FIRST", "END"]);
    for topic in admin.topics()? {
        let ends = ends(&*admin, &topic)?;
        let low: i64 = ends.iter().map(|(_, w)| w.low).sum();
        let high: i64 = ends.iter().map(|(_, w)| w.high).sum();
        table.row([
            topic.name.to_string(),
            topic.partitions.to_string(),
            (high - low).to_string(),
            low.to_string(),
            high.to_string(),
        ]);
    }
    table.print();
    Ok(())
}

/// Lists the stores with the sizes of their changelogs.
pub(crate) fn stores(flags: &Flags) -> Outcome {
    let settings = read(flags)?;
    let opened = Opened::log(&settings)?;
    let admin = opened.log.admin()?;
    let topics: BTreeMap<_, _> = admin
        .topics()?
        .into_iter()
        .map(|t| (t.name.clone(), t))
        .collect();
    let topology = shop(&ShopPolicy::default())?;
    let application = &settings.streams.application_id;
    let mut table = Table::new([
        "STORE",
        "KIND",
        "SUB-TOPOLOGY",
        "PARTITIONS",
        "CHANGELOG RECORDS",
    ]);
    for sub in topology.subtopologies() {
        for id in &sub.stores {
            let spec = &topology.plan().stores()[id.0];
            let kind = match spec.kind {
                StoreKind::KeyValue => "key-value",
                StoreKind::Window { .. } => "window",
                StoreKind::Session { .. } => "session",
                StoreKind::Buffer => "buffer",
            };
            let changelog = format!("{application}-{}{CHANGELOG_SUFFIX}", spec.name);
            let (partitions, records) = match topics.get(&*changelog) {
                Some(topic) => {
                    let records: i64 = ends(&*admin, topic)?
                        .iter()
                        .map(|(_, w)| w.high - w.low)
                        .sum();
                    (topic.partitions.to_string(), records.to_string())
                }
                None => ("-".to_owned(), "-".to_owned()),
            };
            table.row([
                spec.name.to_string(),
                kind.to_owned(),
                sub.id.to_string(),
                partitions,
                records,
            ]);
        }
    }
    table.print();
    Ok(())
}

/// Lists the consumer groups with their members, and how far they are behind.
pub(crate) fn groups(flags: &Flags) -> Outcome {
    let settings = read(flags)?;
    let opened = Opened::log(&settings)?;
    let admin = opened.log.admin()?;
    let application = &settings.streams.application_id;
    let mut groups: BTreeMap<String, Vec<String>> = admin.groups()?.into_iter().collect();
    // An embedded log knows of members while they are there; offsets outlive them.
    for group in ["", "-gateway", "-sink"] {
        groups.entry(format!("{application}{group}")).or_default();
    }
    let mut partitions = Vec::new();
    for topic in admin.topics()? {
        partitions.extend(ends(&*admin, &topic)?);
    }
    let names: Vec<_> = partitions
        .iter()
        .map(|(partition, _)| partition.clone())
        .collect();
    let mut table = Table::new(["GROUP", "MEMBERS", "TOPIC", "COMMITTED", "END", "LAG"]);
    for (group, members) in groups {
        let committed = admin.committed(&group, &names)?;
        let mut by_topic: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for ((partition, ends), committed) in partitions.iter().zip(committed) {
            let Some(committed) = committed else { continue };
            let sums = by_topic.entry(&partition.topic).or_default();
            sums.0 += committed;
            sums.1 += ends.high;
        }
        for (topic, (committed, end)) in by_topic {
            table.row([
                group.clone(),
                members.len().to_string(),
                topic.to_owned(),
                committed.to_string(),
                end.to_string(),
                (end - committed).max(0).to_string(),
            ]);
        }
    }
    table.print();
    Ok(())
}

/// The settings of a tool, which says nothing of its own inside.
pub(crate) fn read(flags: &Flags) -> Outcome<Settings> {
    let mut settings = Settings::load(&Settings::default(), flags)?;
    // An answer is wanted, not the story of opening the log.
    if settings.log == Settings::default().log {
        settings.log.filter = "warn".to_owned();
    }
    logging::start(&settings.log)?;
    Ok(settings)
}

fn ends(admin: &dyn Admin, topic: &TopicInfo) -> Outcome<Vec<(TopicPartition, Watermarks)>> {
    let partitions =
        (0..topic.partitions.cast_signed()).map(|p| TopicPartition::new(topic.name.clone(), p));
    partitions
        .map(|partition| {
            let ends = admin.watermarks(&partition)?;
            Ok((partition, ends))
        })
        .collect()
}
