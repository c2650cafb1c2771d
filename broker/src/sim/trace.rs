//! What was called, in which order and with what outcome.

use std::{collections::VecDeque, time::Duration};

use super::faults::{Call, Fault};

/// One call through the seam.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// When, since the beginning.
    pub at: Duration,
    /// The number of the client, in the order in which they were made.
    pub client: usize,
    /// The call, named like `producer.commit`.
    pub call: &'static str,
    /// The fault that it met.
    pub fault: Option<Fault>,
    /// Whether it succeeded.
    pub ok: bool,
}

/// The latest calls, and a digest of all.
pub(super) struct Trace {
    calls: VecDeque<Called>,
    calls_max: usize,
    digest: u64,
}

/// FNV-1a over words.
const PRIME: u64 = 0x0100_0000_01b3;
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

impl Trace {
    pub(super) fn new(calls_max: usize) -> Self {
        Self {
            calls: VecDeque::new(),
            calls_max,
            digest: BASIS,
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = &Called> {
        self.calls.iter()
    }

    /// Takes a figure into the digest.
    #[inline]
    pub(super) fn mix(&mut self, word: u64) {
        self.digest = (self.digest ^ word).wrapping_mul(PRIME).rotate_left(29);
    }

    #[inline]
    pub(super) fn note(
        &mut self,
        at: Duration,
        client: usize,
        call: Call,
        fault: Option<Fault>,
        ok: bool,
    ) {
        self.mix(at.as_nanos() as u64);
        let met = fault.map_or(0, Fault::number);
        self.mix((client as u64) << 32 | (call as u64) << 16 | met << 1 | u64::from(ok));
        if self.calls_max == 0 {
            return;
        }
        if self.calls.len() == self.calls_max {
            self.calls.pop_front();
        }
        let call = call.name();
        self.calls.push_back(Called {
            at,
            client,
            call,
            fault,
            ok,
        });
    }
}
