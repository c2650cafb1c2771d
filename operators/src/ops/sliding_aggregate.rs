//! `aggregate`, `reduce`, `count` of sliding windows: fold the values of each key that lie no
//! further apart than the difference.

use std::sync::Arc;

use millstream_state::WindowDefinition;
use millstream_topology::{Headers, NodeKind, Record, Result, Sliding, WindowStore, Windowed};

use crate::{
    Cx, KTable,
    ops::{
        closing::Closing,
        fold::{Folder, Input, Parts, Place, change, table},
        window_aggregate::{WindowOptions, check_retention, window_getter, windowed_key},
    },
};

/// A stored window: its start, its fold, and the greatest time of its records.
#[derive(Clone)]
struct Found<A> {
    start: i64,
    fold: A,
    newest: i64,
}

/// A record whose windows are being changed.
struct Arrival<'r, K> {
    key: &'r K,
    at: i64,
    headers: &'r Headers,
    /// Windows that end before it are closed.
    close: i64,
}

/// Folds the records of one input into sliding windows.
pub(crate) struct SlidingFold<K: 'static, A: 'static> {
    place: Place<Windowed<K>, A>,
    store: WindowStore<K, A>,
    windows: Sliding,
    /// The windows to pass on when they close; `None` where every update is passed on.
    closing: Option<Closing>,
}

impl<K: Clone + 'static, A: Clone + 'static> SlidingFold<K, A> {
    /// A record at `t` belongs to every window `[s, s + difference]` around it. It makes the one
    /// that ends with it, `[t - difference, t]`; the one right behind the record before it, if that
    /// holds it; and the one right behind itself, if there are later records. Times below the
    /// difference share the window `[0, difference]`.
    ///
    /// Each closed window that it would have changed is counted as dropped, or the record once if
    /// all of them have closed.
    pub(crate) fn add(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<K, ()>,
        mut step: impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        let close = self.close(cx, &record)?;
        let (at, difference) = (record.timestamp, self.windows.difference_ms());
        if at + difference < close {
            cx.counters.dropped += 1;
            return Ok(());
        }
        let (key, headers) = (&record.key, &record.headers);
        let arrival = Arrival {
            key,
            at,
            headers,
            close,
        };
        let found = self.around(cx, &arrival)?;
        match at < difference {
            true => self.add_early(cx, &arrival, &found, &mut step),
            false => self.add_later(cx, &arrival, &found, &mut step),
        }
    }

    /// The windows that the record may belong to, and those that tell of the record before it and
    /// of later ones, by start.
    fn around(&mut self, cx: &mut Cx<'_>, arrival: &Arrival<'_, K>) -> Result<Vec<Found<A>>> {
        let from = arrival.at.saturating_sub(2 * self.windows.difference_ms());
        let to = arrival.at.saturating_add(1);
        let mut found = Vec::new();
        let mut windows = cx.state.window(self.place.store, &self.store);
        windows.fetch(arrival.key, from.max(0), to, &mut |start, fold, newest| {
            let fold = fold.clone();
            found.push(Found {
                start,
                fold,
                newest,
            });
            Ok(())
        })?;
        Ok(found)
    }

    /// Changes, in this order: the windows that hold the record, from the latest start to the
    /// earliest; the window behind the record before it; the window that ends with it; the window
    /// behind it.
    fn add_later(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival<'_, K>,
        found: &[Found<A>],
        step: &mut impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        let (at, difference) = (arrival.at, self.windows.difference_ms());
        // The latest window around the record has the later records in it, if there are any.
        let mut later: Option<&Found<A>> = None;
        let (mut has_left, mut has_right) = (false, false);
        // The record before this one, and the fold of the last window that ends before this one.
        let (mut previous, mut left) = (None, None);
        for window in found.iter().rev() {
            let end = window.start + difference;
            if window.start == at + 1 {
                has_right = true;
            } else if end >= at {
                self.update(
                    cx,
                    arrival,
                    window.start,
                    Some(window),
                    Some(&window.fold),
                    step,
                )?;
                if end > at {
                    later = later.or(Some(window));
                    continue;
                }
                has_left = true;
                if window.newest >= at {
                    // A record of the same time has made all windows already.
                    return Ok(());
                }
                previous = Some(window.newest);
            } else {
                previous = Some(window.newest);
                left = Some(window);
                break;
            }
        }
        if let Some(previous) = previous {
            let start = previous + 1;
            let is_new = found.iter().all(|window| window.start != start);
            // It may be the one that ends with this record: then it is made here and made again
            // below, both times passed on, as Kafka Streams does.
            if is_new && start + difference >= at {
                self.update(cx, arrival, start, None, None, step)?;
            }
        }
        if !has_left {
            let holds_previous = previous.is_some_and(|previous| previous >= at - difference);
            let fold = left.filter(|_| holds_previous).map(|window| &window.fold);
            self.update(cx, arrival, at - difference, None, fold, step)?;
        }
        match later {
            Some(later) if !has_right && later.newest > at => self.add_right(cx, arrival, later),
            Some(_) | None => Ok(()),
        }
    }

