//! Topologies that cannot be: each is refused with the node where it is wrong and what to do.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use millstream_operators::{
    Context, ForeignKey, JoinWindow, KTable, KvHandle, NoStore, Processor, ReadHandle, Reads,
    StreamsBuilder, WindowHandle, until_time_limit, until_window_closes,
};
use millstream_topology::{
    Error, ErrorKind, Hopping, KvStore, Record, Result, SessionStore, Sessions, Sliding,
    SuppressStore, Topic, TopicPattern, Tumbling, Unlimited, VersionedStore, WindowStore, Windowed,
    bytes, hours, millis, mins, text, windowed,
};

const IN: Topic<String, String> = Topic::new("in", text(), text());
const OTHER: Topic<String, String> = Topic::new("other", text(), text());
const THIRD: Topic<String, String> = Topic::new("third", text(), text());
const ROWS: KvStore<String, String> = KvStore::new("rows", text(), text());
const OTHER_ROWS: KvStore<String, String> = KvStore::new("other-rows", text(), text());
const COUNTS: KvStore<String, u64> = KvStore::new("counts", text(), text());
const PAST: VersionedStore<String, String> = VersionedStore::new("past", text(), text(), mins(5));
const LEFT: WindowStore<String, String> = WindowStore::new("left", text(), text());
const RIGHT: WindowStore<String, String> = WindowStore::new("right", text(), text());
const PER_WINDOW: WindowStore<String, u64> = WindowStore::new("per-window", text(), text());
const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), text());
const WAITING: KvStore<String, String> = KvStore::new("waiting", text(), text());
const HELD: SuppressStore<String, String> = SuppressStore::new("held", text(), text());
const OPEN: SuppressStore<Windowed<String>, String> =
    SuppressStore::new("open", windowed(text()), text());
const REFERS: ForeignKey<String, String, String, String> = ForeignKey::new(
    Topic::new("asking", text(), text()),
    Topic::new("answering", text(), text()),
    KvStore::new("asked", bytes(), bytes()),
);

/// Takes records and forwards none, whatever its stores.
struct Sink<H>(H);

impl<H: 'static> Processor for Sink<H> {
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

fn error_of(b: StreamsBuilder) -> Error {
    b.build().err().expect("is refused")
}

/// What is wrong, the node that is named (`-` for none), and a piece of what is said.
type Case = (fn(&StreamsBuilder), &'static str, &'static str);

#[track_caller]
fn check(cases: &[Case]) {
    for (number, (build, node, advice)) in cases.iter().enumerate() {
        let b = StreamsBuilder::new();
        build(&b);
        expect(error_of(b), number, node, advice);
    }
}

#[track_caller]
fn expect(error: Error, number: usize, node: &str, advice: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Topology, "case {number}: {text}");
    assert_eq!(error.node().unwrap_or("-"), node, "case {number}: {text}");
    assert!(text.contains(advice), "case {number}: {text}");
    assert_eq!(
        text.matches("node=").count(),
        usize::from(node != "-"),
        "{text}"
    );
}

