//! The records that the workloads read: the same for the same seed, in every engine that is
//! compared.

use bytes::Bytes;

use crate::Workload;

/// The timestamp of the first record, in epoch milliseconds.
pub const T0_MS: i64 = 1_700_000_000_000;

/// A record to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The topic.
    pub topic: &'static str,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The timestamp, in epoch milliseconds.
    pub timestamp: i64,
}

/// The input of a workload, over so many keys.
///
/// ```
/// use millstream_benches::{Workload, records};
/// let first = records(Workload::Count, 1_000_000, 100, 1).next().expect("one");
/// assert_eq!((first.key.len(), first.value.len()), (16, 32));
/// ```
pub fn records(
    workload: Workload,
    count: u64,
    keys: u64,
    seed: u64,
) -> impl Iterator<Item = Input> {
    (0..count).map(move |i| record(workload, i, keys, seed))
}

fn record(workload: Workload, i: u64, keys: u64, seed: u64) -> Input {
    let r = mix(seed.wrapping_mul(1_000_003).wrapping_add(i));
    let key = floor_mod(r, keys);
    let at = |records_per_ms: u64| T0_MS + (i / records_per_ms) as i64;
    match workload {
        Workload::JsonMap => {
            let timestamp = at(100);
            let product = floor_mod_shifted(r, 8, 10_000);
            let quantity = 1 + floor_mod_shifted(r, 16, 9);
            let price = 100 + floor_mod_shifted(r, 24, 90_000);
            let value = format!(
                "{{\"id\":\"o-{i:012}\",\"customer\":\"c{key:07}\",\"product\":\"p-{product:05}\",\
                 \"quantity\":{quantity},\"price\":{price},\"currency\":\"USD\",\
                 \"status\":\"PENDING\",\"ts\":{timestamp}}}"
            );
            let key = format!("c{key:07}");
            Input {
                topic: "w1-in",
                key: key.into(),
                value: value.into(),
                timestamp,
            }
        }
        Workload::BytesMap => {
            let key = format!("c{key:07}");
            Input {
                topic: "w1b-in",
                key: key.into(),
                value: filler(r, 100),
                timestamp: at(100),
            }
        }
        Workload::Count => {
            let key = format!("k{key:015}");
            Input {
                topic: "w2-in",
                key: key.into(),
                value: filler(r, 32),
                timestamp: at(100),
            }
        }
        Workload::Join => {
            let topic = if i.is_multiple_of(2) {
                "w4-left"
            } else {
                "w4-right"
            };
            let key = format!("k{key:015}");
            Input {
                topic,
                key: key.into(),
                value: filler(r, 100),
                timestamp: at(2),
            }
        }
    }
}

/// splitmix64
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The remainder of the number read as a signed one, never negative.
fn floor_mod(r: u64, by: u64) -> u64 {
    r.cast_signed().rem_euclid(by.cast_signed()).cast_unsigned()
}

fn floor_mod_shifted(r: u64, bits: u32, by: u64) -> u64 {
    floor_mod(r >> bits, by)
}

/// Letters that hardly compress.
fn filler(seed: u64, length: usize) -> Bytes {
    let mut letters = Vec::with_capacity(length);
    for i in (0..length).step_by(8) {
        let mut r = mix(seed.wrapping_add(i as u64));
        for _ in i..length.min(i + 8) {
            letters.push(b'a' + floor_mod(r, 26) as u8);
            r >>= 8;
        }
    }
    letters.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_records() {
        for workload in Workload::ALL {
            let twice = || records(workload, 100, 10, 7).collect::<Vec<_>>();
            assert_eq!(twice(), twice());
            assert!(twice().iter().all(|r| workload.inputs().contains(&r.topic)));
            assert!(twice().is_sorted_by_key(|r| r.timestamp));
        }
    }

    #[test]
    fn a_json_order_has_the_fields_that_the_workload_reads() {
        let order = records(Workload::JsonMap, 1, 100_000, 1)
            .next()
            .expect("one");
        let value = std::str::from_utf8(&order.value).expect("text");
        assert!(
            value.starts_with("{\"id\":\"o-000000000000\",\"customer\":\"c00"),
            "{value}"
        );
        assert!(
            value.ends_with("\"status\":\"PENDING\",\"ts\":1700000000000}"),
            "{value}"
        );
    }
}
