//! Applications that join.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_operators::{FromTopic, KStream, StreamsBuilder};
use millstream_topology::{KvStore, Topic, WindowStore, bytes, millis, nullable, text};
use millstream_verifier::{Emission, Input as Taken, Made, Part};

use crate::{
    cases::{BEGIN_MS, Case, IN, PARTITIONS, feed, key, nothing, pure, texts},
    chance::Chance,
    checks::{Row, text as utf8},
    world::{Input, World},
};

pub(crate) fn all() -> [Case; 4] {
    [tables(), pairs(), pairs_or_alone(), prices()]
}

const LEFT: Topic<String, String> = Topic::new("left", text(), text());
const RIGHT: Topic<String, String> = Topic::new("right", text(), text());
const JOINED: Topic<String, Option<String>> = Topic::new("joined", text(), nullable(text()));
const LEFTS: KvStore<String, String> = KvStore::new("lefts", text(), text());
const RIGHTS: KvStore<String, String> = KvStore::new("rights", text(), text());

/// Two tables with deletions, one of them restored from its topic, joined: the last result of a key
/// is that of its last rows. The other is compacted, and they come in any order, so nothing else is
/// certain.
fn tables() -> Case {
    let b = StreamsBuilder::new();
    let left = b.table(LEFT, FromTopic(LEFTS));
    let right = b.table(RIGHT, RIGHTS);
    left.join(&right, |l, r| format!("{l}+{r}"))
        .to_stream()
        .to(JOINED);
    let record = |chance: &mut Chance, n: u64| Input {
        topic: if chance.hits(500) {
            LEFT.name()
        } else {
            RIGHT.name()
        },
        key: key(chance),
        value: (!chance.hits(200)).then(|| n.to_string().into()),
        timestamp: n as i64,
    };
    let topics = [
        // Compacted, it could lose a row before the deletion of that is processed.
        (LEFT.name(), false),
        (RIGHT.name(), true),
        (JOINED.name(), false),
    ];
    Case {
        name: "tables",
        feed: feed(b.build(), &topics, record),
        parts: || {
            vec![Part::new(&[LEFT.name(), RIGHT.name()], |_| {
                pure(nothing_known)
            })]
        },
        besides: check_tables,
    }
}

