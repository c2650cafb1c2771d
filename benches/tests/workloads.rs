//! The workloads do what they are said to do.

use bytes::Bytes;
use millstream_benches::{Workload, records};
use millstream_runtime::TestDriver;
use millstream_topology::{Result, Topic, bytes, nullable, u64_be};

const W2_OUT: Topic<Bytes, Option<u64>> = Topic::new("w2-out", bytes(), nullable(u64_be()));

fn pipe(driver: &mut TestDriver, workload: Workload, count: u64, keys: u64) -> Result {
    for input in records(workload, count, keys, 1) {
        let topic = match input.topic {
            "w1-in" => Topic::new("w1-in", bytes(), bytes()),
            "w1b-in" => Topic::new("w1b-in", bytes(), bytes()),
            "w2-in" => Topic::new("w2-in", bytes(), bytes()),
            "w4-left" => Topic::new("w4-left", bytes(), bytes()),
            _ => Topic::new("w4-right", bytes(), bytes()),
        };
        driver.send(topic, input.key, input.value, input.timestamp)?;
    }
    Ok(())
}

#[test]
fn a_json_order_is_marked_as_seen_and_otherwise_unchanged() -> Result {
    let mut driver = TestDriver::new(&Workload::JsonMap.topology()?)?;
    pipe(&mut driver, Workload::JsonMap, 1, 10)?;
    let out: Topic<Bytes, Bytes> = Topic::new("w1-out", bytes(), bytes());
    let seen = driver.read(out)?.remove(0).value;
    let input = records(Workload::JsonMap, 1, 10, 1).next().expect("one");
    let input = String::from_utf8(input.value.to_vec()).expect("text");
    assert_eq!(seen, input.replace("PENDING", "SEEN"));
    Ok(())
}

#[test]
fn the_first_byte_is_crossed_out() -> Result {
    let mut driver = TestDriver::new(&Workload::BytesMap.topology()?)?;
    pipe(&mut driver, Workload::BytesMap, 1, 10)?;
    let out: Topic<Bytes, Bytes> = Topic::new("w1b-out", bytes(), bytes());
    let seen = driver.read(out)?.remove(0).value;
    assert_eq!((seen[0], seen.len()), (b'X', 100));
    Ok(())
}

#[test]
fn the_last_counts_add_up_to_the_records() -> Result {
    let mut driver = TestDriver::new(&Workload::Count.topology()?)?;
    pipe(&mut driver, Workload::Count, 100, 7)?;
    let mut last = std::collections::BTreeMap::new();
    for record in driver.read(W2_OUT)? {
        last.insert(record.key, record.value.expect("a count"));
    }
    assert_eq!((last.len(), last.values().sum::<u64>()), (7, 100));
    Ok(())
}

#[test]
fn each_right_record_of_a_key_meets_each_left_one() -> Result {
    let mut driver = TestDriver::new(&Workload::Join.topology()?)?;
    pipe(&mut driver, Workload::Join, 10, 1)?;
    let out: Topic<Bytes, Bytes> = Topic::new("w4-out", bytes(), bytes());
    let joined = driver.read(out)?;
    assert_eq!(joined.len(), 25);
    assert!(joined.iter().all(|record| record.value.len() == 200));
    Ok(())
}
