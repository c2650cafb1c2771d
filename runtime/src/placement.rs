//! Which instances should have a standby of a task.

use millstream_topology::TaskId;

use crate::members::Member;

/// The instances that should have a standby of a task: the first of those that do not run it, in an
/// order of the task's own, so that an instance that comes or goes moves only what is its.
pub(crate) fn hosts<'a>(
    task: TaskId,
    members: &'a [Member],
    own: &str,
    replicas: usize,
) -> impl Iterator<Item = &'a str> {
    let task = task.to_string();
    // What this instance runs it knows better than by what it has told.
    let free = |m: &&Member| m.instance_id == own || !m.tasks.contains(&task);
    let mut free: Vec<&str> = members
        .iter()
        .filter(free)
        .map(|m| &*m.instance_id)
        .collect();
    free.sort_by_key(|instance| std::cmp::Reverse((score(&task, instance), *instance)));
    free.into_iter().take(replicas)
}

/// How much a task likes an instance: the same in every process (FNV-1a, then mixed as its upper
/// bits depend little on the last bytes).
fn score(task: &str, instance: &str) -> u64 {
    let bytes = task.bytes().chain([0]).chain(instance.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn member(name: &str, tasks: &[&str]) -> Member {
        Member {
            instance_id: name.to_owned(),
            endpoint: None,
            tasks: tasks.iter().map(|t| (*t).to_owned()).collect(),
            standbys: BTreeMap::new(),
            at_ms: 0,
        }
    }

    fn task(partition: i32) -> TaskId {
        TaskId {
            subtopology: 0,
            partition,
        }
    }

    fn hosts_of(partition: i32, members: &[Member], replicas: usize) -> Vec<&str> {
        hosts(task(partition), members, "none", replicas).collect()
    }

    #[test]
    fn the_instance_that_runs_a_task_has_no_standby_of_it() {
        let members = [member("a", &["0_0"]), member("b", &[])];
        assert_eq!(hosts_of(0, &members, 1), ["b"]);
        assert_eq!(hosts_of(0, &members, 5), ["b"]);
        assert!(hosts_of(0, &members[..1], 1).is_empty());
    }

    #[test]
    fn an_instance_that_goes_moves_only_its_own_standbys() {
        let members: Vec<Member> = ["a", "b", "c", "d"].map(|n| member(n, &[])).into();
        let mut count: BTreeMap<&str, u32> = BTreeMap::new();
        for partition in 0..400 {
            let before = hosts_of(partition, &members, 1);
            let after = hosts_of(partition, &members[..3], 1);
            assert!(before == after || before == ["d"], "{before:?} {after:?}");
            *count.entry(before[0]).or_default() += 1;
        }
        assert!(count.len() == 4 && count.values().all(|n| (60..140).contains(n)));
    }
}
