//! Streams through the driver: where they come from, where they go, nulls, and processors.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use millstream_operators::{
    Clock, Context, FixedKeyContext, FixedKeyProcessor, FixedKeyRecord, KvHandle, Output,
    OutputHandle, Processor, Punctuation, RawRecord, ReadHandle, Reads, StreamsBuilder,
};
use millstream_runtime::{ErrorPolicy, Policies, TestDriver};
use millstream_topology::{
    AnyTopic, BoxError, Codec, ErrorKind, KvStore, Record, Result, Topic, TopicPattern, i64_be,
    nullable, text, u64_be,
};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const OTHER: Topic<String, String> = Topic::new("other", text(), text());
const OUT: Topic<String, String> = Topic::new("out", text(), text());
const NUMBERS: Topic<String, i64> = Topic::new("numbers", text(), i64_be());
const MAYBE: Topic<Option<String>, Option<String>> =
    Topic::new("maybe", nullable(text()), nullable(text()));
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), u64_be());
const NAMES: KvStore<String, String> = KvStore::new("names", text(), text());

fn driver(build: impl Fn(&StreamsBuilder)) -> TestDriver {
    let b = StreamsBuilder::new();
    build(&b);
    TestDriver::new(&b.build().expect("builds")).expect("starts")
}

#[track_caller]
fn refused(build: impl Fn(&StreamsBuilder), say: &str) {
    let b = StreamsBuilder::new();
    build(&b);
    let error = b.build().err().expect("is refused");
    assert_eq!(error.kind(), ErrorKind::Topology);
    assert!(error.to_string().contains(say), "{error}");
}

fn send(driver: &mut TestDriver, topic: &str, key: &str, value: &str, timestamp: i64) {
    let raw = RawRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        timestamp,
        ..RawRecord::default()
    };
    driver.send_raw(topic, raw).expect("processes");
}

/// What reached `out` since the last call, as `key:value@time`.
fn out(driver: &mut TestDriver) -> Vec<String> {
    let records = driver.read(OUT).expect("decodes");
    let line = |r: Record<String, String>| format!("{}:{}@{}", r.key, r.value, r.timestamp);
    records.into_iter().map(line).collect()
}

#[test]
fn several_topics_are_one_stream_each_read_with_its_own_codec() {
    const LETTERS: Topic<String, i64> = Topic::new("letters", text(), text());
    let mut driver = driver(|b| {
        let all = b.stream([NUMBERS, LETTERS]);
        all.map_values(|_, n| n.to_string()).to(OUT);
    });
    driver.send(NUMBERS, "a".into(), 7, 1).expect("processes");
    send(&mut driver, "letters", "b", "8", 0);
    assert_eq!(out(&mut driver), ["a:7@1", "b:8@0"]);
}

#[test]
fn asking_twice_for_the_same_topics_gives_the_same_stream() {
    let mut driver = driver(|b| {
        b.stream([IN, OTHER]).to(OUT);
        b.stream([OTHER, IN]).map_values(|_, v| v + "!").to(OUT);
    });
    send(&mut driver, "in", "a", "x", 1);
    assert_eq!(out(&mut driver), ["a:x@1", "a:x!@1"]);
    refused(
        |b| {
            b.stream([IN, OTHER]).merge(b.stream(IN)).to(OUT);
        },
        "two sources read one topic",
    );
    refused(|b| b.stream(Vec::new()).to(OUT), "has at least one");
}

#[test]
fn a_topic_that_matches_a_pattern_is_read_from_its_first_record_on() {
    const CLICKS: TopicPattern<String, String> = TopicPattern::new("clicks-[a-z]+", text(), text());
    const BACK: Topic<String, String> = Topic::new("clicks-again", text(), text());
    let mut driver = driver(|b| {
        b.stream(IN).to(BACK);
        b.stream(CLICKS)
            .group_by_key()
            .count(COUNTS)
            .to_stream()
            .to(Topic::new("counted", text(), nullable(u64_be())));
    });
    send(&mut driver, "clicks-web", "a", "x", 5);
    send(&mut driver, "clicks-app", "a", "x", 3);
    send(&mut driver, "in", "a", "through a topic of ours", 9);
    assert_eq!(driver.get(COUNTS, &"a".into()).expect("reads"), Some(3));
    driver.restart(false).expect("restarts");
    send(&mut driver, "clicks-app", "a", "x", 3);
    assert_eq!(driver.get(COUNTS, &"a".into()).expect("reads"), Some(4));
    let raw = RawRecord::default();
    let error = driver.send_raw("my-clicks-web", raw).expect_err("no match");
    assert_eq!(error.kind(), ErrorKind::Config);
    refused(
        |b| {
            b.stream(TopicPattern::<String, String>::new("(", text(), text()))
                .to(OUT)
        },
        "no regular expression",
    );
}