#[test]
fn what_comes_from_two_builders_cannot_meet() {
    // The other builder has more nodes than this one, whose ids mean nothing here.
    fn rows(b: &StreamsBuilder) -> KTable<String, String> {
        let rows = b.table(OTHER, OTHER_ROWS).filter(|_, _| true);
        rows.filter(|_, _| true).filter(|_, _| true)
    }
    let refers = |_: &String, value: &String| Some(value.clone());
    let join = |l: &String, r: &String| format!("{l}{r}");
    let cases: &[(fn(&StreamsBuilder, &StreamsBuilder), &str)] = &[
        (
            |b, other| {
                b.stream(IN)
                    .merge(rows(other).to_stream().map_values(|_, _| String::new()));
            },
            "source-0",
        ),
        (
            |b, other| {
                let right = other.stream(OTHER).filter(|_, _| true).filter(|_, _| true);
                let right = right.within(mins(1), LEFT, RIGHT);
                b.stream(IN)
                    .join(right, |l, r| format!("{l}{r}"))
                    .named("meet");
            },
            "meet",
        ),
        (
            |b, other| {
                b.stream(IN)
                    .join(&rows(other), |l, r| format!("{l}{r}"))
                    .named("meet");
            },
            "meet",
        ),
        (
            |b, other| {
                let all = other.global_table(OTHER, OTHER_ROWS);
                other
                    .stream(THIRD)
                    .print("keeps the other from being empty");
                let by = all.by(|_: &String, value: &String| value.clone());
                b.stream(IN)
                    .join(by, |l, r| format!("{l}{r}"))
                    .named("meet");
            },
            "meet",
        ),
        (
            |b, other| {
                let joined = b
                    .table(IN, ROWS)
                    .outer_join(&rows(other), |l, r| format!("{l:?}{r:?}"));
                joined.named("meet");
            },
            "meet",
        ),
        (
            |b, other| {
                let right = other.stream(OTHER).filter(|_, _| true).filter(|_, _| true);
                let step = |_: &String, _: String, count: u64| count + 1;
                let left = b.stream(IN).group_by_key().cogroup(step);
                left.cogroup(right.group_by_key(), step)
                    .aggregate(COUNTS)
                    .named("meet");
            },
            "meet",
        ),
    ];
    for (number, (build, node)) in cases.iter().enumerate() {
        let (b, other) = (StreamsBuilder::new(), StreamsBuilder::new());
        build(&b, &other);
        expect(
            error_of(b),
            number,
            node,
            "make both with one `StreamsBuilder`",
        );
        let theirs = error_of(other);
        assert!(
            theirs.to_string().contains("one `StreamsBuilder`"),
            "{number}: {theirs}"
        );
    }
    let (b, other) = (StreamsBuilder::new(), StreamsBuilder::new());
    b.table(IN, ROWS)
        .join_foreign(&rows(&other), REFERS, WAITING, refers, join);
    expect(
        error_of(b),
        0,
        "foreign-subscribe-5",
        "make both with one `StreamsBuilder`",
    );
    assert!(other.build().is_err());
}

#[test]
fn a_store_has_one_keeper_and_one_shape() {
    const OF_TEXT: KvStore<String, String> = KvStore::new("counts", text(), text());
    check(&[
        (
            |b| {
                b.stream(IN).group_by_key().count(COUNTS).named("first");
                b.stream(OTHER).group_by_key().count(COUNTS).named("second");
            },
            "second",
            "name a store each. store=`counts`, first=`first`",
        ),
        (
            |b| {
                b.global_table(OTHER, ROWS);
                b.table(IN, ROWS);
            },
            "table-1",
            "store=`rows`, first=`a global table`",
        ),
        (
            |b| {
                b.table(IN, ROWS);
                b.global_table(OTHER, ROWS);
            },
            "rows",
            "name a store each",
        ),
        (
            |b| {
                b.stream(IN).process(COUNTS, Sink::<KvHandle<_, _>>);
                b.stream(OTHER)
                    .process(OF_TEXT, Sink::<KvHandle<_, _>>)
                    .named("other");
            },
            "other",
            "use one constant for it. store=`counts`",
        ),
        (
            |b| {
                let keep = |days| (PER_WINDOW, hours(24) * days);
                b.stream(IN).process(keep(1), Sink::<WindowHandle<_, _>>);
                b.stream(OTHER)
                    .process(keep(2), Sink::<WindowHandle<_, _>>)
                    .named("longer");
            },
            "longer",
            "give its retention once, and use that everywhere. store=`per-window`",
        ),
        (
            |b| {
                b.stream(IN).process(COUNTS, Sink::<KvHandle<_, _>>);
                let unlogged = COUNTS.without_changelog();
                b.stream(OTHER)
                    .process(unlogged, Sink::<KvHandle<_, _>>)
                    .named("unlogged");
            },
            "unlogged",
            "differ in its changelog; use one constant for it",
        ),
        (
            |b| {
                b.stream(IN)
                    .process(Reads(ROWS), Sink::<ReadHandle<_, _>>)
                    .named("look");
            },
            "look",
            "make the table or the aggregation that keeps it. store=`rows`",
        ),
        (
            |b| {
                const SPACED: KvStore<String, u64> = KvStore::new("no spaces", text(), text());
                b.stream(IN).group_by_key().count(SPACED);
            },
            "aggregate-1",
            "give it such a name. store=`no spaces`",
        ),
    ]);
    // One retention, said twice, is none too many.
    let b = StreamsBuilder::new();
    b.stream(IN)
        .process((PER_WINDOW, hours(1)), Sink::<WindowHandle<_, _>>);
    b.stream(OTHER)
        .process((PER_WINDOW, mins(60)), Sink::<WindowHandle<_, _>>);
    assert!(b.build().is_ok());
}

