//! The rules of stock, step by step.

use std::sync::Arc;

use millstream_processors::{
    inventory::{
        Listing, Reservation, ReservationState,
        stock::{ForOrder, Wanted, adjust, apply},
    },
    model::{Currency, InventoryChange, ON_HAND_MAX, OrderId, Refusal, Stock},
};

const ORDER: OrderId = OrderId(uuid::Uuid::from_u128(1));

/// One product and one order.
struct Shelf {
    stock: Stock,
    reservation: Option<Reservation>,
    listing: Option<Listing>,
}

impl Shelf {
    fn with(on_hand: i64) -> Self {
        let listing = Listing {
            name: "Tea".into(),
            unit_price: 150,
            currency: Currency::USD,
        };
        let stock = Stock {
            on_hand,
            ..Stock::default()
        };
        Self {
            stock,
            reservation: None,
            listing: Some(listing),
        }
    }

    fn take(&mut self, command: ForOrder) -> Option<InventoryChange> {
        let outcome = apply(
            self.stock,
            self.reservation,
            self.listing.as_ref(),
            ORDER,
            command,
            7,
        );
        let moved = outcome.stock != self.stock;
        assert_eq!(outcome.stock.version, self.stock.version + u64::from(moved));
        self.stock = outcome.stock;
        self.reservation = outcome.reservation;
        outcome.event.map(|event| {
            assert_eq!(event.stock, self.stock);
            event.change
        })
    }

    #[track_caller]
    fn counts(&self, on_hand: i64, reserved: i64, sold: i64) {
        let stock = self.stock;
        assert_eq!(
            (stock.on_hand, stock.reserved, stock.sold),
            (on_hand, reserved, sold)
        );
    }
}

fn reserved(quantity: u32) -> Option<InventoryChange> {
    let (name, unit_price, currency) = ("Tea".into(), 150, Currency::USD);
    Some(InventoryChange::Reserved {
        order_id: ORDER,
        quantity,
        name,
        unit_price,
        currency,
    })
}

fn refused(quantity: u32, refusal: Refusal) -> Option<InventoryChange> {
    Some(InventoryChange::Refused {
        order_id: ORDER,
        quantity,
        refusal,
    })
}

#[test]
fn pieces_are_held_then_sold_then_brought_back() {
    let mut shelf = Shelf::with(5);
    assert_eq!(shelf.take(ForOrder::Reserve(3)), reserved(3));
    shelf.counts(5, 3, 0);
    let change = InventoryChange::Confirmed {
        order_id: ORDER,
        quantity: 3,
    };
    assert_eq!(shelf.take(ForOrder::Confirm), Some(change));
    shelf.counts(2, 0, 3);
    let change = InventoryChange::Restocked {
        order_id: ORDER,
        quantity: 3,
    };
    assert_eq!(shelf.take(ForOrder::Restock(3)), Some(change));
    shelf.counts(5, 0, 0);
}

#[test]
fn a_repeated_command_changes_nothing_and_a_repeated_reserve_gets_the_same_answer() {
    let mut shelf = Shelf::with(5);
    shelf.take(ForOrder::Reserve(3));
    assert_eq!(shelf.take(ForOrder::Reserve(3)), reserved(3));
    shelf.counts(5, 3, 0);
    shelf.take(ForOrder::Confirm);
    for command in [ForOrder::Confirm, ForOrder::Release] {
        assert_eq!(shelf.take(command), None);
        shelf.counts(2, 0, 3);
    }
    shelf.take(ForOrder::Restock(3));
    for command in [ForOrder::Confirm, ForOrder::Release, ForOrder::Restock(3)] {
        assert_eq!(shelf.take(command), None);
        shelf.counts(5, 0, 0);
    }
    let mut shelf = Shelf::with(5);
    shelf.take(ForOrder::Reserve(3));
    assert!(shelf.take(ForOrder::Release).is_some());
    for command in [ForOrder::Release, ForOrder::Confirm, ForOrder::Restock(3)] {
        assert_eq!(shelf.take(command), None);
        shelf.counts(5, 0, 0);
    }
}

#[test]
fn what_is_not_there_is_refused_and_stays_refused() {
    let mut shelf = Shelf::with(2);
    assert_eq!(
        shelf.take(ForOrder::Reserve(3)),
        refused(3, Refusal::OutOfStock)
    );
    shelf.counts(2, 0, 0);
    shelf.stock.on_hand = 9;
    assert_eq!(
        shelf.take(ForOrder::Reserve(3)),
        refused(3, Refusal::OutOfStock)
    );
}

