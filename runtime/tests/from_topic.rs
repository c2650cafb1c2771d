//! Tables that are restored from the topic which they are read from.

use millstream_operators::{FromTopic, StreamsBuilder};
use millstream_runtime::TestDriver;
use millstream_topology::{ErrorKind, KvStore, Topic, nullable, text};

const NAMES: Topic<Option<String>, String> = Topic::new("names", nullable(text()), text());
const NAME_OF: KvStore<String, String> = KvStore::new("name-of", text(), text());

#[test]
fn rows_come_back_from_the_topic_and_nothing_is_logged_twice() {
    let b = StreamsBuilder::new();
    b.table(NAMES, FromTopic(NAME_OF));
    let topology = b.build().expect("builds");
    assert!(topology.plan().stores().iter().all(|store| !store.logged));
    let mut driver = TestDriver::new(&topology).expect("starts");
    let rows = [("a", "Ann", 3), ("b", "Bob", 5), ("a", "Ada", 7)];
    for (key, name, time) in rows {
        let key = Some(key.to_owned());
        driver
            .send(NAMES, key, name.to_owned(), time)
            .expect("sent");
    }
    driver
        .send(NAMES, None, "nobody".to_owned(), 9)
        .expect("sent");
    let deleted = millstream_operators::RawRecord {
        key: Some("b".into()),
        timestamp: 11,
        ..Default::default()
    };
    driver.send_raw("names", deleted).expect("sent");
    let before = driver.entries(NAME_OF).expect("reads");
    assert_eq!(before, [("a".to_owned(), "Ada".to_owned(), 7)]);
    for keep_state in [false, true, false] {
        driver.restart(keep_state).expect("starts again");
        assert_eq!(driver.entries(NAME_OF).expect("reads"), before);
    }
}

#[test]
fn a_table_that_is_made_of_a_stream_or_has_its_own_times_is_refused() {
    #[track_caller]
    fn check(make: impl FnOnce(&StreamsBuilder)) {
        let b = StreamsBuilder::new();
        make(&b);
        let error = b.build().err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Topology);
        assert!(error.to_string().contains("FromTopic"), "{error}");
    }
    check(|b| {
        let stream = b.stream(NAMES).drop_null_keys();
        stream.to_table(FromTopic(NAME_OF));
    });
    check(|b| {
        b.table_by_time(NAMES, FromTopic(NAME_OF), |_, _, at, _| at + 1);
    });
    check(|b| {
        const OTHER: KvStore<String, String> = KvStore::new("other", text(), text());
        b.table(NAMES, NAME_OF)
            .filter(|_, _| true)
            .materialize(FromTopic(OTHER));
    });
}
