//! The inventory processor: reads stock and reservation, lets the rules decide, writes both, tells.

use std::{sync::Arc, time::Duration};

use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation};
use millstream_topology::{Record, Result};

use crate::{
    model::{
        AdjustmentKey, InventoryChange, InventoryCommand, InventoryEvent, OrderId, ReservationKey,
        Sku, Stock,
    },
    timers::Timers,
};

use super::{
    Adjustment, Listing, Policy, Reservation, ReservationState,
    stock::{ForOrder, Wanted, adjust, apply},
};

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What inventory hears.
#[derive(Clone, Debug)]
pub(super) enum InventoryInput {
    /// Something is to be done about a product's stock.
    Command(InventoryCommand),
    /// The catalogue's entry of the product changed; none means that it has none any more.
    Listing(Option<Listing>),
}

/// The stores of inventory.
pub(super) struct Stores {
    pub(super) stock: KvHandle<Sku, Stock>,
    pub(super) reservations: KvHandle<ReservationKey, Reservation>,
    pub(super) adjustments: KvHandle<AdjustmentKey, Adjustment>,
    pub(super) listings: KvHandle<Sku, Listing>,
}

/// Keeps the stock of every product of a partition.
pub(super) struct InventoryProcessor {
    stores: Stores,
    timers: Timers<(Sku, OrderId)>,
    policy: Policy,
}

type Cx<'a, 'b> = Context<'a, 'b, Sku, InventoryEvent>;

impl InventoryProcessor {
    pub(super) fn new(stores: Stores, timers: Timers<(Sku, OrderId)>, policy: Policy) -> Self {
        Self {
            stores,
            timers,
            policy,
        }
    }

    fn list(&self, cx: &mut Cx<'_, '_>, sku: &Sku, listing: Option<Listing>) -> Result<()> {
        let now_ms = cx.wall_clock_ms();
        match listing {
            Some(listing) => cx.store(self.stores.listings).put(sku, listing, now_ms),
            None => cx.store(self.stores.listings).delete(sku, now_ms),
        }
    }

    fn command(&mut self, cx: &mut Cx<'_, '_>, sku: Sku, command: InventoryCommand) -> Result<()> {
        match command {
            InventoryCommand::Set {
                adjustment_id,
                on_hand,
                reason,
            } => self.adjust(cx, sku, adjustment_id, Wanted::OnHand(on_hand), &reason),
            InventoryCommand::Adjust {
                adjustment_id,
                delta,
                reason,
            } => self.adjust(cx, sku, adjustment_id, Wanted::Delta(delta), &reason),
            InventoryCommand::Reserve { order_id, quantity } => {
                self.for_order(cx, sku, order_id, ForOrder::Reserve(quantity))
            }
            InventoryCommand::Release { order_id } => {
                self.for_order(cx, sku, order_id, ForOrder::Release)
            }
            InventoryCommand::Confirm { order_id } => {
                self.for_order(cx, sku, order_id, ForOrder::Confirm)
            }
            InventoryCommand::Restock { order_id, quantity } => {
                self.for_order(cx, sku, order_id, ForOrder::Restock(quantity))
            }
        }
    }

    fn for_order(
        &mut self,
        cx: &mut Cx<'_, '_>,
        sku: Sku,
        order_id: OrderId,
        command: ForOrder,
    ) -> Result<()> {
        let now_ms = cx.wall_clock_ms();
        let key = ReservationKey { sku, order_id };
        let before = cx.store(self.stores.reservations).get(&key)?;
        // Only the answer to a reserve needs name and price.
        let listing = match command {
            ForOrder::Reserve(_) | ForOrder::Decide => {
                cx.store(self.stores.listings).get(&key.sku)?
            }
            ForOrder::Release | ForOrder::Confirm | ForOrder::Restock(_) => None,
        };
        let (reservation, event) = cx.store(self.stores.stock).update(&key.sku, |slot| {
            let stock = slot.map_or_else(Stock::default, |(stock, _)| stock);
            let outcome = apply(stock, before, listing.as_ref(), order_id, command, now_ms);
            // A product of which there never was any stays without an entry.
            if outcome.stock != stock {
                *slot = Some((outcome.stock, now_ms));
            }
            Ok((outcome.reservation, outcome.event))
        })?;
        if reservation != before
            && let Some(reservation) = reservation
        {
            cx.store(self.stores.reservations)
                .put(&key, reservation, now_ms)?;
            if before.is_none() {
                let wait_ms = match reservation.state {
                    ReservationState::Asked => self.policy.listing_wait_ms(),
                    _ => self.policy.held_for_ms(),
                };
                let due_ms = now_ms.saturating_add(wait_ms);
                self.timers.arm(cx, due_ms, (key.sku.clone(), order_id))?;
            }
        }
        self.tell(cx, key.sku, event)
    }

