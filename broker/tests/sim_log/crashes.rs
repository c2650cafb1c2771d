//! Instances that die, at any point of any call.

use millstream_broker::{Broker, OwnedRecord, sim::Fault};
use millstream_topology::Headers;

use super::{
    SESSION, at,
    copying::{Plan, copy},
    join, log, producer, send, transaction, values, write,
};

#[test]
fn a_crash_around_any_producer_call_leaves_all_or_nothing() {
    let calls = ["init", "begin", "send", "drain", "send_offsets", "commit"];
    for (ix, call) in calls.iter().enumerate() {
        for phase in ["before", "after"] {
            let point = format!("producer.{call}.{phase}");
            let (log, _) = log();
            let client = log.client("victim");
            log.script(&point, 1, Fault::Crash);
            assert!(transaction(&client).is_err(), "{point}");
            assert!(!client.lives(), "{point}");
            assert_eq!(log.coverage().0[&*point].hit, 1);
            let done = point == "producer.commit.after";
            let sent = ix > 2 || point == "producer.send.after";
            let open = log.open_transactions().len();
            assert_eq!(open, usize::from(sent && !done), "{point}");

            // Its heir ends what was open and does the work if it was not done.
            let heir = log.client("heir");
            let mut p = producer(&heir, "p");
            assert!(log.open_transactions().is_empty(), "{point}");
            let offset = log.group("g").offsets.get(&at(0)).copied();
            assert_eq!(offset, done.then_some(1), "{point}");
            if offset.is_none() {
                write(&mut *p, "a");
            }
            assert_eq!(values(&log), ["a"], "{point}");
        }
    }
}

#[test]
fn a_killed_client_has_no_effect_any_more() {
    let (log, setup) = log();
    let client = log.client("victim");
    let consumer = join(&client, "a");
    let mut p = producer(&client, "p");
    let appender = client.appender().expect("appender");
    write(&mut *p, "before");
    p.begin().expect("begin");
    send(&mut *p, "open").expect("send");
    client.kill();
    assert!(send(&mut *p, "late").is_err());
    assert!(p.commit().is_err());
    assert!(p.init().is_err());
    consumer.close(false);
    assert!(client.admin().is_err());
    let record = OwnedRecord {
        to: at(0),
        timestamp: 1,
        key: None,
        value: None,
        headers: Headers::default(),
    };
    let refused = appender.append(record, Box::new(|_| panic!("nobody is told")));
    assert!(refused.is_err());
    assert_eq!(log.group("g").members.len(), 1, "its place is kept");
    log.advance(SESSION);
    assert!(log.group("g").members.is_empty());
    producer(&setup, "p");
    assert_eq!(values(&log), ["before"]);
}

/// Every fault that a script can force at any point leaves a program that heeds the rules with
/// each record exactly once.
#[test]
fn one_fault_at_any_point_costs_no_record_and_doubles_none() {
    let faults = [
        Fault::Crash,
        Fault::Retriable,
        Fault::Abortable,
        Fault::Fatal,
        Fault::Fenced,
        Fault::Indeterminate { applied: true },
        Fault::Indeterminate { applied: false },
        Fault::Rebalance,
        Fault::ShortPoll,
        Fault::Full,
        Fault::SlowMarkers,
        Fault::SlowAnswer,
        Fault::CoordinatorAway,
        Fault::ClockJump,
    ];
    let calm = copy(1, &Plan::default()).expect("nothing goes wrong");
    let passed = calm.coverage.0.iter().filter(|(_, p)| p.passed > 4);
    let mut forced = 0;
    for (&point, _) in passed {
        for fault in faults.into_iter().filter(|fault| fault.fits(point)) {
            for nth in 1..4 {
                let plan = Plan {
                    script: vec![(point, nth, fault)],
                    ..Plan::default()
                };
                let done = copy(1, &plan).unwrap_or_else(|why| {
                    panic!("point=`{point}`, nth={nth}, fault={fault:?}: {why}")
                });
                assert!(done.coverage.0[point].hit > 0, "{point} {fault:?}");
                forced += 1;
            }
        }
    }
    assert!(forced > 200, "all points were tried: {forced}");
}
