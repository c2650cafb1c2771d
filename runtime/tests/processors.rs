//! The Processor API: stores of every kind, read-only ones, and schedules that come and go.

use std::time::Duration;

use millstream_operators::{
    Clock, Context, KvHandle, Lru, LruHandle, Processor, Punctuation, ReadHandle,
    ReadSessionHandle, ReadVersionedHandle, ReadWindowHandle, Reads, ScheduleId, SessionHandle,
    StreamsBuilder, VersionedHandle, WindowHandle,
};
use millstream_runtime::TestDriver;
use millstream_topology::{
    ErrorKind, KvStore, Record, Result, SessionStore, Sessions, Topic, Tumbling, VersionedStore,
    WindowStore, hours, millis, mins, text, u64_be,
};

const ASKED: Topic<String, String> = Topic::new("asked", text(), text());
const TOLD: Topic<String, String> = Topic::new("told", text(), text());
const CLICKS: Topic<String, String> = Topic::new("clicks", text(), text());
const PRICES: Topic<String, u64> = Topic::new("prices", text(), u64_be());
const NAMES: Topic<String, String> = Topic::new("names", text(), text());

const PER_TEN: WindowStore<String, u64> = WindowStore::new("per-ten", text(), u64_be());
const VISITS: SessionStore<String, u64> = SessionStore::new("visits", text(), u64_be());
const PRICE: VersionedStore<String, u64> = VersionedStore::new("price", text(), u64_be(), hours(1));
const NAME: KvStore<String, String> = KvStore::new("name", text(), text());

fn at(key: &str, value: &str, timestamp: i64) -> Record<String, String> {
    Record::new(key.to_owned(), value.to_owned(), timestamp)
}

/// Tells what the stores of others hold for a key at the time of a record.
struct Teller {
    windows: ReadWindowHandle<String, u64>,
    sessions: ReadSessionHandle<String, u64>,
    versions: ReadVersionedHandle<String, u64>,
    names: ReadHandle<String, String>,
}

impl Processor for Teller {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        let key = &record.key;
        let windows = cx
            .read_window(self.windows)
            .fetch(key, 0, record.timestamp)?;
        let windows: Vec<String> = windows
            .iter()
            .map(|(start, count, _)| format!("{start}:{count}"))
            .collect();
        let sessions = cx.read_session(self.sessions).all()?;
        let sessions: Vec<String> = sessions
            .iter()
            .filter(|(session, _)| session.key == *key)
            .map(|(session, count)| format!("{}-{}:{count}", session.start, session.end))
            .collect();
        let mut versions = cx.read_versioned(self.versions);
        let then = versions.get_as_of(key, record.timestamp)?;
        let now = versions.get(key)?;
        let name = cx.read(self.names).get(key)?;
        let all = cx.read(self.names).range(None, None, 10)?.len();
        let told = format!(
            "{} | {} | {then:?} {now:?} | {name:?} of {all}",
            windows.join(" "),
            sessions.join(" ")
        );
        cx.forward(record.with_value(told))
    }
}

