//! `Evolution`: how a topology differs from the one that an application ran before, and whether
//! what that one left behind still fits.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};

use millstream_topology::{Error, ErrorKind};

use crate::manifest::{Kept, Manifest, Part, Source, Store};

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Misfit {
    what: String,
    before: String,
    after: String,
    advice: Advice,
}

/// What to do about a misfit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Advice {
    Rename { from: Arc<str>, to: Arc<str> },
    AcceptRemoval,
    NewName,
    Repartition,
    Retired,
}

impl Advice {
    fn text(&self) -> String {
        match self {
            Self::Rename { from, to } => format!(
                "it looks as if `{from}` was renamed to `{to}`: keep the old name, or the state is \
                 lost"
            ),
            Self::AcceptRemoval => {
                "name in `accept_removed` what is really to go, with all that it holds".to_owned()
            }
            Self::NewName => "give a store that changes a new name".to_owned(),
            Self::Repartition => "keep the numbers of partitions, or `repartition` to a fixed \
                                  number in front of the stores, as keys would move away from \
                                  their state"
                .to_owned(),
            Self::Retired => "give a store that comes back a new name, or delete its changelog, \
                              which lacks what has happened since"
                .to_owned(),
        }
    }
}

/// How a topology differs from the one before.
#[derive(Debug, Default)]
pub(crate) struct Evolution {
    misfits: Vec<Misfit>,
    /// What is different and fits, for the log.
    pub(crate) notes: Vec<String>,
    /// What is different, fits, and is worth a warning.
    pub(crate) warnings: Vec<String>,
}

impl Evolution {
    /// Compares `after` with what ran before, gives its sub-topologies the places that they had,
    /// and takes over what must not be forgotten. `accepted` names what may have gone;
    /// `has_changelog` tells of a store that was removed whether its changelog is still there.
    pub(crate) fn between(
        before: &Manifest,
        after: &mut Manifest,
        accepted: &[String],
        has_changelog: &dyn Fn(&str) -> bool,
    ) -> Self {
        keep_places(before, after);
        let mut evolution = Self::default();
        evolution.compare_stores(before, after, accepted);
        evolution.compare_sources(before, after, accepted);
        evolution.keep_retired(before, after, has_changelog);
        evolution.compare_globals(before, after);
        evolution
    }

    /// The error that lists what does not fit; `None` when everything does.
    pub(crate) fn refusal(&self, application_id: &str) -> Option<Error> {
        if self.misfits.is_empty() {
            return None;
        }
        let mut text = format!(
            "the topology does not fit what the application left behind; nothing was started or \
             written. application=`{application_id}`"
        );
        for misfit in &self.misfits {
            let Misfit {
                what,
                before,
                after,
                ..
            } = misfit;
            let _ = write!(text, "\n  {what}: before {before}, now {after}");
        }
        let advice: BTreeSet<&Advice> = self.misfits.iter().map(|misfit| &misfit.advice).collect();
        let advice: Vec<String> = advice.iter().map(|advice| advice.text()).collect();
        let _ = write!(
            text,
            "\n  advice: {}; or `reset` the application",
            advice.join("; ")
        );
        Some(Error::new(ErrorKind::Topology, text))
    }

    fn misfit(&mut self, what: String, before: String, after: String, advice: Advice) {
        self.misfits.push(Misfit {
            what,
            before,
            after,
            advice,
        });
    }

    fn compare_stores(&mut self, before: &Manifest, after: &Manifest, accepted: &[String]) {
        for (part, old) in before.stores() {
            let what = format!("store `{}`", old.name);
            let Some((new_part, new)) = after.store(&old.name) else {
                if accepted.iter().any(|name| **name == *old.name) {
                    let kept = "it was removed, as was accepted; its changelog stays";
                    self.notes.push(format!("{what}: {kept}"));
                    continue;
                }
                let twin = |(_, new): &(&Part, &Store)| {
                    let like = (&new.layout, &new.kept) == (&old.layout, &old.kept);
                    like && before.store(&new.name).is_none()
                };
                let advice = match after.stores().find(twin) {
                    Some((_, new)) => Advice::Rename {
                        from: old.name.clone(),
                        to: new.name.clone(),
                    },
                    None => Advice::AcceptRemoval,
                };
                self.misfit(what, describe(old), "gone".to_owned(), advice);
                continue;
            };
            self.compare_store(what, (part, old), (new_part, new));
        }
        for (_, new) in after.stores() {
            if before.store(&new.name).is_none() {
                self.notes.push(format!(
                    "store `{}`: it is new, and has nothing of records that were read before",
                    new.name
                ));
            }
        }
    }