#[test]
fn a_record_chooses_its_topic() {
    const ANY: AnyTopic<String, String> = AnyTopic::new(text(), text());
    let mut driver = driver(|b| {
        b.stream(IN)
            .filter_not(|_, v| v.is_empty())
            .to_dynamic(ANY, |k, _| format!("to-{k}"));
        b.stream(Topic::new("to-b", text(), text())).to(OUT);
    });
    send(&mut driver, "in", "a", "x", 1);
    send(&mut driver, "in", "a", "", 2);
    send(&mut driver, "in", "b", "y", 3);
    assert_eq!(driver.read_raw("to-a").len(), 1);
    assert_eq!(
        out(&mut driver),
        ["b:y@3"],
        "also a topic that the topology reads"
    );
}

#[test]
fn records_are_printed_with_their_label() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = lines.clone();
    let mut driver = driver(move |b| {
        let seen = seen.clone();
        let write = move |line: &str| seen.lock().expect("no panic").push(line.to_owned());
        b.stream(MAYBE).print_to("maybe", write);
    });
    driver
        .send(MAYBE, None, Some("x".into()), 1)
        .expect("processes");
    assert_eq!(
        *lines.lock().expect("no panic"),
        [r#"[maybe]: None, Some("x")"#]
    );
}

#[test]
fn nulls_are_dropped_and_counted_where_the_program_says_so() {
    let mut driver = driver(|b| {
        let there = b.stream(MAYBE).drop_null_keys().drop_null_values();
        there.group_by_key().count(COUNTS);
    });
    for (key, value) in [
        (None, None),
        (None, Some("x")),
        (Some("a"), None),
        (Some("a"), Some("x")),
    ] {
        let (key, value) = (key.map(str::to_owned), value.map(str::to_owned));
        driver.send(MAYBE, key, value, 1).expect("processes");
    }
    assert_eq!(driver.dropped(), 3, "once each");
    assert_eq!(driver.get(COUNTS, &"a".into()).expect("reads"), Some(1));
}

#[test]
fn a_record_without_a_key_vanishes_at_a_repartition_uncounted() {
    const BY_VALUE: Topic<Option<String>, Option<String>> =
        Topic::new("by-value", nullable(text()), nullable(text()));
    let mut driver = driver(|b| {
        let by_value = b.stream(MAYBE).rekey(BY_VALUE, |_, v| v.clone());
        by_value
            .drop_null_keys()
            .group_by_key()
            .aggregate(COUNTS, |_, _, n: u64| n + 1);
    });
    driver
        .send(MAYBE, Some("a".into()), None, 1)
        .expect("processes");
    driver
        .send(MAYBE, None, Some("x".into()), 2)
        .expect("processes");
    assert_eq!(driver.dropped(), 0);
    assert_eq!(driver.get(COUNTS, &"x".into()).expect("reads"), Some(1));
}

#[test]
fn a_new_key_needs_a_topic_before_equal_keys_can_meet() {
    refused(
        |b| {
            b.stream(IN)
                .select_key(|_, v| v.clone())
                .group_by_key()
                .count(COUNTS);
        },
        ".repartition(TOPIC)",
    );
    assert!(
        StreamsBuilder::new()
            .stream(IN)
            .select_key(|_, v| v.clone())
            .is_rekeyed()
    );
}

#[test]
fn a_table_of_a_topic_with_nullable_keys_drops_and_counts_them() {
    const ROWS: Topic<Option<String>, String> = Topic::new("rows", nullable(text()), text());
    let mut driver = driver(|b| {
        b.table_by_time(ROWS, NAMES, |_, v, ts, partition_time| {
            match v.map(String::as_str) {
                Some("late") => partition_time - 1,
                Some("never") => -1,
                _ => ts,
            }
        });
    });
    driver.send(ROWS, None, "x".into(), 1).expect("processes");
    driver
        .send(ROWS, Some("a".into()), "x".into(), 9)
        .expect("processes");
    driver
        .send(ROWS, Some("b".into()), "late".into(), 50)
        .expect("processes");
    driver
        .send(ROWS, Some("c".into()), "never".into(), 60)
        .expect("processes");
    let rows = driver.entries(NAMES).expect("reads");
    assert_eq!(
        rows,
        [("a".into(), "x".into(), 9), ("b".into(), "late".into(), 8)]
    );
    assert_eq!(driver.dropped(), 2);
}

