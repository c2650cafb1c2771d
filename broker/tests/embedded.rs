//! The contract, kept by the embedded log.

#[macro_use]
mod contract;

use contract::Bed;
use millstream_broker::embedded::{EmbeddedBroker, EmbeddedConfig};

fn open(test: &str, config: EmbeddedConfig) -> Option<Bed> {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = EmbeddedBroker::open(dir.path(), config).expect("opens");
    Some(Bed::new(broker, test, dir))
}

fn bed(test: &str) -> Option<Bed> {
    open(test, EmbeddedConfig::default())
}

contract_tests!(bed);

/// Every read goes to disk, and a few records fill a block.
mod small_and_from_disk {
    use super::{Bed, EmbeddedConfig, open};

    fn bed(test: &str) -> Option<Bed> {
        let config = EmbeddedConfig {
            tail_cache_bytes: 0,
            block_bytes: 100,
            read_ahead_bytes: 300,
            write_buffer_bytes: 64 << 10,
            ..EmbeddedConfig::default()
        };
        open(test, config)
    }

    contract_tests!(bed);
}
