//! `InFlight`: the orders that are accepted and not yet processed.
//!
//! They are shown as pending, and a retry with another body is noticed at once. The bound is what
//! keeps a shop that cannot keep up from promising more and more.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::model::{OrderId, PlaceOrder};

/// How long a processed order is remembered: until the store surely shows it.
const SETTLED_KEPT: Duration = Duration::from_secs(10);
/// How long an order may wait before it makes room for others: much longer than any order takes. A
/// repeated command for an order that was processed long ago is never heard of again.
const WAITING_KEPT: Duration = Duration::from_secs(15 * 60);
/// How often a full map is searched for such orders.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// What is known of a request to place an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// It must be appended. Its outcome is to be [told](InFlight::told).
    Append,
    /// The same request is durable already.
    Durable,
    /// Another request has the same key.
    OtherBody,
    /// Too many orders wait to be processed.
    Full,
}

/// The orders that are accepted and not yet processed.
pub(super) struct InFlight {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    orders: HashMap<OrderId, Entry>,
    /// Orders that were processed, oldest first.
    settled: VecDeque<(Instant, OrderId)>,
    searched: Option<Instant>,
}

struct Entry {
    since: Instant,
    place: Arc<PlaceOrder>,
    durable: bool,
    settled: bool,
    /// Appends whose outcome is not known.
    appending: u32,
}

impl InFlight {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics with this lock")
    }

    /// Notes that an order is going to be appended, unless it must not be.
    pub(super) fn begin(&self, id: OrderId, place: &Arc<PlaceOrder>) -> Begin {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.forget(now);
        if let Some(entry) = inner.orders.get_mut(&id) {
            if entry.place.fingerprint != place.fingerprint {
                return Begin::OtherBody;
            }
            if entry.durable {
                return Begin::Durable;
            }
            entry.appending += 1;
            return Begin::Append;
        }
        if inner.waiting() >= self.limit && !inner.make_room(now, self.limit) {
            return Begin::Full;
        }
        inner.orders.insert(
            id,
            Entry {
                appending: 1,
                ..Entry::new(place.clone(), now)
            },
        );
        Begin::Append
    }

    /// Says how an append ended that [`begin`](Self::begin) asked for.
    pub(super) fn told(&self, id: OrderId, durable: bool) {
        let mut inner = self.lock();
        let Some(entry) = inner.orders.get_mut(&id) else {
            return;
        };
        entry.appending = entry.appending.saturating_sub(1);
        entry.durable |= durable;
        if !entry.durable && !entry.settled && entry.appending == 0 {
            inner.orders.remove(&id);
        }
    }

    /// Notes an order that stands in the log and is not processed, as found at the start.
    pub(super) fn found(&self, id: OrderId, place: PlaceOrder) {
        let mut inner = self.lock();
        if inner.waiting() < self.limit {
            let entry = Entry {
                durable: true,
                ..Entry::new(Arc::new(place), Instant::now())
            };
            // The first command for an order counts.
            inner.orders.entry(id).or_insert(entry);
        }
    }

    /// Says that an order was processed: the stores know it from now on.
    pub(super) fn settled(&self, id: OrderId) {
        let mut inner = self.lock();
        let now = Instant::now();
        if let Some(entry) = inner.orders.get_mut(&id)
            && !std::mem::replace(&mut entry.settled, true)
        {
            inner.settled.push_back((now, id));
        }
        inner.forget(now);
    }

    /// The request of an order that was accepted lately.
    pub(super) fn get(&self, id: OrderId) -> Option<Arc<PlaceOrder>> {
        let inner = self.lock();
        inner
            .orders
            .get(&id)
            .filter(|e| e.durable || e.settled)
            .map(|e| e.place.clone())
    }

    /// How many orders wait to be processed.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting()
    }
}

impl Entry {
    fn new(place: Arc<PlaceOrder>, since: Instant) -> Self {
        Self {
            since,
            place,
            durable: false,
            settled: false,
            appending: 0,
        }
    }
}

impl Inner {
    /// True when there is room now.
    fn make_room(&mut self, now: Instant, limit: usize) -> bool {
        let age = |since: Instant| now.saturating_duration_since(since);
        if self.searched.is_none_or(|at| age(at) >= SEARCH_PAUSE) {
            self.searched = Some(now);
            self.orders
                .retain(|_, e| e.settled || e.appending > 0 || age(e.since) < WAITING_KEPT);
        }
        self.waiting() < limit
    }

    fn waiting(&self) -> usize {
        self.orders.len() - self.settled.len()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, id)) = self.settled.front()
            && now.saturating_duration_since(*at) >= SETTLED_KEPT
        {
            self.orders.remove(id);
            self.settled.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{Currency, RequestedLine};

    fn place(fingerprint: u128) -> Arc<PlaceOrder> {
        Arc::new(PlaceOrder {
            customer_id: "ada".parse().expect("legal"),
            currency: Currency::USD,
            lines: vec![RequestedLine {
                sku: "tea".parse().expect("legal"),
                quantity: 1,
            }],
            token: "tok".into(),
            expected_total: None,
            placed_at: 0,
            fingerprint: Uuid::from_u128(fingerprint),
        })
    }

    fn id(n: u128) -> OrderId {
        OrderId(Uuid::from_u128(n))
    }

    #[test]
    fn a_retry_is_the_same_order_and_another_body_is_not() {
        let orders = InFlight::new(10);
        assert_eq!(orders.begin(id(1), &place(1)), Begin::Append);
        assert_eq!(orders.begin(id(1), &place(2)), Begin::OtherBody);
        assert_eq!(
            orders.begin(id(1), &place(1)),
            Begin::Append,
            "the first is not durable yet"
        );
        assert!(orders.get(id(1)).is_none(), "nothing is promised yet");
        orders.told(id(1), true);
        assert_eq!(orders.begin(id(1), &place(1)), Begin::Durable);
        orders.told(id(1), false);
        assert!(orders.get(id(1)).is_some(), "one of two appends is enough");
    }

    #[test]
    fn what_failed_is_forgotten_and_what_is_processed_no_longer_counts() {
        let orders = InFlight::new(1);
        assert_eq!(orders.begin(id(1), &place(1)), Begin::Append);
        orders.told(id(1), false);
        assert_eq!(
            orders.begin(id(1), &place(2)),
            Begin::Append,
            "the key is free again"
        );
        orders.told(id(1), true);
        assert_eq!(orders.begin(id(2), &place(1)), Begin::Full);
        orders.settled(id(1));
        orders.settled(id(1));
        assert_eq!(orders.waiting(), 0);
        assert_eq!(orders.begin(id(2), &place(1)), Begin::Append);
        assert!(
            orders.get(id(1)).is_some(),
            "shown until the store surely has it"
        );
    }
}