#[test]
fn a_fold_that_comes_to_nothing_is_deleted_and_says_so() {
    const LEFT: KvStore<String, i64> = KvStore::new("left", text(), i64_be());
    const CHANGES: Topic<String, Option<i64>> = Topic::new("changes", text(), nullable(i64_be()));
    let mut driver = driver(|b| {
        let left = b
            .stream(NUMBERS)
            .group_by_key()
            .aggregate_or_delete(LEFT, |_, by, left| {
                Some(left.unwrap_or(0) + by).filter(|left| *left != 0)
            });
        left.to_stream().to(CHANGES);
    });
    for (by, at) in [(3, 5), (-3, 2), (1, 3)] {
        driver.send(NUMBERS, "a".into(), by, at).expect("processes");
    }
    let changes = driver.read(CHANGES).expect("decodes");
    let told: Vec<_> = changes
        .into_iter()
        .map(|r| (r.value, r.timestamp))
        .collect();
    assert_eq!(
        told,
        [(Some(3), 5), (None, 5), (Some(1), 3)],
        "time starts anew"
    );
}

/// Doubles values, and says how often it was called.
struct Double {
    calls: KvHandle<String, u64>,
}

impl FixedKeyProcessor for Double {
    type Key = String;
    type Value = String;
    type OutValue = String;

    fn init(&mut self, cx: &mut FixedKeyContext<'_, '_, String, String>) -> Result<()> {
        cx.schedule(Duration::from_millis(10), Clock::Wall);
        Ok(())
    }

    fn process(
        &mut self,
        cx: &mut FixedKeyContext<'_, '_, String, String>,
        record: FixedKeyRecord<String, String>,
    ) -> Result<()> {
        let mut calls = cx.store(self.calls);
        let so_far = calls.get(record.key())?.unwrap_or(0);
        calls.put(record.key(), so_far + 1, record.timestamp)?;
        let twice = record.value.repeat(2);
        cx.forward(record.with_value(twice))
    }

    fn punctuate(
        &mut self,
        cx: &mut FixedKeyContext<'_, '_, String, String>,
        tick: Punctuation,
    ) -> Result<()> {
        cx.store(self.calls).put(&"tick".into(), 1, tick.time_ms)
    }
}

#[test]
fn a_processor_of_values_leaves_keys_where_they_are() {
    const LONGEST: KvStore<String, String> = KvStore::new("longest", text(), text());
    let mut driver = driver(|b| {
        let doubled = b
            .stream(IN)
            .process_values(COUNTS, |calls| Double { calls });
        assert!(!doubled.is_rekeyed());
        let longest = |a: String, b: String| if a.len() >= b.len() { a } else { b };
        doubled
            .group_by_key()
            .reduce(LONGEST, longest)
            .to_stream()
            .map_values(|_, v| v.unwrap_or_default())
            .to(OUT);
    });
    send(&mut driver, "in", "a", "xy", 1);
    send(&mut driver, "in", "a", "z", 2);
    driver
        .advance_wall_clock(Duration::from_millis(10))
        .expect("fires");
    assert_eq!(out(&mut driver), ["a:xyxy@1", "a:xyxy@2"]);
    let calls = driver.entries(COUNTS).expect("reads");
    assert_eq!(calls, [("a".into(), 2, 2), ("tick".into(), 1, 10)]);
}

/// Sorts numbers from words; words without letters go nowhere.
struct Sort {
    numbers: OutputHandle<String, i64>,
    words: Vec<OutputHandle<String, String>>,
}

impl Processor for Sort {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        match record.value.parse() {
            Ok(number) => cx.forward_to(self.numbers, record.with_value(number)),
            Err(_) if record.value.is_empty() => cx.forward(record),
            Err(_) => {
                let by_length = self.words[record.value.len() % self.words.len()];
                cx.forward_to(by_length, record)
            }
        }
    }
}

#[test]
fn a_processor_has_several_outputs_of_different_types() {
    let mut driver = driver(|b| {
        let outputs = (
            Output::new("numbers-out"),
            vec![Output::new("even"), Output::new("odd")],
        );
        let make = |(), (numbers, words)| Sort { numbers, words };
        let (empty, (numbers, words)) = b.stream(IN).process_to((), outputs, make);
        numbers.to(NUMBERS);
        empty.map_values(|_, _| "empty".to_owned()).to(OUT);
        for (words, length) in words.into_iter().zip(["even", "odd"]) {
            words
                .map_values(move |_, v| format!("{length} {v}"))
                .to(OUT);
        }
    });
    for (at, value) in (0..).zip(["12", "", "ab", "abc"]) {
        send(&mut driver, "in", "k", value, at);
    }
    assert_eq!(
        out(&mut driver),
        ["k:empty@1", "k:even ab@2", "k:odd abc@3"]
    );
    assert_eq!(
        driver.read(NUMBERS).expect("decodes"),
        [Record::new("k".into(), 12, 0)]
    );
    refused(
        |b| {
            let outputs = vec![Output::<String, String>::new("same"), Output::new("same")];
            b.stream(IN).process_to((), outputs, |(), _| Nothing);
        },
        "name=`same`",
    );
}