    fn compare_store(
        &mut self,
        what: String,
        (part, old): (&Part, &Store),
        (new_part, new): (&Part, &Store),
    ) {
        if old.layout != new.layout || old.kept != new.kept {
            let (before, now) = (describe(old), describe(new));
            self.misfit(what, before, now, Advice::NewName);
            return;
        }
        if part.partitions != new_part.partitions {
            let [before, now] = [part, new_part].map(|p| partitions(p.partitions));
            self.misfit(what, before, now, Advice::Repartition);
            return;
        }
        if part.place != new_part.place {
            // Its folder stays behind with the sub-topology that it was in.
            if old.kept == Kept::Nowhere {
                let before = format!("in sub-topology {}, on disk alone", part.number);
                let now = format!("in sub-topology {}", new_part.number);
                self.misfit(what, before, now, Advice::NewName);
                return;
            }
            self.notes.push(format!(
                "{what}: it moved to another sub-topology and is restored there"
            ));
        }
        if old.retention_ms != new.retention_ms {
            self.warnings.push(format!(
                "{what}: it kept {}, now {}; windows that are open are of both kinds",
                lasting(old.retention_ms),
                lasting(new.retention_ms)
            ));
        }
        if old.types != new.types {
            self.warnings.push(format!(
                "{what}: its types have other names; that is well if their bytes are the same. \
                 before=`{}`, now=`{}`",
                old.types, new.types
            ));
        }
    }

    fn compare_sources(&mut self, before: &Manifest, after: &Manifest, accepted: &[String]) {
        let survives = |part: &Part| part.stores.iter().any(|s| after.store(&s.name).is_some());
        for (part, old) in before.sources() {
            let what = topic(old);
            let Some((new_part, new)) = after.source(old) else {
                if accepted.iter().any(|name| **name == *old.topic) {
                    self.notes
                        .push(format!("{what}: it was removed, as was accepted"));
                } else if old.found || !(old.repartition || survives(part)) {
                    self.notes.push(format!("{what}: it is not read any more"));
                } else {
                    let read = format!("read by sub-topology {}", part.number);
                    let unread = "not read".to_owned();
                    self.misfit(what, read, unread, Advice::AcceptRemoval);
                }
                continue;
            };
            let known = |s: &Store| before.store(&s.name).is_some();
            let stateful = new_part.stores.iter().any(known);
            if old.partitions != new.partitions && (new.repartition || stateful) {
                let [before, now] = [old, new].map(|s| partitions(s.partitions));
                self.misfit(what, before, now, Advice::Repartition);
            }
        }
        for (_, new) in after.sources() {
            if before.source(new).is_none() {
                self.notes
                    .push(format!("{}: it is read from now on", topic(new)));
            }
        }
    }

    /// Stores that were removed are remembered: the changelog of one that comes back lacks what
    /// happened in between.
    fn keep_retired(
        &mut self,
        before: &Manifest,
        after: &mut Manifest,
        has_changelog: &dyn Fn(&str) -> bool,
    ) {
        let removed = before.stores().map(|(_, store)| store);
        for store in before.retired.iter().chain(removed) {
            if after.store(&store.name).is_none() {
                let known = after.retired.iter().any(|other| other.name == store.name);
                if !known {
                    after.retired.push(store.clone());
                }
            } else if before.store(&store.name).is_none()
                && (store.kept != Kept::Changelog || has_changelog(&store.name))
            {
                let what = format!("store `{}`", store.name);
                let before = format!("removed, with {} left", describe(store));
                self.misfit(what, before, "back".to_owned(), Advice::Retired);
            }
        }
    }

    fn compare_globals(&mut self, before: &Manifest, after: &Manifest) {
        if before.globals != after.globals {
            self.notes
                .push("global tables have changed: they are read anew".to_owned());
        }
    }
}

/// Gives each sub-topology the place of the one before that it shares most with, and a fresh one
/// where there is none.
fn keep_places(before: &Manifest, after: &mut Manifest) {
    if before.subtopologies.is_empty() {
        // Behind a reset, or at first: the places from before are not used again.
        let mut next = before.next_place;
        for part in &mut after.subtopologies {
            part.place = next;
            next += 1;
        }
        after.next_place = next;
        return;
    }
    let mut pairs = BTreeMap::new();
    for (at, new) in after.subtopologies.iter().enumerate() {
        for old in &before.subtopologies {
            let stores = new.stores.iter();
            let stores = stores.filter(|s| old.stores.iter().any(|o| o.name == s.name));
            let sources = new.sources.iter();
            let sources = sources.filter(|s| old.sources.iter().any(|o| o.topic == s.topic));
            let shared = (stores.count(), sources.count());
            if shared != (0, 0) {
                pairs.insert((shared, usize::MAX - at, u32::MAX - old.place), old.place);
            }
        }
    }
    let mut given: BTreeMap<usize, u32> = BTreeMap::new();
    for ((_, at, _), place) in pairs.into_iter().rev() {
        let at = usize::MAX - at;
        if !given.contains_key(&at) && !given.values().any(|taken| *taken == place) {
            given.insert(at, place);
        }
    }
    let mut next = before.next_place;
    for (at, part) in after.subtopologies.iter_mut().enumerate() {
        part.place = given.get(&at).copied().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
    }
    after.next_place = next;
}

