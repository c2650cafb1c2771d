//! Violations of what the log and the gateway's books promise.

use millstream_processors::{
    audit::Promise,
    inventory::ReservationState,
    model::{OrderEventKind, OrderStatus, PaymentAction, PaymentStatus},
};
use millstream_verifier::{Acknowledged, shop_promises as promises};

use crate::facts::{Facts, TOTAL, adjusted, cancelled, entry, id, next, payment, placed, stock};

/// Breaks a shop in order, and expects that one promise is broken so many times, with an example
/// that has all of `words`.
#[track_caller]
pub(crate) fn check(violate: impl FnOnce(&mut Facts), promise: &str, times: u64, words: &[&str]) {
    let mut facts = Facts::in_order();
    violate(&mut facts);
    let report = facts.verify();
    let broken: Vec<_> = report.broken().map(|row| row.promise).collect();
    assert_eq!(broken, [promise], "{report}");
    let row = report.row(promise).expect("the promise was looked at");
    assert_eq!(row.broken, times, "{report}");
    for word in words {
        let example = &row.examples[0];
        assert!(example.contains(word), "`{word}` is not in: {example}");
    }
}

#[test]
fn a_shop_in_order_holds() {
    let report = Facts::in_order().verify();
    assert!(report.holds(), "{report}");
    for row in &report.rows {
        assert!(row.checked > 0, "not checked at all: {}", row.promise);
        assert_eq!(row.bounded, None);
    }
}

#[test]
fn a_lost_order() {
    let lose = |facts: &mut Facts| facts.commands.push(id(4));
    check(
        lose,
        Promise::NoOrderLost.as_str(),
        1,
        &[&id(4).to_string()],
    );
}

#[test]
fn an_acknowledged_order_that_is_not_in_the_log() {
    let lose = |facts: &mut Facts| {
        facts.acknowledged.push(Acknowledged {
            order_id: id(9),
            request: None,
        });
    };
    check(
        lose,
        promises::ACKNOWLEDGED,
        1,
        &["shop.orders", &id(9).to_string()],
    );
}

#[test]
fn a_second_order_for_one_idempotency_key() {
    let double = |facts: &mut Facts| {
        facts.acknowledged.push(Acknowledged {
            order_id: id(3),
            request: facts.acknowledged[0].request.clone(),
        });
    };
    check(double, promises::ONE_KEY, 1, &["key-1", &id(3).to_string()]);
}

#[test]
fn an_order_that_nobody_placed() {
    let forget = |facts: &mut Facts| facts.commands.retain(|order| *order != id(3));
    check(
        forget,
        promises::PLACED,
        1,
        &[&id(3).to_string(), "offset="],
    );
}

#[test]
fn an_order_with_two_final_states() {
    let end_twice = |facts: &mut Facts| {
        facts.renumbered(1, |events| {
            let wrong = cancelled(&events[1]);
            events.insert(2, wrong);
        });
    };
    let words = [
        &*id(1).to_string(),
        "status=CONFIRMED",
        "before=CANCELLED",
        "offset=",
    ];
    check(end_twice, promises::ONE_END, 1, &words);
}

#[test]
fn an_event_that_is_missing() {
    let lose = |facts: &mut Facts| {
        facts.orders.retain(|event| {
            event.kind != OrderEventKind::Refunded || { event.order.order_id != id(3) }
        });
        let last = facts.orders.last_mut().expect("the order was confirmed");
        let refunded = next(last, OrderEventKind::Refunded, |order| {
            order.status = OrderStatus::Refunded;
            order.version += 1;
            order.payment = Some(payment(PaymentStatus::Refunded, TOTAL, TOTAL, TOTAL));
        });
        facts.orders.push(refunded);
    };
    let words = [&*id(3).to_string(), "version=6", "before=4", "offset="];
    check(lose, promises::VERSIONS, 1, &words);
}

#[test]
fn an_order_that_is_open_after_its_deadline() {
    let leave_open = |facts: &mut Facts| {
        facts.commands.push(id(4));
        facts.orders.push(placed(4));
        facts.day.placed += 1;
    };
    check(
        leave_open,
        Promise::OrdersFinal.as_str(),
        1,
        &[&id(4).to_string()],
    );
}

#[test]
fn a_confirmed_order_without_a_payment() {
    let give_away = |facts: &mut Facts| {
        facts.renumbered(1, |events| {
            events.pop();
            for event in events {
                event.order.payment = None;
            }
        });
        facts.ledger.retain(|entry| entry.order_id != id(1));
    };
    let words = [&*id(1).to_string(), "CONFIRMED", "captured=0"];
    check(give_away, Promise::ChargedIsConfirmed.as_str(), 1, &words);
}

#[test]
fn a_cancelled_order_that_is_charged() {
    let charge = |facts: &mut Facts| {
        facts.renumbered(2, |events| {
            let last = events.last_mut().expect("it has events");
            last.order.payment = Some(payment(PaymentStatus::Captured, TOTAL, TOTAL, 0));
        });
        facts.ledger.retain(|it| it.action != PaymentAction::Void);
        facts.ledger.push(entry(2, PaymentAction::Capture));
    };
    let words = [&*id(2).to_string(), "CANCELLED", "captured=300"];
    check(charge, Promise::ChargedIsConfirmed.as_str(), 1, &words);
}

#[test]
fn money_of_which_the_shop_does_not_know() {
    let refund = |facts: &mut Facts| facts.ledger.push(entry(1, PaymentAction::Refund));
    check(
        refund,
        Promise::LedgerAgrees.as_str(),
        1,
        &[&id(1).to_string()],
    );
}

#[test]
fn a_cancelled_order_that_holds_pieces() {
    let hold = |facts: &mut Facts| {
        facts.reservations[1].1.state = ReservationState::Held;
        facts.stock.remove(5);
        for event in &mut facts.stock[5..] {
            event.stock.reserved += 2;
            event.stock.version -= 1;
        }
    };
    let words = ["held for nobody", &*id(2).to_string()];
    check(hold, Promise::ReservedIsHeld.as_str(), 1, &words);
}

#[test]
fn a_confirmed_order_whose_pieces_were_not_sold_to_it() {
    let release = |facts: &mut Facts| {
        facts.reservations[0].1.state = ReservationState::Released;
    };
    check(
        release,
        promises::LINES_SOLD,
        1,
        &["tea", &id(1).to_string(), "Released"],
    );
}

#[test]
fn an_item_that_is_oversold_for_a_moment() {
    let oversell = |facts: &mut Facts| {
        for event in &mut facts.stock[1..] {
            event.stock.version += 2;
        }
        facts.stock.insert(1, adjusted(-11, stock(-1, 0, 0, 2)));
        facts.stock.insert(2, adjusted(11, stock(10, 0, 0, 3)));
    };
    check(
        oversell,
        promises::EVERY_MOMENT,
        1,
        &["sku=`tea`", "on_hand=-1", "offset=1"],
    );
}

#[test]
fn stock_that_changes_by_more_than_was_said() {
    let jump = |facts: &mut Facts| facts.stock[4].stock.on_hand += 1;
    // One step too far, and back with the next.
    check(
        jump,
        promises::STEPS,
        2,
        &["sku=`tea`", "on_hand=9", "offset=4"],
    );
}

#[test]
fn a_report_that_counts_wrongly() {
    let miscount = |facts: &mut Facts| facts.day.confirmed += 1;
    check(miscount, Promise::ReportsAgree.as_str(), 1, &["1970-01-01"]);
}
