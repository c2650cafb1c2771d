//! Stateless operators, tables, aggregations, joins and processors through the driver.

use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation, StreamsBuilder};
use millstream_runtime::{ErrorPolicy, Policies, TestDriver};
use millstream_topology::{
    ErrorKind, KvStore, Record, Result, Topic, WindowStore, millis, text, u64_be,
};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const OTHER: Topic<String, String> = Topic::new("other", text(), text());
const OUT: Topic<String, String> = Topic::new("out", text(), text());
const REST: Topic<String, String> = Topic::new("rest", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const NAMES: KvStore<String, String> = KvStore::new("names", text(), text());
const LEFT: WindowStore<String, String> = WindowStore::new("left", text(), text());
const RIGHT: WindowStore<String, String> = WindowStore::new("right", text(), text());
const ALONE: KvStore<Bytes, Bytes> = KvStore::new(
    "alone",
    millstream_topology::bytes(),
    millstream_topology::bytes(),
);

/// Runs steps `topic key:value@time` (`topic key@time` deletes) and gives what reaches `out`, step
/// by step. A step `restart` stops and restores everything.
fn run(build: impl Fn(&StreamsBuilder), steps: &[&str]) -> Vec<String> {
    let b = StreamsBuilder::new();
    build(&b);
    let topology = b.build().expect("builds");
    let mut driver = TestDriver::new(&topology).expect("starts");
    let mut got = Vec::new();
    for step in steps {
        if *step == "restart" {
            driver.restart(false).expect("restarts");
            continue;
        }
        let (topic, rest) = step.split_once(' ').expect("topic");
        let (head, time) = rest.split_once('@').expect("time");
        let (key, value) = match head.split_once(':') {
            Some((key, value)) => (key, Some(value)),
            None => (head, None),
        };
        let raw = millstream_operators::RawRecord {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: value.map(|v| Bytes::copy_from_slice(v.as_bytes())),
            timestamp: time.parse().expect("number"),
            ..Default::default()
        };
        driver.send_raw(topic, raw).expect("processes");
        for Record {
            key,
            value,
            timestamp,
            ..
        } in driver.read(OUT).expect("decodes")
        {
            got.push(format!("{key}:{value}@{timestamp}"));
        }
    }
    got
}

#[test]
fn stateless_operators_compose() {
    let got = run(
        |b| {
            let s = b.stream(IN).filter(|_, v| v != "drop");
            let mut split = s.split();
            split.when(|_, v| v.starts_with('r')).to(REST);
            split
                .otherwise()
                .flat_map_values(|_, v| v.chars().map(String::from).collect::<Vec<_>>())
                .merge(b.stream(OTHER))
                .map(|k, v| (v, k))
                .to(OUT);
        },
        &["in a:xy@1", "in a:drop@2", "in a:rest@3", "other b:z@4"],
    );
    assert_eq!(got, ["x:a@1", "y:a@1", "z:b@4"]);
}

#[test]
fn a_rekeyed_stream_meets_its_keys_in_one_task() {
    const BY_VALUE: Topic<String, String> = Topic::new("by-value", text(), text());
    let got = run(
        |b| {
            b.stream(IN)
                .group_by(BY_VALUE, |_, v| v.clone())
                .count(COUNTS)
                .to_stream()
                .map_values(|_, n| n.unwrap_or(0).to_string())
                .to(OUT);
        },
        &["in a:x@5", "in b:x@3", "restart", "in c:x@9", "in c:y@1"],
    );
    assert_eq!(got, ["x:1@5", "x:2@5", "x:3@9", "y:1@1"]);
}

#[test]
fn a_changed_key_without_a_topic_in_between_is_refused() {
    let b = StreamsBuilder::new();
    b.stream(IN).map(|k, v| (v, k)).group_by_key().count(COUNTS);
    let error = b.build().err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Topology);
    assert!(error.to_string().contains(".repartition(TOPIC)"), "{error}");
}

#[test]
fn two_aggregations_cannot_share_a_store() {
    let b = StreamsBuilder::new();
    let s = b.stream(IN);
    s.clone().group_by_key().count(COUNTS);
    s.group_by_key().count(COUNTS);
    assert!(
        b.build()
            .err()
            .expect("refused")
            .to_string()
            .contains("store=`counts`")
    );
}

