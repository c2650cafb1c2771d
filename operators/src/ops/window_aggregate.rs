//! `aggregate`, `reduce`, `count` of tumbling, hopping and unlimited windows: fold the values of
//! each key and window.

use std::{rc::Rc, sync::Arc};

use millstream_state::WindowDefinition;
use millstream_topology::{
    BoxError, Error, ErrorKind, NodeKind, Record, Result, Serde, TimeWindows, Unlimited,
    WindowStore, Windowed,
};

use crate::{
    Cx, KTable,
    ops::{
        closing::Closing,
        fold::{Folder, GetterAt, Input, Parts, Place, change, table},
        held::EncodeKey,
    },
};

/// Windows that lie fast in time, whatever the records.
#[derive(Clone, Copy)]
pub(crate) enum Frames {
    Time(TimeWindows),
    Unlimited(Unlimited),
}

impl Frames {
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Time(windows) => windows.check(),
            Self::Unlimited(windows) => windows.check(),
        }
    }

    pub(crate) fn grace_ms(&self) -> i64 {
        match self {
            Self::Time(windows) => windows.grace_ms(),
            Self::Unlimited(_) => 0,
        }
    }

    pub(crate) fn retention_ms(&self) -> i64 {
        match self {
            Self::Time(windows) => windows.retention_ms(),
            Self::Unlimited(_) => i64::MAX,
        }
    }

    /// Length of a window.
    fn size_ms(&self) -> i64 {
        match self {
            Self::Time(windows) => windows.size_ms(),
            Self::Unlimited(_) => i64::MAX,
        }
    }

    /// Calls `visit` with start and end of each window that a time lies in, by start.
    fn visit(&self, timestamp: i64, mut visit: impl FnMut(i64, i64) -> Result<()>) -> Result<()> {
        match self {
            Self::Time(windows) => {
                let size = windows.size_ms();
                let mut starts = windows.starts(timestamp);
                starts.try_for_each(|start| visit(start, start + size))
            }
            Self::Unlimited(windows) if timestamp >= windows.start_ms() => {
                visit(windows.start_ms(), Unlimited::END_MS)
            }
            Self::Unlimited(_) => Ok(()),
        }
    }
}

/// Folds the records of one input into tumbling, hopping or unlimited windows.
pub(crate) struct WindowFold<K: 'static, A: 'static> {
    place: Place<Windowed<K>, A>,
    store: WindowStore<K, A>,
    frames: Frames,
    /// The windows to pass on when they close; `None` where every update is passed on.
    closing: Option<Closing>,
}

impl<K: Clone + 'static, A: Clone + 'static> WindowFold<K, A> {
    /// The windows of one record are updated by start, ascending. Each that has closed is counted
    /// as dropped. The time of an input lives with the store, so that a restart does not reopen
    /// windows.
    pub(crate) fn add(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<K, ()>,
        mut step: impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        let now = self.close(cx, &record)?;
        let close = now - self.frames.grace_ms();
        let Record {
            key,
            timestamp,
            headers,
            ..
        } = record;
        let (place, store, closing) = (&self.place, &self.store, &mut self.closing);
        let (with_old, quiet) = (place.wants_old(), place.is_quiet() || closing.is_some());
        self.frames.visit(timestamp, |start, end| {
            if end <= close {
                cx.counters.dropped += 1;
                return Ok(());
            }
            let mut windows = cx.state.window(place.store, store);
            let (values, newest, is_new) = windows.update(&key, start, |slot| {
                let (old, newest) = match slot.clone() {
                    Some((old, at)) => (Some(old), timestamp.max(at)),
                    None => (None, timestamp),
                };
                let before = with_old.then(|| old.clone()).flatten();
                let was_absent = old.is_none();
                let new = step(&key, old)?;
                let passed_on = if quiet { None } else { new.clone() };
                let is_new = was_absent && new.is_some();
                *slot = new.map(|new| (new, newest));
                Ok(((passed_on, before), newest, is_new))
            })?;
            match closing {
                Some(closing) if is_new => closing.add((start, 0), &key, store.key()),
                Some(_) => Ok(()),
                None if quiet => Ok(()),
                None => {
                    let key = key.clone();
                    place.pass(
                        cx,
                        change(Windowed { key, start, end }, values, newest, &headers),
                    )
                }
            }
        })
    }

