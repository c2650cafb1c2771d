//! Each way to break a promise, and what the verifier says about it.

use bytes::Bytes;
use millstream_broker::{Broker, TopicPartition};
use millstream_verifier::{Offsets, promises};

use crate::log::{CAPITALS, CHANGELOG, INPUT, LENGTHS, Run, application, entry};

/// Breaks a correct run, and expects that one promise is broken, with an example that has all of
/// `words`.
#[track_caller]
fn check(violate: impl FnOnce(&mut Run), promise: &str, words: &[&str]) {
    let mut run = Run::correct();
    violate(&mut run);
    let report = run.verify();
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promise], "{report}");
    let row = report.row(promise).expect("the promise was looked at");
    assert_eq!(row.broken, 1, "{report}");
    let example = &row.examples[0];
    for word in words {
        assert!(example.contains(word), "`{word}` is not in: {example}");
    }
}

#[test]
fn a_correct_log_holds() {
    let report = Run::correct().verify();
    assert!(report.holds(), "{report}");
    let checked = |promise| report.row(promise).expect("was looked at").checked;
    let run = Run::correct();
    let made = run.transactions.iter().flat_map(|of| &of.records);
    let outputs = made.filter(|entry| entry.topic != CHANGELOG).count() as u64;
    assert_eq!(checked(promises::OUTPUT), outputs);
    assert_eq!(checked(promises::CHANGELOG), run.live.len() as u64);
    assert_eq!(checked(promises::STORES), run.live.len() as u64);
    assert!(
        report.rows.iter().all(|row| row.bounded.is_none()),
        "{report}"
    );
}

#[test]
fn a_lost_output_record() {
    let lose = |run: &mut Run| {
        let at = run.transaction_with(CAPITALS);
        run.transactions[at].records.remove(0);
    };
    check(
        lose,
        promises::OUTPUT,
        &["a record is lost", "capitals-", "words-", "@0"],
    );
}

#[test]
fn a_record_that_stands_there_twice() {
    let double = |run: &mut Run| {
        let at = run.transaction_with(LENGTHS);
        let again = run.first_of(LENGTHS).clone();
        run.transactions[at].records.push(again);
    };
    check(double, promises::OUTPUT, &["again", "lengths-", "offset="]);
}

#[test]
fn a_record_that_nothing_makes() {
    let add = |run: &mut Run| {
        let extra = entry(CAPITALS, 1, "zebra", "ZEBRA", 3);
        run.transactions[2].records.push(extra);
    };
    check(
        add,
        promises::OUTPUT,
        &["nothing makes", "capitals-1", "offset="],
    );
}

#[test]
fn a_pair_of_one_task_in_the_wrong_order() {
    let swap = |run: &mut Run| {
        // Two lengths of one key, in two transactions of one task.
        let key = run.first_of(LENGTHS).key.clone();
        let mut own = Vec::new();
        for (at, transaction) in run.transactions.iter().enumerate() {
            let mut records = transaction.records.iter();
            let place = records.position(|it| it.topic == LENGTHS && it.key == key);
            own.extend(place.map(|place| (at, place)));
        }
        let ((t1, r1), (t2, r2)) = (own[0], own[1]);
        let first = run.transactions[t1].records[r1].clone();
        let second = std::mem::replace(&mut run.transactions[t2].records[r2], first);
        run.transactions[t1].records[r1] = second;
    };
    check(
        swap,
        promises::OUTPUT,
        &["out of order", "lengths-", "offset="],
    );
}

#[test]
fn a_wrong_value() {
    let change = |run: &mut Run| run.first_of(CAPITALS).value = "B?".to_owned();
    check(
        change,
        promises::OUTPUT,
        &["another value.", "capitals-", "offset="],
    );
}

#[test]
fn a_wrong_timestamp() {
    let change = |run: &mut Run| run.first_of(CAPITALS).timestamp += 1;
    check(
        change,
        promises::OUTPUT,
        &["another timestamp.", "capitals-", "offset="],
    );
}

#[test]
fn a_header_too_many() {
    let change = |run: &mut Run| {
        let headers = &mut run.first_of(CAPITALS).headers;
        headers.push("trace", Bytes::from_static(b"1"));
    };
    check(
        change,
        promises::OUTPUT,
        &["another headers.", "capitals-", "offset="],
    );
}

#[test]
fn a_record_in_another_partition() {
    let mut run = Run::correct();
    let partition = &mut run.first_of(CAPITALS).partition;
    *partition = 1 - *partition;
    let report = run.verify();
    let row = report.row(promises::OUTPUT).expect("was looked at");
    assert_eq!(report.broken().count(), 1, "{report}");
    assert_eq!(
        row.broken, 2,
        "lost in one, and more than there is in the other: {report}"
    );
}

#[test]
fn a_torn_transaction_with_its_output_and_without_its_offset() {
    let mut run = Run::correct();
    let last = run.transactions.len() - 1;
    run.transactions[last].offsets.clear();
    let report = run.verify();
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    // Its record is a word and a length, and its count is in the changelog.
    assert_eq!(broken, [promises::OUTPUT, promises::CHANGELOG], "{report}");
    let row = report.row(promises::OUTPUT).expect("was looked at");
    assert_eq!(row.broken, 2, "{report}");
    assert!(
        row.examples[0].contains("nothing makes this record"),
        "{report}"
    );
}

#[test]
fn a_torn_transaction_with_its_offset_and_without_its_output() {
    let mut run = Run::correct();
    let last = run.transactions.len() - 1;
    run.transactions[last]
        .records
        .retain(|it| it.topic == CHANGELOG);
    let report = run.verify();
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promises::OUTPUT], "{report}");
    let row = report.row(promises::OUTPUT).expect("was looked at");
    assert!(
        row.examples
            .iter()
            .all(|it| it.contains("a record is lost")),
        "{report}"
    );
}

