//! How old an answer may be, how old it is, and who else can be asked for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use millstream_runtime::StaleView;
use millstream_state::StoreView;
use serde::{Deserialize, Serialize};

use crate::{PeerAnswer, Problem, admin::AdminState};

pub(super) const POSITION: HeaderName = HeaderName::from_static("millstream-position");
pub(super) const ROLE: HeaderName = HeaderName::from_static("millstream-role");
pub(super) const STALE_MS: HeaderName = HeaderName::from_static("millstream-stale-ms");
pub(super) const LAG: HeaderName = HeaderName::from_static("millstream-lag");

/// The value of [`STALE_MS`] where nobody knows.
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// What a request says of how old its answer may be. Without a word only tasks answer, which show
/// what is committed now.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::admin) struct Staleness {
    /// A standby may answer, if it is not older than this.
    max_stale_ms: Option<u64>,
    /// A standby may answer, however old it is.
    stale: Option<bool>,
    /// The only partitions that an instance looks at which another one asks: of the others that
    /// one knows better.
    partitions: Option<String>,
}

/// How old a standby may be that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    UpTo(Duration),
    AnyAge,
}

impl Staleness {
    /// `None` when no standby may answer.
    pub(super) fn allowed(&self) -> Option<Allowed> {
        match (self.stale, self.max_stale_ms) {
            (Some(false), _) | (None, None) => None,
            (_, Some(ms)) => Some(Allowed::UpTo(Duration::from_millis(ms))),
            (Some(true), None) => Some(Allowed::AnyAge),
        }
    }

    /// The partitions that another instance asks for; all when it names none.
    pub(super) fn asks_for(&self, partition: i32) -> bool {
        let Some(partitions) = &self.partitions else {
            return true;
        };
        let mut named = partitions.split(',').map(str::parse);
        named.any(|named| named == Ok(partition))
    }
}

impl Allowed {
    fn admits(self, copy: &StaleView) -> bool {
        match self {
            Self::AnyAge => true,
            Self::UpTo(max) => copy.age.is_some_and(|age| age <= max),
        }
    }

    /// The parameter that says the same to another instance.
    pub(super) fn param(self) -> (&'static str, String) {
        match self {
            Self::AnyAge => ("stale", "true".to_owned()),
            Self::UpTo(max) => ("max_stale_ms", max.as_millis().to_string()),
        }
    }
}

/// Who an answer, or a part of it, is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    /// The task: what is committed now.
    Active,
    /// A standby.
    Standby {
        /// It has all that was committed so long ago; `None` when nobody knows.
        stale_ms: Option<u64>,
        /// How many records it is behind as far as it knows.
        lag: Option<i64>,
    },
}

impl Origin {
    /// That of an answer which is made of both: as old as the older one.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Active, other) | (other, Self::Active) => other,
            (
                Self::Standby {
                    stale_ms: a,
                    lag: b,
                },
                Self::Standby {
                    stale_ms: c,
                    lag: d,
                },
            ) => Self::Standby {
                stale_ms: a.zip(c).map(|(a, c)| a.max(c)),
                lag: b.zip(d).map(|(b, d)| b.max(d)),
            },
        }
    }

    /// What the headers of another instance's answer say.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        match text(ROLE) {
            Some("standby") => Self::Standby {
                stale_ms: text(STALE_MS).and_then(|ms| ms.parse().ok()),
                lag: text(LAG).and_then(|lag| lag.parse().ok()),
            },
            _ => Self::Active,
        }
    }

    /// Tells it in the headers of an answer.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        match self {
            Self::Active => {
                headers.insert(ROLE, HeaderValue::from_static("active"));
                headers.insert(STALE_MS, HeaderValue::from_static("0"));
            }
            Self::Standby { stale_ms, lag } => {
                headers.insert(ROLE, HeaderValue::from_static("standby"));
                headers.insert(STALE_MS, stale_ms.map_or(UNKNOWN, HeaderValue::from));
                if let Some(lag) = lag {
                    headers.insert(LAG, HeaderValue::from(lag));
                }
            }
        }
    }
}

/// A partition of a store that can be read here.
pub(super) struct Source {
    pub(super) partition: i32,
    pub(super) view: StoreView,
    pub(super) origin: Origin,
}

impl Source {
    /// Where it stands, as the header shows it: the changelog offset behind the last record it
    /// reflects.
    pub(super) fn position(&self) -> String {
        format!("{}:{}", self.partition, self.view.position().unwrap_or(0))
    }
}

impl From<StaleView> for Source {
    fn from(copy: StaleView) -> Self {
        // Rounded up: it is not to look younger than it is.
        let ms = |age: Duration| u64::try_from(age.as_micros().div_ceil(1000)).ok();
        Self {
            partition: copy.partition,
            origin: Origin::Standby {
                stale_ms: copy.age.and_then(ms),
                lag: copy.lag,
            },
            view: copy.view,
        }
    }
}

/// The partitions of a store whose tasks are here.
pub(super) fn actives(state: &AdminState, store: &str) -> Result<Vec<Source>, Problem> {
    let views = state.queries.local(store).map_err(Problem::internal)?;
    let source = |(partition, view)| Source {
        partition,
        view,
        origin: Origin::Active,
    };
    Ok(views.into_iter().map(source).collect())
}

