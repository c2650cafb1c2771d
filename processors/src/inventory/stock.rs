//! The rules of stock as pure functions: stock and command in, stock and event out.
//!
//! Invariant: `0 <= reserved <= on_hand` and `0 <= sold` before and after every command.
//! Invariant: a command that came before changes nothing when it comes again.
//! Invariant: a reserve is answered once, at once or, where the catalogue does not have the
//! product, when it was given time to arrive. Invariant: a release that overtakes its reserve
//! leaves a mark, and the reserve is refused.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    Currency, InventoryChange, InventoryEvent, ON_HAND_MAX, OrderId, Product, Refusal, Stock,
};

/// What inventory knows of a product's entry in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Its name.
    pub name: Arc<str>,
    /// Price of one piece, in minor units.
    pub unit_price: i64,
    /// Of the price.
    pub currency: Currency,
}

impl From<Product> for Listing {
    fn from(product: Product) -> Self {
        Self {
            name: product.name,
            unit_price: product.price,
            currency: product.currency,
        }
    }
}

/// What an order and a product have to do with each other, as the store `reservations` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// How many pieces; 0 when a release came first.
    pub quantity: u32,
    /// Where it stands.
    pub state: ReservationState,
    /// When it last changed, in epoch milliseconds.
    pub since_ms: i64,
    /// The price that the order was told, in minor units, and its currency.
    pub price: Option<(i64, Currency)>,
}

/// Where a [`Reservation`] stands. Only `Held` pieces are part of [`Stock::reserved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReservationState {
    /// The order has asked, and the catalogue does not have the product yet: its entry, written
    /// before the order, may come through its own topic a moment later.
    Asked,
    /// The pieces are held.
    Held,
    /// They are sold.
    Confirmed,
    /// They were sold and are back.
    Restocked,
    /// They are available again, or the release came before the reserve.
    Released,
    /// There were not enough.
    OutOfStock,
    /// The catalogue did not have the product.
    UnknownProduct,
}

/// A command about the pieces of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForOrder {
    /// Hold that many.
    Reserve(u32),
    /// The catalogue had time enough: answer the reserve that waits for it.
    Decide,
    /// Do not hold them.
    Release,
    /// They are sold.
    Confirm,
    /// That many came back.
    Restock(u32),
}

/// What becomes of stock and reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The stock from now on.
    pub stock: Stock,
    /// The reservation from now on.
    pub reservation: Option<Reservation>,
    /// What is to be told; none when nothing happened.
    pub event: Option<InventoryEvent>,
}

/// Takes one command of an order about a product.
pub fn apply(
    stock: Stock,
    reservation: Option<Reservation>,
    listing: Option<&Listing>,
    order_id: OrderId,
    command: ForOrder,
    now_ms: i64,
) -> Outcome {
    assert!(stock.adds_up(), "stock adds up before a command: {stock:?}");
    let line = Line {
        stock,
        reservation,
        order_id,
        now_ms,
    };
    let outcome = match command {
        ForOrder::Reserve(quantity) => line.reserve(quantity, listing),
        ForOrder::Decide => line.decide(listing),
        ForOrder::Release => line.release(),
        ForOrder::Confirm => line.confirm(),
        ForOrder::Restock(quantity) => line.restock(quantity),
    };
    assert!(
        outcome.stock.adds_up(),
        "stock adds up after a command: {:?}",
        outcome.stock
    );
    outcome
}

/// Stock of one product and what it has to do with one order.
struct Line {
    stock: Stock,
    reservation: Option<Reservation>,
    order_id: OrderId,
    now_ms: i64,
}

