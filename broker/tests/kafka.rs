//! The contract, kept by the log on Kafka. `MILLSTREAM_TEST_KAFKA` names a broker for it, as
//! `host:port`.

#[macro_use]
mod contract;

use std::time::{SystemTime, UNIX_EPOCH};

use contract::Bed;
use millstream_broker::kafka::{KafkaBroker, KafkaConfig};

fn bed(test: &str) -> Option<Bed> {
    let Ok(bootstrap) = std::env::var("MILLSTREAM_TEST_KAFKA") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "MILLSTREAM_TEST_KAFKA must name a broker in CI"
        );
        println!("skipped, as MILLSTREAM_TEST_KAFKA names no broker");
        return None;
    };
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let broker = KafkaBroker::new(KafkaConfig::new(bootstrap)).expect("broker");
    Some(Bed::new(
        broker,
        format!("{test}-{}", since.as_micros()),
        (),
    ))
}

contract_tests!(bed);