/// The partitions of a store that standbys here keep and that are young enough.
pub(super) fn copies(
    state: &AdminState,
    store: &str,
    allowed: Allowed,
) -> Result<Vec<Source>, Problem> {
    let copies = state.queries.copies(store).map_err(Problem::internal)?;
    let admitted = copies.into_iter().filter(|copy| allowed.admits(copy));
    Ok(admitted.map(Source::from).collect())
}

/// What another instance may look at when one asks it: its tasks, and its standbys if the request
/// allows them.
pub(super) fn for_peer(
    state: &AdminState,
    store: &str,
    staleness: &Staleness,
) -> Result<Vec<Source>, Problem> {
    let mut sources = actives(state, store)?;
    if let Some(allowed) = staleness.allowed() {
        let active: BTreeSet<i32> = sources.iter().map(|source| source.partition).collect();
        let copies = copies(state, store, allowed)?.into_iter();
        sources.extend(copies.filter(|copy| !active.contains(&copy.partition)));
    }
    sources.retain(|source| staleness.asks_for(source.partition));
    Ok(sources)
}

/// The standbys of other instances that can be asked for partitions which nobody serves: of each
/// partition the least behind first, each once.
pub(super) struct Hosts<'a> {
    state: &'a AdminState,
    store: &'a str,
    allowed: Allowed,
    asked: BTreeSet<(String, i32)>,
}

impl<'a> Hosts<'a> {
    pub(super) fn new(state: &'a AdminState, store: &'a str, allowed: Allowed) -> Self {
        Self {
            state,
            store,
            allowed,
            asked: BTreeSet::new(),
        }
    }

    /// Whom to ask next for these partitions; nobody when all were asked.
    pub(super) fn next(&mut self, missing: &BTreeSet<i32>) -> Result<Vec<Ask>, Problem> {
        let mut next: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in missing {
            let hosts = self.state.queries.standbys_of(self.store, *partition);
            let endpoints = hosts.map_err(Problem::internal)?.into_iter();
            let mut endpoints = endpoints.filter_map(|host| Some((host.endpoint?, *partition)));
            if let Some(ask) = endpoints.find(|ask| !self.asked.contains(ask)) {
                self.asked.insert(ask.clone());
                next.entry(ask.0).or_default().push(ask.1);
            }
        }
        let ask = |(endpoint, partitions): (String, Vec<i32>)| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            let params = vec![self.allowed.param(), ("partitions", partitions.join(","))];
            Ask { endpoint, params }
        };
        Ok(next.into_iter().map(ask).collect())
    }
}

/// A question to another instance.
pub(super) struct Ask {
    pub(super) endpoint: String,
    /// What the request itself has is to be added.
    pub(super) params: Vec<(&'static str, String)>,
}

impl Ask {
    /// Asks. `None` when the instance does not answer: somebody else may.
    pub(super) async fn send(
        &self,
        state: &AdminState,
        path: &[&str],
        params: &[(&'static str, String)],
    ) -> Option<PeerAnswer> {
        let params = params.iter().chain(&self.params);
        let params: Vec<(&str, &str)> = params.map(|(name, value)| (*name, &**value)).collect();
        let answer = state.peer.get(&self.endpoint, path, &params).await;
        answer.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby(stale_ms: Option<u64>, lag: Option<i64>) -> Origin {
        Origin::Standby { stale_ms, lag }
    }

    #[test]
    fn a_standby_may_answer_only_where_the_request_says_so() {
        let ms = |ms| Some(Allowed::UpTo(Duration::from_millis(ms)));
        for (max_stale_ms, stale, allowed) in [
            (None, None, None),
            (None, Some(false), None),
            (Some(5), Some(false), None),
            (Some(5), None, ms(5)),
            (Some(5), Some(true), ms(5)),
            (Some(0), None, ms(0)),
            (None, Some(true), Some(Allowed::AnyAge)),
        ] {
            let staleness = Staleness {
                max_stale_ms,
                stale,
                partitions: None,
            };
            assert_eq!(staleness.allowed(), allowed, "{staleness:?}");
        }
    }

    #[test]
    fn an_answer_is_as_old_as_its_oldest_part() {
        for (one, other, both) in [
            (Origin::Active, Origin::Active, Origin::Active),
            (
                Origin::Active,
                standby(Some(3), None),
                standby(Some(3), None),
            ),
            (
                standby(Some(3), Some(9)),
                standby(Some(5), Some(2)),
                standby(Some(5), Some(9)),
            ),
            (
                standby(None, Some(1)),
                standby(Some(5), None),
                standby(None, None),
            ),
        ] {
            assert_eq!(one.and(other), both);
            assert_eq!(other.and(one), both);
        }
    }

    #[test]
    fn what_the_headers_say_is_understood_by_another_instance() {
        for origin in [
            Origin::Active,
            standby(None, None),
            standby(Some(7), Some(0)),
        ] {
            let mut headers = HeaderMap::new();
            origin.write(&mut headers);
            assert_eq!(Origin::of(&headers), origin);
        }
    }

    #[test]
    fn another_instance_is_asked_for_certain_partitions() {
        let of = |partitions: Option<&str>| Staleness {
            partitions: partitions.map(str::to_owned),
            ..Staleness::default()
        };
        assert!(of(None).asks_for(4));
        assert!(of(Some("1,4")).asks_for(4) && of(Some("1,4")).asks_for(1));
        assert!(!of(Some("14")).asks_for(4) && !of(Some("")).asks_for(4));
    }
}