impl Line {
    fn reserve(self, quantity: u32, listing: Option<&Listing>) -> Outcome {
        use ReservationState as S;
        let present = match (self.reservation, listing) {
            (None, None) => return self.wait_for_listing(quantity),
            (Some(present), None) if present.state == S::Asked => return self.unchanged(),
            (Some(present), Some(_)) if present.state == S::Asked => return self.decide(listing),
            (None, Some(_)) => return self.answer(quantity, listing),
            (Some(present), _) => present,
        };
        // It was asked before, or released before it was asked: the same answer again.
        let order_id = self.order_id;
        let refused = |refusal| InventoryChange::Refused {
            order_id,
            quantity,
            refusal,
        };
        let change = match (present.state, present.price) {
            (S::Held | S::Confirmed | S::Restocked, Some((unit_price, currency))) => {
                let name = listing.map_or_else(Arc::default, |listing| listing.name.clone());
                let quantity = present.quantity;
                InventoryChange::Reserved {
                    order_id,
                    quantity,
                    name,
                    unit_price,
                    currency,
                }
            }
            (S::OutOfStock, _) => refused(Refusal::OutOfStock),
            (S::UnknownProduct, _) => refused(Refusal::UnknownProduct),
            (S::Released | S::Asked | S::Held | S::Confirmed | S::Restocked, _) => {
                refused(Refusal::Released)
            }
        };
        let event = Some(InventoryEvent {
            change,
            stock: self.stock,
        });
        Outcome {
            stock: self.stock,
            reservation: self.reservation,
            event,
        }
    }

    fn wait_for_listing(self, quantity: u32) -> Outcome {
        let asked = Reservation {
            quantity,
            state: ReservationState::Asked,
            since_ms: self.now_ms,
            price: None,
        };
        Outcome {
            stock: self.stock,
            reservation: Some(asked),
            event: None,
        }
    }

    fn decide(self, listing: Option<&Listing>) -> Outcome {
        match self.reservation {
            Some(asked) if asked.state == ReservationState::Asked => {
                self.answer(asked.quantity, listing)
            }
            Some(_) | None => self.unchanged(),
        }
    }

    fn answer(mut self, quantity: u32, listing: Option<&Listing>) -> Outcome {
        let order_id = self.order_id;
        let refused = |refusal| InventoryChange::Refused {
            order_id,
            quantity,
            refusal,
        };
        let (state, price, change) = match listing {
            None => (
                ReservationState::UnknownProduct,
                None,
                refused(Refusal::UnknownProduct),
            ),
            Some(_) if self.stock.available() < i64::from(quantity) => (
                ReservationState::OutOfStock,
                None,
                refused(Refusal::OutOfStock),
            ),
            Some(Listing {
                name,
                unit_price,
                currency,
            }) => {
                self.stock.reserved += i64::from(quantity);
                self.stock.version += 1;
                let (name, unit_price, currency) = (name.clone(), *unit_price, *currency);
                let change = InventoryChange::Reserved {
                    order_id,
                    quantity,
                    name,
                    unit_price,
                    currency,
                };
                (ReservationState::Held, Some((unit_price, currency)), change)
            }
        };
        let reservation = Reservation {
            quantity,
            state,
            since_ms: self.now_ms,
            price,
        };
        Outcome {
            stock: self.stock,
            reservation: Some(reservation),
            event: Some(InventoryEvent {
                change,
                stock: self.stock,
            }),
        }
    }

    fn release(mut self) -> Outcome {
        let order_id = self.order_id;
        match self.reservation {
            Some(held) if held.state == ReservationState::Held => {
                self.stock.reserved -= i64::from(held.quantity);
                let change = InventoryChange::Released {
                    order_id,
                    quantity: held.quantity,
                };
                self.settled(held, ReservationState::Released, change)
            }
            // Settled one way or the other.
            Some(other) if other.state != ReservationState::Asked => self.unchanged(),
            Some(_) | None => {
                let mark = Reservation {
                    quantity: 0,
                    state: ReservationState::Released,
                    since_ms: self.now_ms,
                    price: None,
                };
                Outcome {
                    stock: self.stock,
                    reservation: Some(mark),
                    event: None,
                }
            }
        }
    }

    fn confirm(mut self) -> Outcome {
        let order_id = self.order_id;
        match self.reservation {
            Some(held) if held.state == ReservationState::Held => {
                let pieces = i64::from(held.quantity);
                self.stock.reserved -= pieces;
                self.stock.on_hand -= pieces;
                self.stock.sold += pieces;
                let change = InventoryChange::Confirmed {
                    order_id,
                    quantity: held.quantity,
                };
                self.settled(held, ReservationState::Confirmed, change)
            }
            Some(_) | None => self.unchanged(),
        }
    }

