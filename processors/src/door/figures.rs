//! What the door counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use millstream_api::{Figure, FigureKind};

use super::DoorState;

/// Counters of the door since its start.
#[derive(Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    turned_away: AtomicU64,
}

impl Counters {
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn figures(state: &Arc<DoorState>) -> Vec<Figure> {
    let figure = |name: &str, help: &str, kind, read: fn(&DoorState) -> f64| {
        // Figures outlive a door that is dropped.
        let state = Arc::downgrade(state);
        Figure {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            labels: Vec::new(),
            read: Box::new(move || state.upgrade().map_or(0.0, |state| read(&state))),
        }
    };
    let (counter, gauge) = (FigureKind::Counter, FigureKind::Gauge);
    vec![
        figure(
            "shop_orders_accepted_total",
            "Orders that were accepted and are durable.",
            counter,
            |s| s.counters.accepted.load(Ordering::Relaxed) as f64,
        ),
        figure(
            "shop_orders_turned_away_total",
            "Orders that were turned away because of load, or of a log that does not answer.",
            counter,
            |s| s.counters.turned_away.load(Ordering::Relaxed) as f64,
        ),
        figure(
            "shop_orders_in_flight",
            "Orders that are accepted and not yet processed.",
            gauge,
            |s| s.in_flight.waiting() as f64,
        ),
        figure(
            "shop_order_followers",
            "Clients that follow an order.",
            gauge,
            |s| s.feed.followers() as f64,
        ),
        figure("shop_products", "Products in the catalogue.", gauge, |s| {
            s.catalogue.len() as f64
        }),
    ]
}