    /// Moves the input's time, and passes on what closes by that: before the record is folded, so
    /// that no jump of time hides windows that nobody has seen yet. None of its own windows is
    /// among them.
    fn close(&mut self, cx: &mut Cx<'_>, record: &Record<K, ()>) -> Result<i64> {
        let (before, now) = self.place.advance(cx, record.timestamp);
        let Some(closing) = &mut self.closing else {
            return Ok(now);
        };
        // The first start that is still open at a time.
        let (size, grace) = (self.frames.size_ms(), self.frames.grace_ms());
        let first_open = |time: i64| time.saturating_sub(grace).saturating_sub(size - 1);
        let (index, store) = (self.place.store, &self.store);
        closing.load_once(|add| {
            cx.state
                .window(index, store)
                .visit_starts(&mut |key, start| {
                    if start >= first_open(before) {
                        add(start, 0, key);
                    }
                })
        })?;
        while let Some((start, _, key)) = closing.pop_before(first_open(now), store.key())? {
            let Some((value, at)) = cx.state.window(index, store).get(&key, start)? else {
                continue;
            };
            let window = Windowed {
                key,
                start,
                end: start + size,
            };
            let values = (Some(value), None);
            self.place
                .pass(cx, change(window, values, at, &record.headers))?;
        }
        Ok(now)
    }
}

/// How an aggregation in windows is to be made.
#[derive(Clone, Copy, Default)]
pub(crate) struct WindowOptions {
    /// How long windows are kept, where the user says so.
    pub(crate) retention_ms: Option<i64>,
    /// True when results are passed on once, when their window has closed.
    pub(crate) on_close: bool,
}

/// One table over all inputs, each of which has a stream time of its own.
pub(crate) fn window_aggregate<K: Clone + 'static, A: Clone + 'static>(
    inputs: Vec<Input<K, A>>,
    frames: Frames,
    options: WindowOptions,
    store: WindowStore<K, A>,
) -> KTable<Windowed<K>, A> {
    let WindowOptions {
        retention_ms,
        on_close,
    } = options;
    let definition = WindowDefinition {
        store,
        retention_ms: retention_ms.unwrap_or(frames.retention_ms()),
        duplicates: false,
    };
    let retention_ms = definition.retention_ms;
    let kind = match inputs.len() {
        1 => NodeKind::WindowAggregate,
        _ => NodeKind::Cogroup,
    };
    let made = table(
        inputs,
        Parts {
            kind,
            definition: Arc::new(definition),
            encode: windowed_key(store.key()),
            getter: window_getter(store),
            folder: Arc::new(move |place| {
                Folder::Window(WindowFold {
                    place,
                    store,
                    frames,
                    closing: on_close.then(Closing::default),
                })
            }),
        },
    );
    let mut draft = made.draft.lock();
    draft.check_in(made.id, frames.check());
    if on_close && matches!(frames, Frames::Unlimited(_)) {
        let what = "unlimited windows never close, so they cannot emit on close; leave \
                    `emit_on_close` out";
        draft.refuse(made.id, what);
    }
    let kept = check_retention(store.name(), retention_ms, frames.retention_ms());
    draft.check_in(made.id, kept);
    draft.plan.closes_after(made.id, frames.grace_ms());
    drop(draft);
    made
}

/// Looks windows up in their store.
pub(crate) fn window_getter<K: Clone + 'static, A: Clone + 'static>(
    store: WindowStore<K, A>,
) -> GetterAt<Windowed<K>, A> {
    Arc::new(move |index| {
        Rc::new(move |cx: &mut Cx<'_>, key: &Windowed<K>| {
            cx.state.window(index, &store).get(&key.key, key.start)
        })
    })
}

/// Writes a windowed key: the key, then start and end.
pub(crate) fn windowed_key<K: 'static>(serde: Serde<K>) -> EncodeKey<Windowed<K>> {
    Arc::new(move |key, out| -> Result<bool, BoxError> {
        serde.encode(&key.key, out)?;
        out.extend_from_slice(&key.start.to_be_bytes());
        out.extend_from_slice(&key.end.to_be_bytes());
        Ok(true)
    })
}

/// Refuses a store that would forget windows which still take records.
pub(crate) fn check_retention(store: &str, retention_ms: i64, least_ms: i64) -> Result<()> {
    if retention_ms >= least_ms {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Topology,
        format!(
            "a store keeps its windows for less than they are open; let `retain` have at least \
             what they need, or leave it out. store=`{store}`, retention_ms={retention_ms}, \
             least_ms={least_ms}"
        ),
    ))
}
