//! The contract, kept by the embedded log.

#[macro_use]
mod contract;

use contract::Bed;
use millstream_broker::embedded::{EmbeddedBroker, EmbeddedConfig};

fn bed(test: &str) -> Option<Bed> {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = EmbeddedBroker::open(dir.path(), EmbeddedConfig::default()).expect("opens");
    Some(Bed::new(broker, test, dir))
}

contract_tests!(bed);