#[test]
fn what_a_table_cannot_tell_is_not_asked_of_it() {
    const BY_WINDOW: Topic<Windowed<String>, String> =
        Topic::new("by-window", windowed(text()), text());
    const WINDOWS: KvStore<Windowed<String>, String> =
        KvStore::new("windows", windowed(text()), text());
    check(&[
        (
            |b| {
                b.stream(OTHER)
                    .join(&b.table(IN, NoStore), |l, r| format!("{l}{r}"));
            },
            "table-2",
            "give it a `KvStore` instead of `NoStore`",
        ),
        (
            |b| {
                b.table(IN, ROWS).materialize(NoStore).named("nowhere");
            },
            "nowhere",
            "give it a `KvStore` or a `VersionedStore`",
        ),
        (
            |b| {
                b.table(BY_WINDOW, WINDOWS)
                    .suppress(until_window_closes(), OPEN);
            },
            "table-1",
            "suppress `until_time_limit` instead",
        ),
        (
            |b| {
                b.table(IN, PAST).suppress(until_time_limit(mins(1)), HELD);
            },
            "table-1",
            "keep the table in a `KvStore`",
        ),
        (
            |b| {
                let table = b.table(OTHER, ROWS).with_grace(mins(1), WAITING);
                b.stream(IN)
                    .join(table, |l, r| format!("{l}{r}"))
                    .named("wait");
            },
            "wait",
            "keep the table in a `VersionedStore`",
        ),
        (
            |b| {
                let table = b.table(OTHER, PAST).with_grace(mins(6), WAITING);
                b.stream(IN)
                    .left_join(table, |l, r| format!("{l}{r:?}"))
                    .named("wait");
            },
            "wait",
            "history of at least the grace. history_ms=300000, grace_ms=360000",
        ),
    ]);
}

#[test]
fn windows_that_cannot_be_are_refused_where_they_stand() {
    fn windowed_by(b: &StreamsBuilder, windows: impl Into<millstream_topology::TimeWindows>) {
        let grouped = b.stream(IN).group_by_key().windowed_by(windows.into());
        grouped.count(PER_WINDOW).named("windows");
    }
    check(&[
        (
            |b| windowed_by(b, Tumbling::of(Duration::ZERO)),
            "windows",
            "size of 1 ms or more",
        ),
        (
            |b| windowed_by(b, Hopping::of(millis(5)).advance_by(millis(6))),
            "windows",
            "give `advance_by` 1 ms up to the size. size_ms=5, advance_ms=6",
        ),
        (
            |b| {
                let sliding = Sliding::of(Duration::ZERO);
                b.stream(IN)
                    .group_by_key()
                    .windowed_by(sliding)
                    .count(PER_WINDOW);
            },
            "sliding-aggregate-1",
            "use `Tumbling::of(millis(1))`",
        ),
        (
            |b| {
                let early = Unlimited::since(-1);
                b.stream(IN)
                    .group_by_key()
                    .windowed_by(early)
                    .count(PER_WINDOW);
            },
            "window-aggregate-1",
            "start it at 0 or later. start_ms=-1",
        ),
        (
            |b| {
                let grouped = b.stream(IN).group_by_key().windowed_by(Unlimited::since(0));
                grouped.emit_on_close().count(PER_WINDOW);
            },
            "window-aggregate-1",
            "leave `emit_on_close` out",
        ),
        (
            |b| {
                let grouped = b
                    .stream(IN)
                    .group_by_key()
                    .windowed_by(Tumbling::of(mins(2)));
                grouped.retain(mins(1)).count(PER_WINDOW);
            },
            "window-aggregate-1",
            "let `retain` have at least what they need, or leave it out. store=`per-window`",
        ),
        (
            |b| {
                let grouped = b
                    .stream(IN)
                    .group_by_key()
                    .windowed_by(Sliding::of(mins(2)));
                grouped.retain(mins(3)).count(PER_WINDOW);
            },
            "sliding-aggregate-1",
            "retention_ms=180000, least_ms=240000",
        ),
        (
            |b| {
                let grouped = b
                    .stream(IN)
                    .group_by_key()
                    .windowed_by(Sessions::of(mins(2)));
                grouped.retain(mins(1)).count(VISITS);
            },
            "session-aggregate-1",
            "store=`visits`, retention_ms=60000, least_ms=120000",
        ),
        (
            |b| {
                let window = JoinWindow::of(mins(1)).newer_by(mins(2));
                let right = b.stream(OTHER).within(window, LEFT, RIGHT);
                b.stream(IN)
                    .join(right, |l, r| format!("{l}{r}"))
                    .named("meet");
            },
            "meet",
            "let `before` and `after` add up to 0 ms or more",
        ),
        (
            |b| {
                let window = JoinWindow::of(mins(1)).older_by(mins(2));
                b.stream(IN)
                    .join_self(window, LEFT, |_, l, r| format!("{l}{r}"));
            },
            "stream-join-1",
            "before=60000, after=-120000",
        ),
    ]);
}