#[test]
fn changes_held_until_the_commit_come_once() {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .flat_map_values(|_, v| v.chars().map(String::from).collect::<Vec<_>>())
        .group_by_key()
        .count(COUNTS)
        .emit_on_commit()
        .to_stream()
        .map_values(|_, n| n.unwrap_or(0).to_string())
        .to(OUT);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    driver
        .send(IN, "a".into(), "xyz".into(), 4)
        .expect("processes");
    assert_eq!(
        driver.read(OUT).expect("decodes"),
        [Record::new("a".into(), "3".into(), 4)]
    );
}

#[test]
fn a_stream_looks_up_the_present_value_of_a_table() {
    let steps = [
        "in a:1@1",
        "other a:Ada@9",
        "in a:2@2",
        "restart",
        "in a:3@3",
        "other a@4",
        "in a:4@5",
    ];
    let inner = run(
        |b| {
            let names = b.table(OTHER, NAMES);
            b.stream(IN)
                .join(&names, |v, name| format!("{v}-{name}"))
                .to(OUT);
        },
        &steps,
    );
    assert_eq!(inner, ["a:2-Ada@2", "a:3-Ada@3"]);
    let left = run(
        |b| {
            let names = b.table(OTHER, NAMES);
            b.stream(IN)
                .left_join(&names, |v, name| format!("{v}-{}", name.map_or("?", |n| n)))
                .to(OUT);
        },
        &steps,
    );
    assert_eq!(left, ["a:1-?@1", "a:2-Ada@2", "a:3-Ada@3", "a:4-?@5"]);
}

fn left_join(b: &StreamsBuilder, difference: u64, grace: u64) {
    let other = b
        .stream(OTHER)
        .within(millis(difference), LEFT, RIGHT)
        .grace(millis(grace));
    b.stream(IN)
        .left_join(other.unmatched(ALONE), |l, r| {
            format!("{l}+{}", r.map_or("null", |r| r))
        })
        .to(OUT);
}

#[test]
fn streams_meet_within_their_window_in_order_of_time() {
    let join = |b: &StreamsBuilder| {
        let other = b.stream(OTHER).within(millis(10), LEFT, RIGHT);
        b.stream(IN).join(other, |l, r| format!("{l}+{r}")).to(OUT);
    };
    let steps = [
        "in k:A@10",
        "in k:B@5",
        "other k:a@12",
        "other k:b@25",
        "in k:C@15",
        "restart",
        "in k:D@20",
        "in j:E@20",
    ];
    let got = run(join, &steps);
    // C at 15 is within 10 of both; b at 25 hides left records up to 25 - 20 for reading only.
    assert_eq!(
        got,
        [
            "k:B+a@12", "k:A+a@12", "k:C+a@15", "k:C+b@25", "k:D+a@20", "k:D+b@25"
        ]
    );
}

#[test]
fn an_unmatched_left_record_goes_on_alone_when_its_window_has_closed() {
    // KStreamKStreamLeftJoinTest.testOrdering
    let got = run(
        |b| left_join(b, 100, 0),
        &["in 0:A0@0", "in 1:A1@100", "restart", "other 1:a1@110"],
    );
    assert_eq!(got, ["0:A0+null@0", "1:A1+a1@110"]);
}

#[test]
fn grace_keeps_unmatched_records_waiting() {
    // KStreamKStreamLeftJoinTest.testGracePeriod
    let got = run(
        |b| left_join(b, 100, 10),
        &[
            "in 0:A0@0",
            "in 1:A1@0",
            "other 0:x@101",
            "other 0:dummy@1201",
        ],
    );
    assert_eq!(got, ["0:A0+null@0", "1:A1+null@0"]);
}

/// Counts records by key, and forwards each key's count on a timer.
struct Tally {
    counts: KvHandle<String, u64>,
    clock: Clock,
}