#[test]
fn a_torn_transaction_with_some_of_its_records() {
    let tear = |run: &mut Run| {
        let last = run.transactions.len() - 1;
        run.transactions[last]
            .records
            .retain(|it| it.topic != LENGTHS);
    };
    check(
        tear,
        promises::OUTPUT,
        &["a record is lost", "lengths-", "words-"],
    );
}

#[test]
fn a_transaction_that_stays_open() {
    let mut run = Run::correct();
    let mut extra = run.transactions[0].clone();
    extra.records.retain(|it| it.topic == LENGTHS);
    extra.offsets.clear();
    extra.stays_open = true;
    run.transactions.push(extra);
    let report = run.verify();
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promises::TRANSACTIONS], "{report}");
    let row = report.row(promises::TRANSACTIONS).expect("was looked at");
    assert_eq!(row.broken, 1, "{report}");
    assert!(row.examples[0].contains("partition=`lengths-"), "{report}");
    assert_eq!(run.write().open(), *row);
}

#[test]
fn a_stale_store() {
    let age = |run: &mut Run| {
        let entry = run.live.values_mut().next().expect("an entry");
        "1".clone_into(&mut entry.0);
    };
    check(age, promises::STORES, &["counts-0", "key=", "found=`1`"]);
}

#[test]
fn a_store_without_an_entry() {
    let lose = |run: &mut Run| drop(run.live.pop_first());
    check(
        lose,
        promises::STORES,
        &["counts-0", "key=", "found=nothing"],
    );
}

#[test]
fn a_store_with_an_entry_too_many() {
    let add = |run: &mut Run| {
        run.live
            .insert((1, "ghost".to_owned()), ("1".to_owned(), 1));
    };
    check(
        add,
        promises::STORES,
        &["counts-1", "key=`ghost`", "due=nothing"],
    );
}

#[test]
fn a_changelog_without_the_last_change() {
    let mut run = Run::correct();
    let last = run.transactions.len() - 1;
    run.transactions[last]
        .records
        .retain(|it| it.topic != CHANGELOG);
    // The store that was restored from it lacks the change as well.
    let written = run.transactions.iter().flat_map(|of| &of.records);
    let logged = written.filter(|it| it.topic == CHANGELOG);
    let entry = |it: &crate::log::Entry| {
        (
            (it.partition, it.key.clone()),
            (it.value.clone(), it.timestamp),
        )
    };
    run.live = logged.map(entry).collect();
    let report = run.verify();
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promises::CHANGELOG], "{report}");
    let example = &report
        .row(promises::CHANGELOG)
        .expect("was looked at")
        .examples[0];
    assert!(example.contains("app-counts-changelog-1"), "{example}");
}

#[test]
fn input_that_was_not_read() {
    let mut run = Run::correct();
    let log = run.write();
    let read = run.input.len() as u64;
    let report = application()
        .has_read_all(read)
        .verify(&log.client, Vec::new());
    let report = report.expect("verified");
    assert!(report.holds(), "{report}");
    let report = application()
        .has_read_all(read + 1)
        .verify(&log.client, Vec::new());
    let report = report.expect("verified");
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promises::WORK], "{report}");

    run.transactions.pop();
    let report = application()
        .has_read_all(1)
        .verify(&run.write().client, Vec::new());
    let report = report.expect("verified");
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promises::LAG], "{report}");
    assert!(
        report
            .rows
            .iter()
            .any(|row| row.examples.iter().any(|it| it.contains("words-1")))
    );
}

#[test]
fn an_offset_that_goes_back() {
    let run = Run::correct();
    let mut offsets = Offsets::new("app", &[INPUT]);
    offsets.look(&run.write().client).expect("looked");
    offsets.look(&run.write().client).expect("looked");
    assert_eq!(offsets.row().broken, 0);
    let mut shorter = Run::correct();
    shorter.transactions.pop();
    offsets.look(&shorter.write().client).expect("looked");
    let row = offsets.row();
    assert_eq!((row.promise, row.broken), (promises::FORWARD, 1));
    let partition = TopicPartition::new(INPUT, 1);
    assert!(row.examples[0].contains(&format!("partition=`{partition}`")));
}

#[test]
fn input_that_is_deleted_is_no_violation_and_is_said() {
    let log = Run::correct().write();
    let admin = log.client.admin().expect("admin");
    let first = TopicPartition::new(INPUT, 0);
    admin.delete_records(&[(first, 1)]).expect("deleted");
    let report = application().verify(&log.client, Vec::new());
    let report = report.expect("verified");
    assert!(report.holds(), "{report}");
    for promise in [promises::OUTPUT, promises::CHANGELOG] {
        let row = report.row(promise).expect("was looked at");
        let bounded = row.bounded.as_deref().unwrap_or_default();
        assert!(bounded.contains("-0`"), "{promise}: {bounded}");
    }
}

#[test]
fn output_that_is_deleted_is_no_violation_and_is_said() {
    let log = Run::correct().write();
    let admin = log.client.admin().expect("admin");
    for partition in 0..2 {
        let ends = TopicPartition::new(CAPITALS, partition);
        admin.delete_records(&[(ends, 1)]).expect("deleted");
    }
    let report = application().verify(&log.client, Vec::new());
    let report = report.expect("verified");
    assert!(report.holds(), "{report}");
    let row = report.row(promises::OUTPUT).expect("was looked at");
    assert!(
        row.bounded
            .as_deref()
            .is_some_and(|it| it.contains("capitals-")),
        "{report}"
    );
}