#[test]
fn a_product_may_arrive_a_moment_after_the_order_that_asks_for_it() {
    let mut shelf = Shelf::with(9);
    let listing = shelf.listing.take();
    assert_eq!(shelf.take(ForOrder::Reserve(3)), None);
    assert_eq!(shelf.take(ForOrder::Reserve(3)), None);
    shelf.counts(9, 0, 0);
    shelf.listing = listing.clone();
    assert_eq!(shelf.take(ForOrder::Decide), reserved(3));
    assert_eq!(shelf.take(ForOrder::Decide), None, "it is answered once");
    shelf.counts(9, 3, 0);

    let mut shelf = Shelf::with(9);
    shelf.listing = None;
    shelf.take(ForOrder::Reserve(3));
    shelf.listing = listing.clone();
    assert_eq!(
        shelf.take(ForOrder::Reserve(3)),
        reserved(3),
        "asked again, it need not wait"
    );

    let mut shelf = Shelf::with(9);
    shelf.listing = None;
    shelf.take(ForOrder::Reserve(3));
    for command in [ForOrder::Confirm, ForOrder::Restock(3)] {
        assert_eq!(shelf.take(command), None);
    }
    assert_eq!(shelf.take(ForOrder::Release), None);
    shelf.listing = listing;
    assert_eq!(
        shelf.take(ForOrder::Decide),
        None,
        "nobody waits for it any more"
    );
    assert_eq!(
        shelf.take(ForOrder::Reserve(3)),
        refused(3, Refusal::Released)
    );
    shelf.counts(9, 0, 0);
}

#[test]
fn a_product_that_does_not_arrive_is_unknown_and_stays_so() {
    let mut shelf = Shelf::with(9);
    let listing = shelf.listing.take();
    shelf.take(ForOrder::Reserve(3));
    let unknown = refused(3, Refusal::UnknownProduct);
    assert_eq!(shelf.take(ForOrder::Decide), unknown);
    shelf.listing = listing;
    assert_eq!(shelf.take(ForOrder::Reserve(3)), unknown);
    shelf.counts(9, 0, 0);
}

#[test]
fn a_release_that_overtakes_its_reserve_refuses_it() {
    let mut shelf = Shelf::with(5);
    assert_eq!(shelf.take(ForOrder::Release), None);
    let state = shelf.reservation.map(|r| r.state);
    assert_eq!(state, Some(ReservationState::Released));
    assert_eq!(
        shelf.take(ForOrder::Reserve(3)),
        refused(3, Refusal::Released)
    );
    shelf.counts(5, 0, 0);
}

#[test]
fn goods_come_back_even_when_the_sale_is_forgotten_or_not_yet_confirmed() {
    let mut shelf = Shelf::with(5);
    shelf.stock.sold = 3;
    assert!(shelf.take(ForOrder::Restock(3)).is_some());
    shelf.counts(8, 0, 0);
    assert_eq!(shelf.take(ForOrder::Restock(3)), None);

    let mut shelf = Shelf::with(5);
    shelf.take(ForOrder::Reserve(3));
    assert!(shelf.take(ForOrder::Restock(3)).is_some());
    assert_eq!(shelf.take(ForOrder::Confirm), None);
    shelf.counts(5, 0, 0);

    let mut shelf = Shelf::with(5);
    assert_eq!(shelf.take(ForOrder::Restock(3)), None, "nothing was sold");
    shelf.counts(5, 0, 0);
}

#[track_caller]
fn check_adjustment(before: (i64, i64), wanted: Wanted, expect: Option<i64>) {
    let stock = Stock {
        on_hand: before.0,
        reserved: before.1,
        sold: 4,
        version: 2,
    };
    let (id, reason): (Arc<str>, Arc<str>) = ("a".into(), "count".into());
    let (after, outcome, event) = adjust(stock, &id, wanted, &reason, 7);
    assert_eq!(outcome.applied, expect.is_some());
    assert_eq!(after.on_hand, expect.unwrap_or(before.0));
    assert_eq!(after.version, 2 + u64::from(expect.is_some()));
    assert_eq!((after.reserved, after.sold), (before.1, 4));
    assert_eq!(event.stock, after);
    let refused = matches!(event.change, InventoryChange::AdjustmentRefused { .. });
    assert_eq!(refused, expect.is_none());
}

#[test]
fn an_adjustment_never_leaves_less_than_is_reserved() {
    check_adjustment((5, 3), Wanted::Delta(2), Some(7));
    check_adjustment((5, 3), Wanted::Delta(-2), Some(3));
    check_adjustment((5, 3), Wanted::Delta(-3), None);
    check_adjustment((5, 0), Wanted::Delta(-6), None);
    check_adjustment((5, 3), Wanted::OnHand(3), Some(3));
    check_adjustment((5, 3), Wanted::OnHand(2), None);
    check_adjustment((5, 3), Wanted::OnHand(ON_HAND_MAX), Some(ON_HAND_MAX));
    check_adjustment((5, 3), Wanted::Delta(ON_HAND_MAX), None);
    check_adjustment((5, 3), Wanted::Delta(i64::MIN), None);
}