fn nothing_known((): &mut (), _: &Taken<'_>, _: &mut Vec<Made>) {}

fn check_tables(world: &World<'_>) -> Result<(), String> {
    let last = |topic: &str, p: usize| {
        let mut rows: BTreeMap<String, String> = BTreeMap::new();
        for written in &world.records(topic)[p] {
            let Row { key, value, .. } = Row::of(written);
            match written.record.value {
                Some(_) => rows.insert(key, utf8(&value)),
                None => rows.remove(&key),
            };
        }
        rows
    };
    for p in 0..PARTITIONS as usize {
        let (left, right) = (last(LEFT.name(), p), last(RIGHT.name(), p));
        let both = left.iter().filter_map(|(key, l)| {
            let r = right.get(key)?;
            Some((key.clone(), format!("{l}+{r}")))
        });
        let (wanted, got): (BTreeMap<_, _>, _) = (both.collect(), last(JOINED.name(), p));
        if wanted != got {
            return Err(format!("joined-{p} holds {got:?}, expected {wanted:?}"));
        }
    }
    Ok(())
}

const REACH_MS: i64 = 60;
const GRACE_MS: i64 = 40;
/// Buffers hide what is older.
const BUFFERED_MS: i64 = 2 * REACH_MS + GRACE_MS;
const MET: Topic<String, String> = Topic::new("met", text(), text());
const LEFT_BUFFER: WindowStore<String, String> = WindowStore::new("left-buffer", text(), text());
const RIGHT_BUFFER: WindowStore<String, String> = WindowStore::new("right-buffer", text(), text());
const ALONE: KvStore<Bytes, Bytes> = KvStore::new("alone", bytes(), bytes());

/// Both sides of a join from one topic: its offsets decide what comes first.
fn sides(b: &StreamsBuilder) -> (KStream<String, String>, KStream<String, String>) {
    let all = b.stream(IN);
    let left = all.clone().filter(|_, value| value.starts_with('l'));
    (left, all.filter(|_, value| value.starts_with('r')))
}

fn sided(chance: &mut Chance, n: u64) -> Input {
    let side = if chance.hits(500) { 'l' } else { 'r' };
    Input {
        topic: IN.name(),
        key: key(chance),
        value: Some(format!("{side}{n}").into()),
        timestamp: BEGIN_MS + n as i64 * 4 - chance.below(150) as i64,
    }
}

const PAIR_TOPICS: [(&str, bool); 2] = [(IN.name(), false), (MET.name(), false)];

/// Records of two sides that are close in time.
fn pairs() -> Case {
    let b = StreamsBuilder::new();
    let (left, right) = sides(&b);
    let right = right.within(millis(REACH_MS as u64), LEFT_BUFFER, RIGHT_BUFFER);
    let right = right.grace(millis(GRACE_MS as u64));
    left.join(right, |l, r| format!("{l}+{r}")).to(MET);
    Case {
        name: "pairs",
        feed: feed(b.build(), &PAIR_TOPICS, sided),
        parts: || {
            let part = Part::new(&[IN.name()], |_| pure(pair));
            vec![part.writes(MET.name(), Emission::Every)]
        },
        besides: nothing,
    }
}

/// As pairs, and left records that have met nobody when their window has closed.
fn pairs_or_alone() -> Case {
    let b = StreamsBuilder::new();
    let (left, right) = sides(&b);
    let right = right.within(millis(REACH_MS as u64), LEFT_BUFFER, RIGHT_BUFFER);
    let right = right.grace(millis(GRACE_MS as u64)).unmatched(ALONE);
    let show = |l: &String, r: Option<&String>| format!("{l}+{}", r.map_or("", |r| r));
    left.left_join(right, show).to(MET);
    Case {
        name: "pairs or alone",
        feed: feed(b.build(), &PAIR_TOPICS, sided),
        parts: || {
            let part = Part::new(&[IN.name()], |_| pure(pair_or_alone));
            vec![part.writes(MET.name(), Emission::Every)]
        },
        besides: nothing,
    }
}

/// One side of a join: its records with key and time, in the order of their arrival.
#[derive(Default)]
struct Side {
    records: Vec<(String, String, i64)>,
    newest: i64,
}

impl Side {
    fn add(&mut self, key: &str, value: &str, at: i64) {
        self.newest = self.newest.max(at);
        self.records.push((key.to_owned(), value.to_owned(), at));
    }

    /// Those that a record of the other side meets, by time.
    fn met(&self, key: &str, at: i64) -> Vec<(String, i64)> {
        let near = |of: &&(String, String, i64)| {
            of.0 == key && (of.2 - at).abs() <= REACH_MS && of.2 > self.newest - BUFFERED_MS
        };
        let near = self.records.iter().filter(near);
        let mut met: Vec<_> = near.map(|(_, value, at)| (value.clone(), *at)).collect();
        met.sort_by_key(|(_, at)| *at);
        met
    }
}

#[derive(Default)]
struct Join {
    left: Side,
    right: Side,
    now: i64,
    /// Left records that have met nobody yet: time, key and place among those of one time and key.
    alone: BTreeMap<(i64, String, usize), String>,
}

impl Join {
    fn take(&mut self, taken: &Taken<'_>, keeps: bool, made: &mut Vec<Made>) {
        let at = taken.record.timestamp;
        let (key, value) = texts(taken);
        self.now = self.now.max(at);
        if at == self.now {
            self.release(made);
        }
        let is_left = value.starts_with('l');
        let met = match is_left {
            true => self.right.met(&key, at),
            false => self.left.met(&key, at),
        };
        for (other, other_at) in &met {
            let pair = match is_left {
                true => format!("{value}+{other}"),
                false => format!("{other}+{value}"),
            };
            if !is_left {
                self.alone
                    .retain(|(at, of, _), _| (at, of) != (other_at, &key));
            }
            made.push(Made::new(MET.name(), key.clone(), pair, at.max(*other_at)));
        }
        if !is_left {
            return self.right.add(&key, &value, at);
        }
        self.left.add(&key, &value, at);
        if keeps && met.is_empty() {
            let place = (at, key.clone(), self.left.records.len());
            match at >= self.open_from() {
                true => drop(self.alone.insert(place, value)),
                false => made.push(alone(&key, &value, at)),
            }
        }
    }

    /// The first time of left records that can still meet somebody.
    fn open_from(&self) -> i64 {
        self.now - REACH_MS - GRACE_MS
    }

    fn release(&mut self, made: &mut Vec<Made>) {
        let open = (self.open_from(), String::new(), 0);
        let still_open = self.alone.split_off(&open);
        for ((at, key, _), value) in std::mem::replace(&mut self.alone, still_open) {
            made.push(alone(&key, &value, at));
        }
    }
}

fn alone(key: &str, value: &str, at: i64) -> Made {
    Made::new(MET.name(), key.to_owned(), format!("{value}+"), at)
}

fn pair(join: &mut Join, taken: &Taken<'_>, made: &mut Vec<Made>) {
    join.take(taken, false, made);
}

fn pair_or_alone(join: &mut Join, taken: &Taken<'_>, made: &mut Vec<Made>) {
    join.take(taken, true, made);
}

const PRICES: Topic<String, String> = Topic::new("prices", text(), text());
const PRICE: KvStore<String, String> = KvStore::new("price", text(), text());
const SOLD: Topic<String, String> = Topic::new("sold", text(), text());
const PRICED: Topic<String, String> = Topic::new("priced", text(), text());
const PRODUCTS: u64 = 12;

/// A stream joined with a table that every instance has whole. Each key has a value before anything
/// starts; which of its values a record meets only the moment decides.
fn prices() -> Case {
    let b = StreamsBuilder::new();
    let prices = b.global_table(PRICES, PRICE);
    let sold = b.stream(IN).join(
        prices.by(|key: &String, _: &String| Some(key.clone())),
        |n, price| (n.clone(), price.clone()),
    );
    sold.clone().map_values(|_, (n, _)| n).to(SOLD);
    sold.map_values(|_, (n, price)| format!("{n} for {price}"))
        .to(PRICED);
    let record = |chance: &mut Chance, n: u64| {
        let key = match n < PRODUCTS {
            true => format!("k{n}"),
            false => key(chance),
        };
        let is_price = n < PRODUCTS || chance.hits(150);
        Input {
            topic: if is_price { PRICES.name() } else { IN.name() },
            value: Some(match is_price {
                true => format!("{key} at {n}").into(),
                false => n.to_string().into(),
            }),
            key,
            timestamp: n as i64,
        }
    };
    let topics = [
        (IN.name(), false),
        (PRICES.name(), true),
        (SOLD.name(), false),
        (PRICED.name(), false),
    ];
    let mut feed = feed(b.build(), &topics, record);
    feed.first = PRODUCTS;
    Case {
        name: "prices",
        feed,
        parts: || {
            let part = Part::new(&[IN.name()], |_| pure(sell));
            vec![part.writes(SOLD.name(), Emission::Every)]
        },
        besides: check_prices,
    }
}

fn sell((): &mut (), taken: &Taken<'_>, made: &mut Vec<Made>) {
    let (key, n) = texts(taken);
    made.push(Made::new(SOLD.name(), key, n, taken.record.timestamp));
}

/// What was priced is what was sold, each for a price that its key had.
fn check_prices(world: &World<'_>) -> Result<(), String> {
    let (sold, priced) = (world.records(SOLD.name()), world.records(PRICED.name()));
    for p in 0..PARTITIONS as usize {
        let mut due = sold[p].iter().map(Row::of);
        for row in priced[p].iter().map(Row::of) {
            let (key, value) = (row.key.clone(), utf8(&row.value));
            let sold = due.next();
            let fits = sold.is_some_and(|sold| {
                let price = value.strip_prefix(&format!("{} for {key} at ", utf8(&sold.value)));
                let price = price.and_then(|n| n.parse::<u64>().ok());
                let known = price.is_some_and(|n| n < world.fed());
                known && (sold.key, sold.timestamp) == (key, row.timestamp)
            });
            if !fits {
                return Err(format!("priced-{p} holds {row:?}"));
            }
        }
        if let Some(row) = due.next() {
            return Err(format!("priced-{p} lacks {row:?}"));
        }
    }
    Ok(())
}
