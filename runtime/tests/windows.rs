//! Windowed aggregations, with the vectors of Kafka Streams' own tests.

use millstream_operators::StreamsBuilder;
use millstream_runtime::TestDriver;
use millstream_topology::{
    Hopping, Record, Result, TimeWindows, Topic, Tumbling, WindowStore, Windowed, millis, nullable,
    text,
};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const OUT: Topic<String, String> = Topic::new("out", text(), text());
const STORE: WindowStore<String, String> = WindowStore::new("sums", text(), text());

fn topology(windows: TimeWindows) -> Result<millstream_operators::Topology> {
    let b = StreamsBuilder::new();
    b.stream(IN)
        .group_by_key()
        .windowed_by(windows)
        .aggregate(STORE, |_, value, sum: String| match sum.is_empty() {
            true => format!("0+{value}"),
            false => format!("{sum}+{value}"),
        })
        .to_stream()
        .map(|window: Windowed<String>, sum: Option<String>| {
            (
                format!("{}[{},{})", window.key, window.start, window.end),
                sum.unwrap_or_default(),
            )
        })
        .to(OUT);
    b.build()
}

/// Feeds `key:value@time` words and compares what comes out, once in one go and once with a stop
/// and a restore from the changelogs in the middle.
#[track_caller]
fn check(windows: impl Into<TimeWindows>, input: &str, expect: &str, dropped: u64) {
    let topology = topology(windows.into()).expect("builds");
    let words: Vec<&str> = input.split_whitespace().collect();
    for restart_at in [None, Some(words.len() / 2)] {
        let mut driver = TestDriver::new(&topology).expect("starts");
        let mut got = Vec::new();
        for (at, word) in words.iter().enumerate() {
            if restart_at == Some(at) {
                driver.restart(false).expect("restarts");
            }
            let (key, rest) = word.split_once(':').expect("key");
            let (value, time) = rest.split_once('@').expect("time");
            let time = time.parse().expect("number");
            driver
                .send(IN, key.to_owned(), value.to_owned(), time)
                .expect("processes");
            for Record {
                key,
                value,
                timestamp,
                ..
            } in driver.read(OUT).expect("decodes")
            {
                got.push(format!("{key}{value}@{timestamp}"));
            }
        }
        assert_eq!(
            got,
            expect.split_whitespace().collect::<Vec<_>>(),
            "restart at {restart_at:?}"
        );
        assert_eq!(driver.dropped(), dropped, "restart at {restart_at:?}");
    }
}

#[test]
fn hopping_windows_overlap_and_take_late_records_within_grace() {
    // KStreamWindowAggregateTest.testAggBasic
    check(
        Hopping::of(millis(10))
            .advance_by(millis(5))
            .grace(millis(100)),
        "A:1@0 B:2@1 C:3@2 D:4@3 A:1@4 A:1@5 B:2@6 D:4@7 B:2@8 C:3@9 A:1@10 B:2@11 D:4@12 B:2@13 C:3@14 \
         B:1@3 B:2@2 B:3@9",
        "A[0,10)0+1@0 B[0,10)0+2@1 C[0,10)0+3@2 D[0,10)0+4@3 A[0,10)0+1+1@4 A[0,10)0+1+1+1@5 \
         A[5,15)0+1@5 B[0,10)0+2+2@6 B[5,15)0+2@6 D[0,10)0+4+4@7 D[5,15)0+4@7 B[0,10)0+2+2+2@8 \
         B[5,15)0+2+2@8 C[0,10)0+3+3@9 C[5,15)0+3@9 A[5,15)0+1+1@10 A[10,20)0+1@10 \
         B[5,15)0+2+2+2@11 B[10,20)0+2@11 D[5,15)0+4+4@12 D[10,20)0+4@12 B[5,15)0+2+2+2+2@13 \
         B[10,20)0+2+2@13 C[5,15)0+3+3@14 C[10,20)0+3@14 B[0,10)0+2+2+2+1@8 B[0,10)0+2+2+2+1+2@8 \
         B[0,10)0+2+2+2+1+2+3@9 B[5,15)0+2+2+2+2+3@13",
        0,
    );
}

#[test]
fn a_record_may_be_late_for_one_of_its_windows_and_in_time_for_another() {
    // KStreamWindowAggregateTest.shouldLogAndMeterWhenSkippingExpiredWindow
    check(
        Hopping::of(millis(10))
            .advance_by(millis(5))
            .grace(millis(90)),
        "k:100@100 k:0@0 k:1@1 k:2@2 k:3@3 k:4@4 k:5@5 k:6@6 k:105@105 k:106@106",
        "k[95,105)0+100@100 k[100,110)0+100@100 k[5,15)0+5@5 k[5,15)0+5+6@6 \
         k[100,110)0+100+105@105 k[105,115)0+105@105 k[100,110)0+100+105+106@106 \
         k[105,115)0+105+106@106",
        7,
    );
}

#[test]
fn tumbling_windows_close_at_their_end_without_grace() {
    check(
        Tumbling::of(millis(10)),
        "a:1@5 a:2@15 a:3@7 a:4@19 a:5@20 a:6@19",
        "a[0,10)0+1@5 a[10,20)0+2@15 a[10,20)0+2+4@19 a[20,30)0+5@20",
        2,
    );
}

#[test]
fn closed_windows_stay_closed_over_a_restart() {
    let topology = topology(Tumbling::of(millis(10)).into()).expect("builds");
    let mut driver = TestDriver::new(&topology).expect("starts");
    driver
        .send(IN, "a".into(), "1".into(), 100)
        .expect("processes");
    driver.restart(true).expect("restarts");
    driver
        .send(IN, "b".into(), "late".into(), 5)
        .expect("processes");
    assert_eq!(driver.dropped(), 1, "the stream time is part of the state");
}

#[test]
fn nullable_topics_carry_nulls() {
    const CLICKS: Topic<Option<String>, bytes::Bytes> =
        Topic::new("clicks", nullable(text()), millstream_topology::bytes());
    let b = StreamsBuilder::new();
    b.stream(CLICKS)
        .filter(|key, _| key.is_none())
        .to(Topic::new(
            "anonymous",
            nullable(text()),
            millstream_topology::bytes(),
        ));
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    driver.send(CLICKS, None, "x".into(), 1).expect("processes");
    driver
        .send(CLICKS, Some("ada".into()), "y".into(), 2)
        .expect("processes");
    let out = driver.read_raw("anonymous");
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].key, None);
}