    fn restock(mut self, quantity: u32) -> Outcome {
        let order_id = self.order_id;
        match self.reservation {
            // It overtook its confirm: sold and back at once.
            Some(held) if held.state == ReservationState::Held => {
                self.stock.reserved -= i64::from(held.quantity);
                let change = InventoryChange::Restocked {
                    order_id,
                    quantity: held.quantity,
                };
                self.settled(held, ReservationState::Restocked, change)
            }
            Some(sold) if sold.state == ReservationState::Confirmed => {
                self.take_back(sold, sold.quantity)
            }
            // Sold so long ago that it was forgotten; the order still knows how many.
            None => {
                let forgotten = Reservation {
                    quantity,
                    state: ReservationState::Confirmed,
                    since_ms: self.now_ms,
                    price: None,
                };
                self.take_back(forgotten, quantity)
            }
            Some(_) => self.unchanged(),
        }
    }

    fn take_back(mut self, sold: Reservation, quantity: u32) -> Outcome {
        let pieces = i64::from(quantity);
        if self.stock.sold < pieces {
            return self.unchanged();
        }
        self.stock.sold -= pieces;
        self.stock.on_hand += pieces;
        let change = InventoryChange::Restocked {
            order_id: self.order_id,
            quantity,
        };
        self.settled(sold, ReservationState::Restocked, change)
    }

    fn settled(
        mut self,
        reservation: Reservation,
        state: ReservationState,
        change: InventoryChange,
    ) -> Outcome {
        self.stock.version += 1;
        Outcome {
            stock: self.stock,
            reservation: Some(Reservation {
                state,
                since_ms: self.now_ms,
                ..reservation
            }),
            event: Some(InventoryEvent {
                change,
                stock: self.stock,
            }),
        }
    }

    fn unchanged(self) -> Outcome {
        Outcome {
            stock: self.stock,
            reservation: self.reservation,
            event: None,
        }
    }
}

/// How an adjustment ended, as the store `adjustments` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// False when it was refused.
    pub applied: bool,
    /// By how many pieces.
    pub delta: i64,
    /// For people.
    pub reason: Arc<str>,
    /// The stock behind it.
    pub stock: Stock,
    /// When, in epoch milliseconds.
    pub at_ms: i64,
}

/// What is wanted of an adjustment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// That many more, or less.
    Delta(i64),
    /// That many on hand.
    OnHand(i64),
}

/// Adjusts what is on hand, for the first time that this adjustment is seen.
///
/// It is refused where less would be on hand than is reserved, or more than [`ON_HAND_MAX`].
pub fn adjust(
    stock: Stock,
    adjustment_id: &Arc<str>,
    wanted: Wanted,
    reason: &Arc<str>,
    now_ms: i64,
) -> (Stock, Adjustment, InventoryEvent) {
    assert!(
        stock.adds_up(),
        "stock adds up before an adjustment: {stock:?}"
    );
    let delta = match wanted {
        Wanted::Delta(delta) => delta,
        Wanted::OnHand(on_hand) => on_hand - stock.on_hand,
    };
    let (adjustment_id, reason) = (adjustment_id.clone(), reason.clone());
    let on_hand = stock.on_hand.saturating_add(delta);
    let applied = (stock.reserved..=ON_HAND_MAX).contains(&on_hand);
    let after = if applied {
        Stock {
            on_hand,
            version: stock.version + 1,
            ..stock
        }
    } else {
        stock
    };
    let outcome = Adjustment {
        applied,
        delta,
        reason: reason.clone(),
        stock: after,
        at_ms: now_ms,
    };
    let change = if applied {
        InventoryChange::Adjusted {
            adjustment_id,
            delta,
            reason,
        }
    } else {
        InventoryChange::AdjustmentRefused {
            adjustment_id,
            delta,
            reason,
        }
    };
    assert!(
        after.adds_up(),
        "stock adds up after an adjustment: {after:?}"
    );
    (
        after,
        outcome,
        InventoryEvent {
            change,
            stock: after,
        },
    )
}
