//! Small applications, each with what must come out of them, computed without the engine: by the
//! verifier where the committed input decides it, by checks of their own where it does not.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_operators::Topology;
use millstream_runtime::{ErrorPolicy, Policies};
use millstream_topology::{Result, Topic, text, u64_be};
use millstream_verifier::{Engine, Input as Taken, Made, Part, Pure, State};

use crate::{
    aggregates,
    chance::Chance,
    checks::text as utf8,
    joins, timers,
    world::{APP, Feed, Input, World},
};

/// An application and what must come out.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) feed: Feed,
    /// What its tasks must make of the committed input.
    pub(crate) parts: fn() -> Vec<Part<'static>>,
    /// What its input does not decide.
    pub(crate) besides: fn(&World<'_>) -> Result<(), String>,
}

/// Partitions of all topics.
pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const IN: Topic<String, String> = Topic::new("in", text(), text());
pub(crate) const OUT: Topic<String, u64> = Topic::new("out", text(), u64_be());
pub(crate) const DEAD: &str = "dead";
/// Older records would be deleted from changelogs, as their windows' retention has passed.
pub(crate) const BEGIN_MS: i64 = 1_700_000_000_000;

pub(crate) fn all() -> Vec<Case> {
    let aggregates = aggregates::all().into_iter();
    aggregates
        .chain(joins::all())
        .chain(timers::all())
        .collect()
}

impl Case {
    /// Whether the log holds what it must.
    pub(crate) fn judge(&self, world: &World<'_>) -> Result<(), String> {
        let parts = (self.parts)().into_iter();
        let engine = parts.fold(Engine::new(APP), Engine::part).has_read_all(0);
        let report = engine.verify(&world.log.client("verifier"), Vec::new());
        let report = report.map_err(|error| error.to_string())?;
        if let Some(row) = report.broken().next() {
            return Err(format!("{}: {:?}", row.promise, row.examples));
        }
        if let Some(why) = report.rows.iter().find_map(|row| row.bounded.as_ref()) {
            return Err(format!("not everything could be looked at: {why}"));
        }
        (self.besides)(world)
    }
}

pub(crate) fn nothing(_: &World<'_>) -> Result<(), String> {
    Ok(())
}

pub(crate) fn key(chance: &mut Chance) -> String {
    format!("k{}", chance.below(12))
}

/// What an application is to do that writes to `out` topics only, and sets aside what fails.
pub(crate) fn feed(
    topology: Result<Topology>,
    topics: &[(&'static str, bool)],
    record: fn(&mut Chance, u64) -> Input,
) -> Feed {
    let dead = [(DEAD, false)];
    Feed {
        partitions: PARTITIONS,
        topology: topology.expect("builds"),
        topics: topics.iter().chain(&dead).copied().collect(),
        policies: Policies {
            decode: ErrorPolicy::DeadLetter,
            process: ErrorPolicy::DeadLetter,
            produce: ErrorPolicy::DeadLetter,
            dead_letter_topic: Some(DEAD),
        },
        first: 0,
        purges: false,
        record,
    }
}

/// The reference of one part: a state that begins anew for each task, and what each record does.
pub(crate) fn pure<S: Default + 'static>(
    step: fn(&mut S, &Taken<'_>, &mut Vec<Made>),
) -> Pure<S, fn(&mut S, &Taken<'_>, &mut Vec<Made>)> {
    Pure::new(S::default(), step)
}

/// Key and value of a record as text.
pub(crate) fn texts(taken: &Taken<'_>) -> (String, String) {
    let text = |bytes: &Option<Bytes>| utf8(bytes.as_deref().unwrap_or_default());
    (text(&taken.record.key), text(&taken.record.value))
}

/// Figures by key, each with a time.
pub(crate) type Figures = BTreeMap<String, (u64, i64)>;

/// Adds to a figure; its time is the greatest of those added.
pub(crate) fn add(figures: &mut Figures, key: &str, more: u64, time: i64) -> (u64, i64) {
    let (figure, latest) = figures.entry(key.to_owned()).or_insert((0, time));
    *figure += more;
    *latest = time.max(*latest);
    (*figure, *latest)
}

/// A store of such figures.
pub(crate) fn stored(figures: &Figures) -> State {
    let entry = |(key, (figure, time)): (&String, &(u64, i64))| {
        let value = Bytes::from(figure.to_be_bytes().to_vec());
        (Bytes::from(key.clone()), (value, *time))
    };
    figures.iter().map(entry).collect()
}

/// A figure that goes to [`OUT`].
pub(crate) fn told(key: &str, (figure, time): (u64, i64)) -> Made {
    Made::new(
        OUT.name(),
        key.to_owned(),
        figure.to_be_bytes().to_vec(),
        time,
    )
}