fn describe(store: &Store) -> String {
    let kept = match &store.kept {
        Kept::Changelog => "with a changelog".to_owned(),
        Kept::Topic(topic) => format!("restored from topic `{topic}`"),
        Kept::Nowhere => "without a changelog".to_owned(),
    };
    format!("{} {kept}", store.layout)
}

fn topic(source: &Source) -> String {
    match source.repartition {
        true => format!("repartition topic `{}`", source.topic),
        false => format!("topic `{}`", source.topic),
    }
}

fn partitions(count: u32) -> String {
    match count {
        1 => "1 partition".to_owned(),
        _ => format!("{count} partitions"),
    }
}

fn lasting(retention_ms: Option<i64>) -> String {
    match retention_ms {
        Some(i64::MAX) => "everything".to_owned(),
        Some(ms) => format!("{ms} ms"),
        None => "no times".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::FORMAT;

    fn store(name: &str, layout: &str, kept: Kept) -> Store {
        Store {
            name: name.into(),
            layout: layout.to_owned(),
            retention_ms: None,
            kept,
            types: "T".to_owned(),
        }
    }

    fn source(topic: &str, partitions: u32) -> Source {
        Source {
            topic: topic.into(),
            repartition: topic.starts_with("by-"),
            partitions,
            found: topic.starts_with("found-"),
        }
    }

    /// Parts of sources and stores; a part has as many partitions as its greatest source.
    fn manifest(parts: &[(&[(&str, u32)], &[Store])]) -> Manifest {
        let part = |(number, (sources, stores)): (usize, &(&[(&str, u32)], &[Store]))| Part {
            number: number as u32,
            place: number as u32,
            partitions: sources.iter().map(|(_, n)| *n).max().unwrap_or(1),
            sources: sources.iter().map(|(t, n)| source(t, *n)).collect(),
            stores: stores.to_vec(),
        };
        Manifest {
            format: FORMAT,
            next_place: parts.len() as u32,
            subtopologies: parts.iter().enumerate().map(part).collect(),
            ..Manifest::default()
        }
    }

    fn kv(name: &str) -> Store {
        store(name, "key-value", Kept::Changelog)
    }

    fn compare(before: &Manifest, after: &Manifest, accepted: &[&str]) -> (Evolution, Manifest) {
        let mut after = after.clone();
        let accepted: Vec<String> = accepted.iter().map(|&name| name.to_owned()).collect();
        let evolution = Evolution::between(before, &mut after, &accepted, &|_| true);
        (evolution, after)
    }

    #[track_caller]
    fn refused(before: &Manifest, after: &Manifest, expect: &str) {
        let (evolution, _) = compare(before, after, &[]);
        let text = evolution.refusal("app").expect("is refused").to_string();
        assert_eq!(text, expect);
    }

    #[track_caller]
    fn fits(before: &Manifest, after: &Manifest, accepted: &[&str], notes: &[&str]) {
        let (evolution, _) = compare(before, after, accepted);
        assert!(evolution.refusal("app").is_none(), "{evolution:?}");
        let said = evolution.warnings.iter().chain(&evolution.notes);
        assert_eq!(said.collect::<Vec<_>>(), notes);
    }

    #[test]
    fn every_difference_that_does_not_fit_has_its_line() {
        let local = store("local", "key-value", Kept::Nowhere);
        let before = manifest(&[
            (&[("in", 2)], &[kv("counts"), kv("totals"), local]),
            (&[("by-value", 2)], &[]),
            (&[("more", 2)], &[kv("grown")]),
        ]);
        let after = manifest(&[
            (
                &[("other", 2)],
                &[store("counts", "window", Kept::Changelog), kv("sums")],
            ),
            (&[("more", 4)], &[kv("grown")]),
        ]);
        refused(
            &before,
            &after,
            "the topology does not fit what the application left behind; nothing was started or \
             written. application=`app`\
             \n  store `counts`: before key-value with a changelog, now window with a changelog\
             \n  store `totals`: before key-value with a changelog, now gone\
             \n  store `local`: before key-value without a changelog, now gone\
             \n  store `grown`: before 2 partitions, now 4 partitions\
             \n  topic `in`: before read by sub-topology 0, now not read\
             \n  repartition topic `by-value`: before read by sub-topology 1, now not read\
             \n  topic `more`: before 2 partitions, now 4 partitions\
             \n  advice: it looks as if `totals` was renamed to `sums`: keep the old name, or the \
             state is lost; name in `accept_removed` what is really to go, with all that it \
             holds; give a store that changes a new name; keep the numbers of partitions, or \
             `repartition` to a fixed number in front of the stores, as keys would move away from \
             their state; or `reset` the application",
        );
    }

    #[test]
    fn what_only_grows_or_has_no_state_fits() {
        let before = manifest(&[
            (&[("in", 2)], &[kv("counts")]),
            (&[("plain", 2), ("found-a", 2)], &[]),
        ]);
        let mut after = manifest(&[
            (&[("in", 2), ("more", 2)], &[kv("counts"), kv("new")]),
            (&[("plain", 8)], &[]),
        ]);
        let said = [
            "store `new`: it is new, and has nothing of records that were read before",
            "topic `found-a`: it is not read any more",
            "topic `more`: it is read from now on",
        ];
        fits(&before, &after, &[], &said);
        after.subtopologies[0].stores[0].types = "U".to_owned();
        after.subtopologies[0].stores[0].retention_ms = Some(5);
        let (evolution, _) = compare(&before, &after, &[]);
        assert!(evolution.refusal("app").is_none());
        assert_eq!(evolution.warnings.len(), 2, "{evolution:?}");
    }

    #[test]
    fn a_removed_store_is_remembered_until_its_changelog_is_gone() {
        let before = manifest(&[(&[("in", 2)], &[kv("counts")])]);
        let without = manifest(&[(&[("in", 2)], &[])]);
        let (evolution, between) = compare(&before, &without, &["counts"]);
        assert!(evolution.refusal("app").is_none());
        assert_eq!(between.retired, [kv("counts")]);
        let (evolution, again) = compare(&between, &without, &[]);
        assert!(evolution.refusal("app").is_none());
        assert_eq!(again, between, "remembered");
        refused(
            &between,
            &before,
            "the topology does not fit what the application left behind; nothing was started or \
             written. application=`app`\
             \n  store `counts`: before removed, with key-value with a changelog left, now back\
             \n  advice: give a store that comes back a new name, or delete its changelog, which \
             lacks what has happened since; or `reset` the application",
        );
        let mut back = before.clone();
        let evolution = Evolution::between(&between, &mut back, &[], &|_| false);
        assert!(evolution.refusal("app").is_none());
        assert_eq!(back.retired, []);
    }

    #[test]
    fn places_stay_with_the_stores_and_are_never_used_twice() {
        let places = |before: &Manifest, after: &Manifest| {
            let (_, after) = compare(before, after, &[]);
            (after.places(), after.next_place)
        };
        let (a, b): (&[Store], &[Store]) = (&[kv("a")], &[kv("b")]);
        let before = manifest(&[(&[("x", 1)], a), (&[("y", 1)], b), (&[("z", 1)], &[])]);
        let turned = manifest(&[
            (&[("new", 1)], &[]),
            (&[("z", 1)], &[]),
            (&[("y", 1)], b),
            (&[("x", 1)], a),
        ]);
        assert_eq!(places(&before, &turned), (vec![3, 2, 1, 0], 4));
        // A store counts for more than a topic.
        let swapped = manifest(&[(&[("y", 1)], a), (&[("x", 1)], b)]);
        assert_eq!(places(&before, &swapped), (vec![0, 1], 3));
        // A place that was given up is not given again.
        let (_, fewer) = compare(&before, &manifest(&[(&[("x", 1)], a)]), &["b"]);
        assert_eq!(places(&fewer, &turned), (vec![3, 4, 5, 0], 6));
        let reset = Manifest {
            next_place: 3,
            ..Manifest::default()
        };
        assert_eq!(places(&reset, &before), (vec![3, 4, 5], 6));
    }

    #[test]
    fn a_store_on_disk_alone_stays_with_its_sub_topology() {
        let local = store("local", "key-value", Kept::Nowhere);
        let before = manifest(&[
            (&[("x", 1)], &[kv("a"), kv("b"), local.clone()]),
            (&[("y", 1)], &[kv("c"), kv("d")]),
        ]);
        let after = manifest(&[
            (&[("x", 1)], &[kv("a"), kv("b")]),
            (&[("y", 1)], &[kv("c"), kv("d"), local]),
        ]);
        refused(
            &before,
            &after,
            "the topology does not fit what the application left behind; nothing was started or \
             written. application=`app`\
             \n  store `local`: before in sub-topology 0, on disk alone, now in sub-topology 1\
             \n  advice: give a store that changes a new name; or `reset` the application",
        );
    }
}
