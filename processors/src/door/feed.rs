//! `Feed`: the newest events of orders, for those who wait for one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::model::{OrderEvent, OrderId};

/// Bytes of events that are kept; the orders whose first event is oldest are forgotten first.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// What keeping an event costs beside its bytes, about.
const EVENT_OVERHEAD: usize = 96;
/// Those who follow an order at the same time.
const FOLLOWERS_MAX: usize = 10_000;
/// Events that wait for one follower; a slower one is cut off.
const WAITING_EVENTS_MAX: usize = 64;

/// The newest events of orders. Events are kept as they were read: most are never looked at.
#[derive(Default)]
pub(super) struct Feed(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    kept: HashMap<OrderId, Vec<Bytes>>,
    oldest: VecDeque<OrderId>,
    kept_bytes: usize,
    followers: HashMap<OrderId, Vec<(u64, mpsc::Sender<Bytes>)>>,
    followers_count: usize,
    next_follower: u64,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics with this lock")
    }

    /// Takes in an event, in the order of the log.
    pub(super) fn publish(&self, id: OrderId, event: &[u8]) {
        // A copy: what a log hands out is a slice of something much larger.
        let event = Bytes::copy_from_slice(event);
        let inner = &mut *self.lock();
        if let Some(followers) = inner.followers.get_mut(&id) {
            let before = followers.len();
            followers.retain(|(_, follower)| follower.try_send(event.clone()).is_ok());
            inner.followers_count -= before - followers.len();
            if followers.is_empty() {
                inner.followers.remove(&id);
            }
        }
        inner.kept_bytes += event.len() + EVENT_OVERHEAD;
        let events = inner.kept.entry(id).or_default();
        if events.is_empty() {
            inner.oldest.push_back(id);
        }
        events.push(event);
        while inner.kept_bytes > KEPT_BYTES_MAX
            && let Some(id) = inner.oldest.pop_front()
        {
            let forgotten = inner.kept.remove(&id).unwrap_or_default();
            inner.kept_bytes -= forgotten
                .iter()
                .map(|e| e.len() + EVENT_OVERHEAD)
                .sum::<usize>();
        }
    }

    /// Follows an order: the events that are kept, and those to come. `None` when too many follow.
    pub(super) fn follow(self: &Arc<Self>, id: OrderId) -> Option<Following> {
        let (sender, events) = mpsc::channel(WAITING_EVENTS_MAX);
        let inner = &mut *self.lock();
        if inner.followers_count >= FOLLOWERS_MAX {
            return None;
        }
        inner.followers_count += 1;
        inner.next_follower += 1;
        let number = inner.next_follower;
        inner
            .followers
            .entry(id)
            .or_default()
            .push((number, sender));
        let past = inner.kept.get(&id).cloned().unwrap_or_default();
        Some(Following {
            feed: self.clone(),
            id,
            number,
            past: past.into(),
            events,
        })
    }

    /// The newest event of an order, if it is kept.
    pub(super) fn newest(&self, id: OrderId) -> Option<OrderEvent> {
        let newest = self.lock().kept.get(&id)?.last()?.clone();
        decode(&newest)
    }

    /// How many follow an order.
    pub(super) fn followers(&self) -> usize {
        self.lock().followers_count
    }

    fn leave(&self, id: OrderId, number: u64) {
        let inner = &mut *self.lock();
        let Some(followers) = inner.followers.get_mut(&id) else {
            return;
        };
        let before = followers.len();
        followers.retain(|(n, _)| *n != number);
        inner.followers_count -= before - followers.len();
        if followers.is_empty() {
            inner.followers.remove(&id);
        }
    }
}

/// Events that do not decode are dead letters of those who must understand them.
fn decode(event: &[u8]) -> Option<OrderEvent> {
    serde_json::from_slice(event).ok()
}

/// One who follows an order, until dropped.
pub(super) struct Following {
    feed: Arc<Feed>,
    id: OrderId,
    number: u64,
    past: VecDeque<Bytes>,
    events: mpsc::Receiver<Bytes>,
}

impl Following {
    /// The next event; `None` when this follower was too slow.
    pub(super) async fn next(&mut self) -> Option<OrderEvent> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => self.events.recv().await?,
            };
            if let Some(event) = decode(&event) {
                return Some(event);
            }
        }
    }

    /// The next of the events that were there at the beginning.
    pub(super) fn next_past(&mut self) -> Option<OrderEvent> {
        while let Some(event) = self.past.pop_front() {
            if let Some(event) = decode(&event) {
                return Some(event);
            }
        }
        None
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.feed.leave(self.id, self.number);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> OrderId {
        OrderId(Uuid::from_u128(n))
    }

    #[test]
    fn followers_leave_and_slow_ones_are_cut_off() {
        let feed = Arc::new(Feed::default());
        let gone = feed.follow(id(1)).expect("room");
        let mut slow = feed.follow(id(1)).expect("room");
        assert_eq!(feed.followers(), 2);
        drop(gone);
        assert_eq!(feed.followers(), 1);
        for _ in 0..=WAITING_EVENTS_MAX {
            feed.publish(id(1), b"{}");
        }
        assert_eq!(feed.followers(), 0);
        let mut waiting = 0;
        while slow.events.try_recv().is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, WAITING_EVENTS_MAX);
        assert_eq!(
            slow.events.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
        drop(slow);
        assert_eq!(feed.followers(), 0);
    }

    #[test]
    fn the_oldest_orders_are_forgotten_when_too_much_is_kept() {
        let feed = Arc::new(Feed::default());
        let event = vec![b' '; 1 << 20];
        for n in 0..32 {
            feed.publish(id(n), &event);
        }
        let inner = feed.lock();
        assert!(inner.kept_bytes <= KEPT_BYTES_MAX);
        assert_eq!(inner.kept.len(), inner.oldest.len());
        assert!(inner.kept.contains_key(&id(31)) && !inner.kept.contains_key(&id(0)));
    }
}