    fn adjust(
        &self,
        cx: &mut Cx<'_, '_>,
        sku: Sku,
        adjustment_id: Arc<str>,
        wanted: Wanted,
        reason: &Arc<str>,
    ) -> Result<()> {
        let now_ms = cx.wall_clock_ms();
        let key = AdjustmentKey { sku, adjustment_id };
        if cx.store(self.stores.adjustments).get(&key)?.is_some() {
            return Ok(());
        }
        let (outcome, event) = cx.store(self.stores.stock).update(&key.sku, |slot| {
            let stock = slot.map_or_else(Stock::default, |(stock, _)| stock);
            let (after, outcome, event) = adjust(stock, &key.adjustment_id, wanted, reason, now_ms);
            *slot = Some((after, now_ms));
            Ok((outcome, event))
        })?;
        cx.store(self.stores.adjustments)
            .put(&key, outcome, now_ms)?;
        self.tell(cx, key.sku, Some(event))
    }

    /// A reservation has been there for a while: answer it if it still waits for the catalogue, ask
    /// its order if pieces are held, forget it if it is settled.
    ///
    /// What is held is never given back by time alone, because the order may be about to be
    /// confirmed.
    fn look_at(
        &mut self,
        cx: &mut Cx<'_, '_>,
        sku: Sku,
        order_id: OrderId,
        now_ms: i64,
    ) -> Result<()> {
        let key = ReservationKey { sku, order_id };
        let Some(reservation) = cx.store(self.stores.reservations).get(&key)? else {
            return Ok(());
        };
        if reservation.state == ReservationState::Asked {
            let due_ms = now_ms.saturating_add(self.policy.held_for_ms());
            self.timers.arm(cx, due_ms, (key.sku.clone(), order_id))?;
            return self.for_order(cx, key.sku, order_id, ForOrder::Decide);
        }
        if reservation.state == ReservationState::Held {
            let again_ms = now_ms.saturating_add(self.policy.ask_again_ms());
            self.timers.arm(cx, again_ms, (key.sku.clone(), order_id))?;
            let stock = cx
                .store(self.stores.stock)
                .get(&key.sku)?
                .unwrap_or_default();
            let quantity = reservation.quantity;
            let change = InventoryChange::Expiring { order_id, quantity };
            return self.tell(cx, key.sku, Some(InventoryEvent { change, stock }));
        }
        let forget_ms = reservation
            .since_ms
            .saturating_add(self.policy.held_for_ms());
        if now_ms < forget_ms {
            return self.timers.arm(cx, forget_ms, (key.sku, order_id));
        }
        cx.store(self.stores.reservations).delete(&key, now_ms)
    }

    fn tell(&self, cx: &mut Cx<'_, '_>, sku: Sku, event: Option<InventoryEvent>) -> Result<()> {
        let now_ms = cx.wall_clock_ms();
        match event {
            Some(event) => cx.forward(Record::new(sku, event, now_ms)),
            None => Ok(()),
        }
    }
}

impl Processor for InventoryProcessor {
    type Key = Sku;
    type Value = InventoryInput;
    type OutKey = Sku;
    type OutValue = InventoryEvent;

    fn init(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        cx.schedule(TICK, Clock::Wall);
        Ok(())
    }

    fn process(&mut self, cx: &mut Cx<'_, '_>, record: Record<Sku, InventoryInput>) -> Result<()> {
        match record.value {
            InventoryInput::Command(command) => self.command(cx, record.key, command),
            InventoryInput::Listing(listing) => self.list(cx, &record.key, listing),
        }
    }

    fn punctuate(&mut self, cx: &mut Cx<'_, '_>, tick: Punctuation) -> Result<()> {
        for (sku, order_id) in self.timers.take_due(cx, tick.time_ms)? {
            self.look_at(cx, sku, order_id, tick.time_ms)?;
        }
        Ok(())
    }
}