#[test]
fn a_processor_reads_windows_sessions_versions_and_global_tables_of_others() {
    let b = StreamsBuilder::new();
    let clicks = b.stream(CLICKS);
    clicks
        .clone()
        .group_by_key()
        .windowed_by(Tumbling::of(millis(10)).grace(mins(1)))
        .count(PER_TEN);
    clicks
        .group_by_key()
        .windowed_by(Sessions::of(millis(5)).grace(mins(1)))
        .count(VISITS);
    b.table(PRICES, PRICE);
    b.global_table(NAMES, NAME);
    let reads = (Reads(PER_TEN), Reads(VISITS), Reads(PRICE), Reads(NAME));
    let told = b
        .stream(ASKED)
        .process(reads, |(windows, sessions, versions, names)| Teller {
            windows,
            sessions,
            versions,
            names,
        });
    told.to(TOLD);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    for time in [1, 3, 12] {
        driver.send_record(CLICKS, at("a", "", time)).expect("sent");
    }
    driver.send(PRICES, "a".to_owned(), 7, 2).expect("sent");
    driver.send(PRICES, "a".to_owned(), 9, 20).expect("sent");
    for (key, name) in [("a", "Ada"), ("b", "Bob")] {
        driver.send_record(NAMES, at(key, name, 0)).expect("sent");
    }
    driver.send_record(ASKED, at("a", "?", 11)).expect("sent");
    let told: Vec<String> = driver
        .read(TOLD)
        .expect("reads")
        .into_iter()
        .map(|r| r.value)
        .collect();
    let want = "0:2 10:1 | 1-3:2 12-12:1 | Some((7, 2)) Some((9, 20)) | Some(\"Ada\") of 2";
    assert_eq!(told, [want]);
}

#[test]
fn a_store_that_nobody_keeps_cannot_be_read() {
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
    let b = StreamsBuilder::new();
    b.stream(ASKED)
        .process(Reads(PER_TEN), |_| Nothing)
        .to(TOLD);
    let error = b.build().err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Topology);
    assert!(error.to_string().contains("`per-ten`"), "{error}");
}

const OWN_WINDOWS: WindowStore<String, u64> = WindowStore::new("own-windows", text(), u64_be());
const OWN_SESSIONS: SessionStore<String, u64> = SessionStore::new("own-sessions", text(), u64_be());
const OWN_VERSIONS: VersionedStore<String, u64> =
    VersionedStore::new("own-versions", text(), u64_be(), hours(1));

/// Writes to a store of each kind.
struct Writer {
    windows: WindowHandle<String, u64>,
    sessions: SessionHandle<String, u64>,
    versions: VersionedHandle<String, u64>,
}

impl Processor for Writer {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        let (key, time) = (&record.key, record.timestamp);
        let start = time - time % 10;
        let count = cx
            .window(self.windows)
            .get(key, start)?
            .map_or(0, |(count, _)| count);
        cx.window(self.windows)
            .put(key, start, Some(count + 1), time)?;
        cx.session(self.sessions)
            .put(key, time, time + 1, Some(count))?;
        cx.versioned(self.versions).put(key, Some(&count), time)?;
        Ok(())
    }
}

#[test]
fn a_processor_writes_windows_sessions_and_versions_and_finds_them_after_a_restore() {
    let b = StreamsBuilder::new();
    let own = (
        (OWN_WINDOWS, mins(1)),
        (OWN_SESSIONS, mins(1)),
        OWN_VERSIONS,
    );
    let written = b
        .stream(ASKED)
        .process(own, |(windows, sessions, versions)| Writer {
            windows,
            sessions,
            versions,
        });
    written.to(TOLD);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    for time in [11, 13, 25] {
        driver.send_record(ASKED, at("a", "", time)).expect("sent");
        driver.restart(false).expect("restored");
    }
    let windows = driver.window_entries(OWN_WINDOWS).expect("reads");
    let windows: Vec<_> = windows
        .into_iter()
        .map(|(_, start, count, _)| (start, count))
        .collect();
    assert_eq!(windows, [(10, 2), (20, 1)]);
    assert_eq!(
        driver.session_entries(OWN_SESSIONS).expect("reads").len(),
        3
    );
    assert_eq!(driver.versions(OWN_VERSIONS).expect("reads").len(), 3);
}

const TICKS: KvStore<String, u64> = KvStore::new("ticks", text(), u64_be());

/// Each record `on` begins a schedule, `off` ends the one begun last.
struct Ticker {
    ticks: KvHandle<String, u64>,
    running: Vec<ScheduleId>,
}

