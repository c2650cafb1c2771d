//! The order processor: reads a state, lets the saga decide, writes the state, sends what is to be
//! done.

use std::time::Duration;

use millstream_operators::{Clock, Context, KvHandle, Processor, Punctuation};
use millstream_topology::{Record, Result};

use crate::{model::OrderId, timers::Timers};

use super::{Effect, OrderInput, OrderState, Policy, apply};

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(200);

/// Runs the saga of every order of a partition.
pub(super) struct OrderProcessor {
    orders: KvHandle<OrderId, OrderState>,
    timers: Timers<OrderId>,
    policy: Policy,
}

type Cx<'a, 'b> = Context<'a, 'b, OrderId, Effect>;

impl OrderProcessor {
    pub(super) fn new(
        orders: KvHandle<OrderId, OrderState>,
        timers: Timers<OrderId>,
        policy: Policy,
    ) -> Self {
        Self {
            orders,
            timers,
            policy,
        }
    }

    fn take(
        &mut self,
        cx: &mut Cx<'_, '_>,
        order_id: OrderId,
        input: OrderInput,
        now_ms: i64,
    ) -> Result<()> {
        let policy = &self.policy;
        let effects = cx.store(self.orders).update(&order_id, |slot| {
            let state = slot.take().map(|(state, _)| state);
            let decision = apply(order_id, state, input, now_ms, policy);
            *slot = decision.state.map(|state| (state, now_ms));
            Ok(decision.effects)
        })?;
        for effect in effects {
            match effect {
                Effect::WakeAt(at) => self.timers.arm(cx, at, order_id)?,
                Effect::Event(_) | Effect::Inventory(..) | Effect::Payment(_) => {
                    cx.forward(Record::new(order_id, effect, now_ms))?;
                }
            }
        }
        Ok(())
    }
}

impl Processor for OrderProcessor {
    type Key = OrderId;
    type Value = OrderInput;
    type OutKey = OrderId;
    type OutValue = Effect;

    fn init(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        cx.schedule(TICK, Clock::Wall);
        Ok(())
    }

    fn process(&mut self, cx: &mut Cx<'_, '_>, record: Record<OrderId, OrderInput>) -> Result<()> {
        let now_ms = cx.wall_clock_ms();
        self.take(cx, record.key, record.value, now_ms)
    }

    fn punctuate(&mut self, cx: &mut Cx<'_, '_>, tick: Punctuation) -> Result<()> {
        let now_ms = tick.time_ms;
        for order_id in self.timers.take_due(cx, now_ms)? {
            // Most orders are final long before their deadline: those are only looked at.
            let state = cx.store(self.orders).get(&order_id)?;
            if state
                .and_then(|state| state.wake_at())
                .is_some_and(|wake| wake <= now_ms)
            {
                self.take(cx, order_id, OrderInput::Due, now_ms)?;
            }
        }
        Ok(())
    }
}