#[test]
fn topics_are_read_once_and_have_names_and_partitions() {
    check(&[
        (|_| {}, "-", "start with `stream` or `table`"),
        (
            |b| {
                b.stream(IN)
                    .map(|k, v| (v, k))
                    .named("swapped")
                    .group_by_key()
                    .count(COUNTS);
            },
            "swapped",
            "put `.repartition(TOPIC)` in between",
        ),
        (
            |b| {
                b.stream(IN).repartition_to(OTHER, 0).print("never");
            },
            "source-2",
            "give `repartition_to` 1 or more",
        ),
        (
            |b| {
                b.stream([IN, OTHER])
                    .merge(b.stream(IN).named("again"))
                    .print("both");
            },
            "again",
            "read it once: `clone` the stream or the table",
        ),
        (
            |b| {
                b.stream(IN).named("lines").print("lines");
                b.table(IN, ROWS);
            },
            "source-2",
            "make the table of the stream by `to_table`, or the stream of the table by \
             `to_stream`. topic=`in`, first=`lines`",
        ),
        (
            |b| {
                b.stream(IN).named("lines").print("lines");
                b.global_table(IN, ROWS);
            },
            "lines",
            "let the global table read a copy of the topic, which another application writes. \
             topic=`in`, first=`rows`",
        ),
        (
            |b| {
                b.stream(Vec::new())
                    .named("nothing")
                    .merge(b.stream(IN))
                    .print("nothing");
            },
            "nothing",
            "give `stream` a topic",
        ),
        (
            |b| {
                let broken = TopicPattern::<String, String>::new("(", text(), text());
                b.stream(broken).named("found").print("found");
            },
            "found",
            "write it as the `regex` crate reads it. pattern=`(`",
        ),
        (
            |b| b.stream(IN).to(Topic::new("no spaces", text(), text())),
            "sink-1",
            "give it such a name. topic=`no spaces`",
        ),
        (
            |b| {
                b.stream(IN).print("in");
                b.global_table(Topic::new("", text(), text()), ROWS);
            },
            "rows",
            "a name of 1 to 200 letters",
        ),
        (
            |b| {
                b.stream(IN).named("one");
                b.table(OTHER, ROWS).named("one");
            },
            "table-2",
            "give one of them another. name=`one`",
        ),
    ]);
}

#[test]
fn topics_that_meet_have_one_number_of_partitions() {
    #[track_caller]
    fn check(partitions: &[(&str, u32)], node: &str, advice: &str) {
        let b = StreamsBuilder::new();
        let step = |_: &String, _: String, count: u64| count + 1;
        let left = b.stream(IN).group_by_key().cogroup(step);
        let right = b.stream(OTHER).named("others").group_by_key();
        left.cogroup(right, step).aggregate(COUNTS).named("both");
        let topology = b.build().expect("builds");
        let counts: BTreeMap<&str, u32> = partitions.iter().copied().collect();
        let counted = topology
            .plan()
            .repartition_counts(|t| counts.get(t).copied());
        expect(counted.expect_err("is refused"), 0, node, advice);
    }
    check(
        &[("in", 2), ("other", 3)],
        "both",
        "`repartition` one side. `in` has 2, `other` has 3",
    );
    check(&[("in", 2)], "others", "create it first. topic=`other`");
}

#[test]
fn the_first_error_is_the_one_that_is_told() {
    const NOWHERE: KvStore<Bytes, Bytes> = KvStore::new("no where", bytes(), bytes());
    const BYTES: Topic<Bytes, Bytes> = Topic::new("bytes", bytes(), bytes());
    check(&[(
        |b| {
            b.stream(IN).repartition_to(OTHER, 0).print("never");
            b.table(BYTES, NOWHERE);
        },
        "source-2",
        "give `repartition_to` 1 or more",
    )]);
}