impl Processor for Ticker {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        match &*record.value {
            "on" => self
                .running
                .push(cx.schedule(Duration::from_millis(10), Clock::Wall)),
            _ => {
                if let Some(last) = self.running.pop() {
                    cx.cancel(last);
                }
            }
        }
        Ok(())
    }

    fn punctuate(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        tick: Punctuation,
    ) -> Result<()> {
        let which = self.running.iter().position(|id| *id == tick.schedule);
        let key = format!("{which:?}");
        let count = cx.store(self.ticks).get(&key)?.unwrap_or(0);
        cx.store(self.ticks).put(&key, count + 1, tick.time_ms)?;
        // It ends itself after the third call.
        if count == 2 {
            cx.cancel(tick.schedule);
        }
        Ok(())
    }
}

#[test]
fn schedules_begin_and_end_at_any_time() {
    let b = StreamsBuilder::new();
    let ticker = |ticks| Ticker {
        ticks,
        running: Vec::new(),
    };
    b.stream(ASKED).process(TICKS, ticker).to(TOLD);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    let ticks = |driver: &mut TestDriver| -> Vec<(String, u64)> {
        let entries = driver.entries(TICKS).expect("reads").into_iter();
        entries.map(|(which, count, _)| (which, count)).collect()
    };
    let pass = |driver: &mut TestDriver, times: usize| {
        for _ in 0..times {
            driver
                .advance_wall_clock(Duration::from_millis(10))
                .expect("ticks");
        }
    };
    driver.send_record(ASKED, at("a", "on", 1)).expect("sent");
    driver.send_record(ASKED, at("a", "on", 2)).expect("sent");
    assert!(ticks(&mut driver).is_empty(), "not before its time");
    pass(&mut driver, 1);
    let both = [("Some(0)".to_owned(), 1), ("Some(1)".to_owned(), 1)];
    assert_eq!(ticks(&mut driver), both);
    driver.send_record(ASKED, at("a", "off", 3)).expect("sent");
    pass(&mut driver, 5);
    let one = [("Some(0)".to_owned(), 3), ("Some(1)".to_owned(), 1)];
    assert_eq!(
        ticks(&mut driver),
        one,
        "one was ended, the other ended itself"
    );
}

const LATEST: KvStore<String, String> = KvStore::new("latest", text(), text());

/// Looks at a key when the value is `?`, and stores it otherwise.
struct Remember(LruHandle<String, String>);

impl Processor for Remember {
    type Key = String;
    type Value = String;
    type OutKey = String;
    type OutValue = String;

    fn process(
        &mut self,
        cx: &mut Context<'_, '_, String, String>,
        record: Record<String, String>,
    ) -> Result<()> {
        let mut latest = cx.lru(&self.0);
        match &*record.value {
            "?" => latest.get(&record.key).map(|_| ()),
            "-" => latest.delete(&record.key, record.timestamp),
            _ => latest.put(&record.key, record.value.clone(), record.timestamp),
        }
    }
}

#[test]
fn a_bounded_store_forgets_what_was_used_longest_ago() {
    let b = StreamsBuilder::new();
    b.stream(ASKED).process(Lru(LATEST, 2), Remember).to(TOLD);
    let mut driver = TestDriver::new(&b.build().expect("builds")).expect("starts");
    let steps = [
        ("a", "1", "a"),
        ("b", "2", "ab"),
        ("a", "?", "ab"),
        // `b` was used longest ago.
        ("c", "3", "ac"),
        // After a restart `a` is the older one again.
        ("d", "4", "cd"),
        ("c", "-", "d"),
        ("e", "5", "de"),
    ];
    for (time, (key, value, kept)) in (1..).zip(steps) {
        if value == "4" {
            driver.restart(false).expect("restored");
        }
        driver
            .send_record(ASKED, at(key, value, time))
            .expect("sent");
        let entries = driver.entries(LATEST).expect("reads").into_iter();
        let keys: String = entries.map(|(key, ..)| key).collect();
        assert_eq!(keys, kept, "after {key}={value}");
    }
}