    /// For a time below the difference. Changes, in this order: the windows that hold the record,
    /// by start, but the first; the window behind it; the window behind the record before it; last
    /// the first window, `[0, difference]`.
    fn add_early(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival<'_, K>,
        found: &[Found<A>],
        step: &mut impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        let at = arrival.at;
        let first = found.first().filter(|window| window.start == 0);
        let previous = first
            .map(|window| window.newest)
            .filter(|newest| *newest < at);
        let mut later: Option<&Found<A>> = None;
        for window in found
            .iter()
            .filter(|window| (1..=at).contains(&window.start))
        {
            later = Some(window);
            self.update(
                cx,
                arrival,
                window.start,
                Some(window),
                Some(&window.fold),
                step,
            )?;
        }
        // Without a window in between, what is later in the first window is later than this record.
        let later = later.or(first.filter(|window| window.newest > at));
        let has = |start: i64| found.iter().any(|window| window.start == start);
        if let Some(later) = later.filter(|later| later.newest > at && !has(at + 1)) {
            self.add_right(cx, arrival, later)?;
        }
        if let Some(previous) = previous.filter(|previous| !has(previous + 1)) {
            self.update(cx, arrival, previous + 1, None, None, step)?;
        }
        self.update(
            cx,
            arrival,
            0,
            first,
            first.map(|window| &window.fold),
            step,
        )
    }

    /// Folds the record into the window that begins at `start`, which is stored as `stored`. Its
    /// fold goes on from `fold`.
    fn update(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival<'_, K>,
        start: i64,
        stored: Option<&Found<A>>,
        fold: Option<&A>,
        step: &mut impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        if start + self.windows.difference_ms() < arrival.close {
            cx.counters.dropped += 1;
            return Ok(());
        }
        let new = step(arrival.key, fold.cloned())?;
        let newest = stored.map_or(arrival.at, |stored| stored.newest.max(arrival.at));
        self.put(
            cx,
            arrival,
            start,
            (new, fold.cloned()),
            newest,
            stored.is_none(),
        )
    }

    /// The window behind the record: what is later than it.
    fn add_right(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival<'_, K>,
        later: &Found<A>,
    ) -> Result<()> {
        let fold = (Some(later.fold.clone()), None);
        self.put(cx, arrival, arrival.at + 1, fold, later.newest, true)
    }

    /// Keeps a window and passes it on, with the fold that it went on from as its old value. Of a
    /// new window that ends with the record this is the fold of the window before, as in Kafka
    /// Streams.
    fn put(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival<'_, K>,
        start: i64,
        (new, old): (Option<A>, Option<A>),
        newest: i64,
        is_new: bool,
    ) -> Result<()> {
        let Self {
            place,
            store,
            closing,
            windows,
        } = self;
        let quiet = place.is_quiet() || closing.is_some();
        let passed_on = if quiet { None } else { new.clone() };
        if let Some(closing) = closing.as_mut().filter(|_| is_new && new.is_some()) {
            closing.add((start, 0), arrival.key, store.key())?;
        }
        let mut kept = cx.state.window(place.store, store);
        kept.put(arrival.key, start, new, newest)?;
        if quiet {
            return Ok(());
        }
        let old = old.filter(|_| place.wants_old());
        let window = Windowed {
            key: arrival.key.clone(),
            start,
            end: start + windows.difference_ms(),
        };
        place.pass(
            cx,
            change(window, (passed_on, old), newest, arrival.headers),
        )
    }

    /// Moves the input's time, and passes on what closes by that. Returns the time before which a
    /// window must end to be closed.
    fn close(&mut self, cx: &mut Cx<'_>, record: &Record<K, ()>) -> Result<i64> {
        let (before, now) = self.place.advance(cx, record.timestamp);
        let grace = self.windows.grace_ms();
        let Some(closing) = &mut self.closing else {
            return Ok(now - grace);
        };
        // The first start that is still open at a time.
        let difference = self.windows.difference_ms();
        let first_open = |time: i64| time.saturating_sub(grace).saturating_sub(difference);
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
            let end = start + difference;
            let values = (Some(value), None);
            let change = change(Windowed { key, start, end }, values, at, &record.headers);
            self.place.pass(cx, change)?;
        }
        Ok(now - grace)
    }
}

/// One table over all inputs, each of which has a stream time of its own.
pub(crate) fn sliding_aggregate<K: Clone + 'static, A: Clone + 'static>(
    inputs: Vec<Input<K, A>>,
    windows: Sliding,
    options: WindowOptions,
    store: WindowStore<K, A>,
) -> KTable<Windowed<K>, A> {
    let on_close = options.on_close;
    let retention_ms = options.retention_ms.unwrap_or(windows.retention_ms());
    let kind = match inputs.len() {
        1 => NodeKind::SlidingAggregate,
        _ => NodeKind::Cogroup,
    };
    let definition = WindowDefinition {
        store,
        retention_ms,
        duplicates: false,
    };
    let made = table(
        inputs,
        Parts {
            kind,
            definition: Arc::new(definition),
            encode: windowed_key(store.key()),
            getter: window_getter(store),
            folder: Arc::new(move |place| {
                Folder::Sliding(SlidingFold {
                    place,
                    store,
                    windows,
                    closing: on_close.then(Closing::default),
                })
            }),
        },
    );
    let mut draft = made.draft.lock();
    draft.check_in(made.id, windows.check());
    let kept = check_retention(store.name(), retention_ms, windows.retention_ms());
    draft.check_in(made.id, kept);
    draft.plan.closes_after(made.id, windows.grace_ms());
    drop(draft);
    made
}
