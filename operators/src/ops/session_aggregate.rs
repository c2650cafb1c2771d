//! `aggregate`, `reduce`, `count` of sessions: fold the values of each key as long as no pause
//! between them is longer than the gap.

use std::{rc::Rc, sync::Arc};

use millstream_state::SessionDefinition;
use millstream_topology::{NodeKind, Record, Result, SessionStore, Sessions, Windowed};

use crate::{
    Cx, KTable,
    ops::{
        closing::Closing,
        fold::{Folder, GetterAt, Input, Parts, Place, change, table},
        window_aggregate::{WindowOptions, check_retention, windowed_key},
    },
};

/// Gets the key, the fold so far, `None` before the first session, and a session's fold; returns
/// both in one.
pub(crate) type Merge<K, A> = Arc<dyn Fn(&K, Option<A>, A) -> Result<Option<A>> + Send + Sync>;

/// Folds the records of one input into sessions.
pub(crate) struct SessionFold<K: 'static, A: 'static> {
    place: Place<Windowed<K>, A>,
    store: SessionStore<K, A>,
    windows: Sessions,
    merge: Merge<K, A>,
    /// The sessions to pass on when they close; `None` where every update is passed on.
    closing: Option<Closing>,
}

impl<K: Clone + 'static, A: Clone + 'static> SessionFold<K, A> {
    /// The sessions that the record touches become one, into which it is folded last. Each of them
    /// is deleted, and a tombstone for it goes before the result, with its end as timestamp; only a
    /// session of one instant to which the same instant is added keeps its window, and is updated
    /// in place. The timestamp of a result is the session's end. A record is counted as dropped
    /// when the session that it would make has closed.
    pub(crate) fn add(
        &mut self,
        cx: &mut Cx<'_>,
        record: Record<K, ()>,
        mut step: impl FnMut(&K, Option<A>) -> Result<Option<A>>,
    ) -> Result<()> {
        let close = self.close(cx, &record)?;
        let (key, at) = (&record.key, &record.timestamp);
        let gap = self.windows.gap_ms();
        let (from, to) = (at.saturating_sub(gap), at.saturating_add(gap));
        let found = cx
            .state
            .session(self.place.store, &self.store)
            .find(key, from, to)?;
        let (mut start, mut end, mut so_far) = (*at, *at, None);
        for (first, last, fold) in &found {
            (start, end) = (start.min(*first), end.max(*last));
            so_far = (self.merge)(key, so_far, fold.clone())?;
        }
        if end < close {
            cx.counters.dropped += 1;
            return Ok(());
        }
        let new = step(key, so_far)?;
        let mut replaced = None;
        for (first, last, fold) in found {
            let old = Some(fold).filter(|_| self.place.wants_old());
            match (start, end) == (*at, *at) {
                false => self.put(cx, &record, (first, last), (None, old))?,
                true => replaced = old,
            }
        }
        // As in Kafka Streams, an update in place does not tell what it replaces unless it waits
        // for the commit.
        let old = replaced.filter(|_| self.place.is_held());
        self.put(cx, &record, (start, end), (new, old))
    }

    fn put(
        &mut self,
        cx: &mut Cx<'_>,
        record: &Record<K, ()>,
        (start, end): (i64, i64),
        (new, old): (Option<A>, Option<A>),
    ) -> Result<()> {
        let Self {
            place,
            store,
            closing,
            ..
        } = self;
        if let Some(closing) = closing.as_mut().filter(|_| new.is_some()) {
            closing.add((end, start), &record.key, store.key())?;
        }
        let quiet = place.is_quiet() || closing.is_some();
        let passed_on = if quiet { None } else { new.clone() };
        let mut sessions = cx.state.session(place.store, store);
        sessions.put(&record.key, start, end, new)?;
        if quiet {
            return Ok(());
        }
        let key = record.key.clone();
        let window = Windowed { key, start, end };
        place.pass(cx, change(window, (passed_on, old), end, &record.headers))
    }

    /// Moves the input's time, and passes on what closes by that. Returns the time before which a
    /// session must end to be closed.
    fn close(&mut self, cx: &mut Cx<'_>, record: &Record<K, ()>) -> Result<i64> {
        let (before, now) = self.place.advance(cx, record.timestamp);
        let open_ms = self.windows.retention_ms();
        let closed_before = |time: i64| time.saturating_sub(open_ms);
        let Some(closing) = &mut self.closing else {
            return Ok(closed_before(now));
        };
        let (index, store) = (self.place.store, &self.store);
        closing.load_once(|add| {
            cx.state
                .session(index, store)
                .visit_bounds(&mut |key, start, end| {
                    if end >= closed_before(before) {
                        add(end, start, key);
                    }
                })
        })?;
        while let Some((end, start, key)) = closing.pop_before(closed_before(now), store.key())? {
            let mut sessions = cx.state.session(index, store);
            // Hidden from look-ups since it could be continued no more; merged ones are gone.
            let Some(value) = sessions.get_kept(&key, start, end)? else {
                continue;
            };
            let values = (Some(value), None);
            let change = change(Windowed { key, start, end }, values, end, &record.headers);
            self.place.pass(cx, change)?;
        }
        Ok(closed_before(now))
    }
}

/// One table over all inputs, each of which has a stream time of its own.
pub(crate) fn session_aggregate<K: Clone + 'static, A: Clone + 'static>(
    inputs: Vec<Input<K, A>>,
    windows: Sessions,
    options: WindowOptions,
    store: SessionStore<K, A>,
    merge: Merge<K, A>,
) -> KTable<Windowed<K>, A> {
    let on_close = options.on_close;
    let retention_ms = options.retention_ms.unwrap_or(windows.retention_ms());
    let kind = match inputs.len() {
        1 => NodeKind::SessionAggregate,
        _ => NodeKind::Cogroup,
    };
    let definition = SessionDefinition {
        store,
        retention_ms,
    };
    let made = table(
        inputs,
        Parts {
            kind,
            definition: Arc::new(definition),
            encode: windowed_key(store.key()),
            getter: session_getter(store),
            folder: Arc::new(move |place| {
                Folder::Session(SessionFold {
                    place,
                    store,
                    windows,
                    merge: merge.clone(),
                    closing: on_close.then(Closing::default),
                })
            }),
        },
    );
    let mut draft = made.draft.lock();
    let kept = check_retention(store.name(), retention_ms, windows.retention_ms());
    draft.check_in(made.id, kept);
    // A session may go on for the gap behind its end.
    draft.plan.closes_after(made.id, windows.retention_ms());
    drop(draft);
    made
}

fn session_getter<K: Clone + 'static, A: Clone + 'static>(
    store: SessionStore<K, A>,
) -> GetterAt<Windowed<K>, A> {
    Arc::new(move |index| {
        Rc::new(move |cx: &mut Cx<'_>, key: &Windowed<K>| {
            let found = cx
                .state
                .session(index, &store)
                .get(&key.key, key.start, key.end)?;
            Ok(found.map(|value| (value, key.end)))
        })
    })
}