/// Forwards nothing.
struct Nothing;

impl Processor for Nothing {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        _: &mut Context<'_, '_, String, String>,
        _: Record<String, String>,
    ) -> Result<()> {
        Ok(())
    }
}

/// Puts the name of a key before a value.
struct Address(ReadHandle<String, String>);

impl Processor for Address {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        let name = match cx.read(self.0).get_with_timestamp(&record.key)? {
            Some((name, since)) => format!("{name} (since {since})"),
            None => "nobody".to_owned(),
        };
        let value = format!("{name}: {}", record.value);
        cx.forward(record.with_value(value))
    }
}

#[test]
fn a_processor_reads_the_store_of_a_table() {
    let mut driver = driver(|b| {
        b.stream(IN).process(Reads(NAMES), Address).to(OUT);
        b.table(OTHER, NAMES);
    });
    send(&mut driver, "in", "a", "hi", 1);
    send(&mut driver, "other", "a", "Ada", 2);
    send(&mut driver, "in", "a", "hi", 3);
    assert_eq!(
        out(&mut driver),
        ["a:nobody: hi@1", "a:Ada (since 2): hi@3"]
    );
}

#[test]
fn a_store_that_nobody_keeps_or_that_has_other_types_is_refused() {
    refused(
        |b| b.stream(IN).process(Reads(NAMES), Address).to(OUT),
        "no operator has",
    );
    refused(
        |b| {
            b.stream(IN).process(Reads(NAMES), Address).to(OUT);
            const OTHERWISE: KvStore<String, u64> = KvStore::new("names", text(), u64_be());
            b.stream(OTHER).group_by_key().count(OTHERWISE);
        },
        "different types",
    );
}

#[test]
fn changes_of_a_table_held_until_the_commit_leave_out_what_came_and_went() {
    const FLAT: Topic<String, String> = Topic::new("flat", text(), text());
    let mut driver = driver(|b| {
        let rows = b.stream(FLAT).flat_map_values(|_, v| {
            v.split(' ')
                .map(|v| Some(v.to_owned()).filter(|v| v != "-"))
                .collect::<Vec<_>>()
        });
        let table = rows.to_table(NAMES).emit_on_commit();
        table
            .to_stream()
            .map_values(|_, v| v.unwrap_or_else(|| "gone".into()))
            .to(OUT);
    });
    for (at, value) in (1..).zip(["-", "x -", "x y", "-"]) {
        send(&mut driver, "flat", "a", value, at);
    }
    assert_eq!(out(&mut driver), ["a:y@3", "a:gone@4"]);
}

/// Writes short text only.
#[derive(Clone, Copy)]
struct Short;

impl Codec for Short {
    type Value = String;

    fn encode(value: &String, out: &mut Vec<u8>) -> Result<(), BoxError> {
        if value.len() > 3 {
            return Err("too long".into());
        }
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<String, BoxError> {
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }

    fn to_json(value: &String) -> serde_json::Value {
        value.as_str().into()
    }

    fn parse(text: &str) -> Result<String, BoxError> {
        Ok(text.to_owned())
    }
}

#[test]
fn a_result_that_cannot_be_written_has_a_policy_of_its_own() {
    const SHORT: Topic<String, String> = Topic::new("short", text(), Short);
    let b = StreamsBuilder::new();
    b.stream(IN).to(SHORT);
    let topology = b.build().expect("builds");
    let mut strict = TestDriver::new(&topology).expect("starts");
    let long = ("a".to_owned(), "long".to_owned());
    let error = strict
        .send(IN, long.0.clone(), long.1.clone(), 1)
        .expect_err("stops");
    assert!(error.is_on_output());
    let policies = Policies {
        produce: ErrorPolicy::DeadLetter,
        dead_letter_topic: Some("dead"),
        ..Policies::default()
    };
    let mut driver = TestDriver::new(&topology)
        .expect("starts")
        .with_policies(policies);
    driver.send(IN, long.0, long.1, 1).expect("is set aside");
    send(&mut driver, "in", "a", "x", 2);
    assert_eq!(driver.read_raw("short").len(), 1);
    let dead = driver.read_raw("dead");
    assert_eq!(
        dead[0].value.as_deref(),
        Some(b"long".as_slice()),
        "the record that it was made of"
    );
    let topic = dead[0].headers.last("__streams.errors.topic");
    assert_eq!(topic.as_deref(), Some(b"in".as_slice()));
}
