//! `Workload`: what is measured.

use std::{borrow::Cow, str::FromStr};

use bytes::Bytes;
use millstream_operators::{StreamsBuilder, Topology};
use millstream_topology::{KvStore, Result, Topic, WindowStore, bytes, nullable, secs, u64_be};
use serde::{Deserialize, Serialize};

const W1_IN: Topic<Bytes, Bytes> = Topic::new("w1-in", bytes(), bytes());
const W1_OUT: Topic<Bytes, Bytes> = Topic::new("w1-out", bytes(), bytes());
const W1B_IN: Topic<Bytes, Bytes> = Topic::new("w1b-in", bytes(), bytes());
const W1B_OUT: Topic<Bytes, Bytes> = Topic::new("w1b-out", bytes(), bytes());
const W2_IN: Topic<Bytes, Bytes> = Topic::new("w2-in", bytes(), bytes());
const W2_OUT: Topic<Bytes, Option<u64>> = Topic::new("w2-out", bytes(), nullable(u64_be()));
const W4_LEFT: Topic<Bytes, Bytes> = Topic::new("w4-left", bytes(), bytes());
const W4_RIGHT: Topic<Bytes, Bytes> = Topic::new("w4-right", bytes(), bytes());
const W4_OUT: Topic<Bytes, Bytes> = Topic::new("w4-out", bytes(), bytes());

const COUNTS: KvStore<Bytes, u64> = KvStore::new("counts", bytes(), u64_be());
const LEFT_BUFFER: WindowStore<Bytes, Bytes> = WindowStore::new("join-left", bytes(), bytes());
const RIGHT_BUFFER: WindowStore<Bytes, Bytes> = WindowStore::new("join-right", bytes(), bytes());

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// `w1`: a JSON order is parsed, changed and written.
    JsonMap,
    /// `w1b`: bytes are copied, the first becomes `X`.
    BytesMap,
    /// `w2`: records are counted per key.
    Count,
    /// `w4`: two streams are joined within ten seconds.
    Join,
}

/// Text that names no workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such workload; there are w1, w1b, w2 and w4. workload=`{0}`")]
pub struct UnknownWorkload(String);

impl FromStr for Workload {
    type Err = UnknownWorkload;
    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        let found = Self::ALL
            .into_iter()
            .find(|workload| workload.name() == name);
        found.ok_or_else(|| UnknownWorkload(name.to_owned()))
    }
}

/// An order as `w1` reads and writes it: the fields in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Order<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    customer: Cow<'a, str>,
    #[serde(borrow)]
    product: Cow<'a, str>,
    quantity: i64,
    price: i64,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    ts: i64,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::JsonMap, Self::BytesMap, Self::Count, Self::Join];

    /// Its short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonMap => "w1",
            Self::BytesMap => "w1b",
            Self::Count => "w2",
            Self::Join => "w4",
        }
    }

    /// The topics that it reads.
    pub const fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::JsonMap => &["w1-in"],
            Self::BytesMap => &["w1b-in"],
            Self::Count => &["w2-in"],
            Self::Join => &["w4-left", "w4-right"],
        }
    }

    /// The topic that it writes.
    pub const fn output(self) -> &'static str {
        match self {
            Self::JsonMap => W1_OUT.name(),
            Self::BytesMap => W1B_OUT.name(),
            Self::Count => W2_OUT.name(),
            Self::Join => W4_OUT.name(),
        }
    }

    /// Its topology.
    ///
    /// # Errors
    /// None that the tests would not have found.
    pub fn topology(self) -> Result<Topology> {
        let b = StreamsBuilder::new();
        match self {
            Self::JsonMap => b
                .stream(W1_IN)
                .try_map_values(|_, order| mark_seen(&order))
                .to(W1_OUT),
            Self::BytesMap => b
                .stream(W1B_IN)
                .map_values(|_, value| cross_out(&value))
                .to(W1B_OUT),
            // As Kafka Streams' record cache: a count is passed on once a commit.
            Self::Count => {
                let counts = b
                    .stream(W2_IN)
                    .group_by_key()
                    .count(COUNTS)
                    .emit_on_commit();
                counts.to_stream().to(W2_OUT);
            }
            Self::Join => {
                let right = b
                    .stream(W4_RIGHT)
                    .within(secs(10), LEFT_BUFFER, RIGHT_BUFFER);
                let joined = b
                    .stream(W4_LEFT)
                    .join(right.grace(secs(1)), |l: &Bytes, r: &Bytes| {
                        Bytes::from([&**l, &**r].concat())
                    });
                joined.to(W4_OUT);
            }
        }
        b.build()
    }
}

fn mark_seen(value: &Bytes) -> serde_json::Result<Bytes> {
    let mut order: Order<'_> = serde_json::from_slice(value)?;
    order.status = Cow::Borrowed("SEEN");
    let mut out = Vec::with_capacity(value.len());
    serde_json::to_writer(&mut out, &order)?;
    Ok(out.into())
}

fn cross_out(value: &Bytes) -> Bytes {
    let mut copy = value.to_vec();
    if let Some(first) = copy.first_mut() {
        *first = b'X';
    }
    copy.into()
}