impl Processor for Tally {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn init(&mut self, cx: &mut Context<'_, '_, String, String>) -> Result<()> {
        cx.schedule(Duration::from_millis(10), self.clock);
        Ok(())
    }

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        if record.value == "panic" {
            panic!("as the test asked");
        }
        let mut counts = cx.store(self.counts);
        let count = counts.get(&record.key)?.unwrap_or(0) + 1;
        counts.put(&record.key, count, record.timestamp)
    }

    fn punctuate(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        tick: Punctuation,
    ) -> Result<()> {
        for (key, count, _) in cx.store(self.counts).range(None, None, 100)? {
            cx.forward(Record::new(key, count.to_string(), tick.time_ms))?;
        }
        Ok(())
    }
}

#[test]
fn stream_time_timers_follow_the_records_and_do_not_catch_up() {
    let tally = |b: &StreamsBuilder| {
        let make = |counts| Tally {
            counts,
            clock: Clock::Stream,
        };
        b.stream(IN).process(COUNTS, make).to(OUT);
    };
    let got = run(
        tally,
        &[
            "in a:x@3",
            "in a:x@9",
            "in a:x@35",
            "in a:x@38",
            "in a:x@40",
        ],
    );
    assert_eq!(got, ["a:1@3", "a:3@35", "a:5@40"]);
}

#[test]
fn wall_clock_timers_follow_the_clock() {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .process(COUNTS, |counts| Tally {
            counts,
            clock: Clock::Wall,
        })
        .to(OUT);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    driver
        .send(IN, "a".into(), "x".into(), 7)
        .expect("processes");
    driver.advance_wall_clock(millis(9)).expect("fires");
    assert!(driver.read(OUT).expect("decodes").is_empty());
    driver.advance_wall_clock(millis(25)).expect("fires");
    let want = [Record::new("a".into(), "1".into(), 34)];
    assert_eq!(driver.read(OUT).expect("decodes"), want);
    driver.restart(true).expect("restarts");
    assert_eq!(driver.get(COUNTS, &"a".into()).expect("reads"), Some(1));
}

#[test]
fn failing_records_go_where_the_policy_says() {
    let topology = || {
        let b = StreamsBuilder::new();
        b.stream(IN)
            .try_map_values(|_, v| match v.as_str() {
                "bad" => Err("as the test asked"),
                _ => Ok(v),
            })
            .to(OUT);
        b.build().expect("builds")
    };
    let mut driver = TestDriver::new(&topology()).expect("starts");
    let error = driver
        .send(IN, "a".into(), "bad".into(), 1)
        .expect_err("must fail");
    assert_eq!(error.kind(), ErrorKind::User);
    assert_eq!(error.node(), Some("map-values-1"));

    let policies = Policies {
        decode: ErrorPolicy::DeadLetter,
        process: ErrorPolicy::DeadLetter,
        produce: ErrorPolicy::DeadLetter,
        dead_letter_topic: Some("dead"),
    };
    let mut driver = TestDriver::new(&topology())
        .expect("starts")
        .with_policies(policies);
    driver
        .send(IN, "a".into(), "bad".into(), 1)
        .expect("is set aside");
    driver
        .send(IN, "a".into(), "good".into(), 2)
        .expect("goes on");
    let null = millstream_operators::RawRecord {
        timestamp: 3,
        ..Default::default()
    };
    driver.send_raw("in", null).expect("is set aside");
    assert_eq!(driver.read(OUT).expect("decodes").len(), 1);
    let dead = driver.read_raw("dead");
    assert_eq!(dead.len(), 2);
    assert_eq!(dead[0].value.as_deref(), Some(b"bad".as_slice()));
    let header = |name: &str| dead[0].headers.last(name).expect("header");
    assert_eq!(header("__streams.errors.topic"), "in");
    assert_eq!(header("__streams.errors.offset"), "0");
    assert!(String::from_utf8_lossy(&header("__streams.errors.message")).contains("as the test"));
}

#[test]
fn an_extractor_gives_the_event_time_and_negative_ones_are_dropped() {
    let b = StreamsBuilder::new();
    b.stream_by_time(IN, |_, v, _, _| v.parse().unwrap_or(-1))
        .to(OUT);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    driver
        .send(IN, "a".into(), "42".into(), 1)
        .expect("processes");
    driver
        .send(IN, "a".into(), "x".into(), 2)
        .expect("is dropped");
    assert_eq!(driver.read(OUT).expect("decodes")[0].timestamp, 42);
    assert_eq!(driver.dropped(), 1);
}
