//! Which member of a group gets which partitions.

use std::{collections::BTreeSet, sync::Arc};

use crate::TopicPartition;

/// Kafka's range assignment: per topic, the members that read it, by name, get ranges in a row; the
/// first ones get one partition more where it does not come out even. So equal partitions of topics
/// with equal counts land on one member.
///
/// `members` are in the order of their names; `count` tells the partitions of a topic.
pub(crate) fn assign(
    members: &[&[Arc<str>]],
    count: impl Fn(&str) -> u32,
) -> Vec<Vec<TopicPartition>> {
    let mut shares = vec![Vec::new(); members.len()];
    let topics: BTreeSet<&Arc<str>> = members.iter().flat_map(|topics| topics.iter()).collect();
    for topic in topics {
        let readers: Vec<usize> = (0..members.len())
            .filter(|&member| members[member].contains(topic))
            .collect();
        let partitions = count(topic) as usize;
        let (each, more) = (partitions / readers.len(), partitions % readers.len());
        let mut next = 0;
        for (place, &member) in readers.iter().enumerate() {
            let share = each + usize::from(place < more);
            let range = next..next + share;
            shares[member].extend(range.map(|p| TopicPartition::new(topic.clone(), p as i32)));
            next += share;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(topics: &[(&str, u32)], members: &[&[&str]], wanted: &[&[&str]]) {
        let members: Vec<Vec<Arc<str>>> = members
            .iter()
            .map(|m| m.iter().map(|&t| t.into()).collect())
            .collect();
        let members: Vec<&[Arc<str>]> = members.iter().map(Vec::as_slice).collect();
        let count = |topic: &str| topics.iter().find(|t| t.0 == topic).map_or(0, |t| t.1);
        let shares: Vec<Vec<String>> = assign(&members, count)
            .iter()
            .map(|share| share.iter().map(ToString::to_string).collect())
            .collect();
        assert_eq!(shares, wanted);
    }

    #[test]
    fn first_members_get_the_odd_partitions() {
        check(
            &[("t", 5)],
            &[&["t"], &["t"], &["t"]],
            &[&["t-0", "t-1"], &["t-2", "t-3"], &["t-4"]],
        );
    }

    #[test]
    fn every_topic_is_dealt_by_itself() {
        check(
            &[("a", 3), ("b", 3)],
            &[&["b", "a"], &["a", "b"]],
            &[&["a-0", "a-1", "b-0", "b-1"], &["a-2", "b-2"]],
        );
    }

    #[test]
    fn only_readers_of_a_topic_get_partitions_of_it() {
        check(
            &[("a", 2), ("b", 2)],
            &[&["a"], &["a", "b"], &["b"]],
            &[&["a-0"], &["a-1", "b-0"], &["b-1"]],
        );
    }

    #[test]
    fn members_beyond_the_partitions_get_none() {
        check(&[("t", 1)], &[&["t"], &["t"]], &[&["t-0"], &[]]);
        check(&[], &[&["gone"]], &[&[]]);
    }
}
