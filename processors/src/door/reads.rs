//! Where the door finds an order, stock or an adjustment: in this instance's stores, in another's,
//! in the newest events, among what was accepted, in the tables.

use axum::http::StatusCode;
use millstream_api::Problem;
use millstream_runtime::Located;
use millstream_topology::{BoxError, KvStore, Serde};
use serde::de::DeserializeOwned;
use serde_json::Value as JsonValue;

use super::{DoorState, unavailable};
use crate::{
    inventory::Adjustment,
    model::{AdjustmentKey, Order, OrderId, OrderLine, OrderStatus, PlaceOrder, Sku, Stock},
    order::OrderState,
    topics::{ADJUSTMENT_STORE, INVENTORY_COMMANDS, ORDER_STORE, ORDERS, STOCK_STORE},
};

/// What a store says of a key.
pub(super) enum Stored<V> {
    /// The value.
    Found(V),
    /// Whoever holds the key's partition has no such key.
    Absent,
    /// Nobody who holds it answers at the moment.
    Unknown,
}

impl DoorState {
    /// What the saga knows of an order.
    pub(super) async fn order_state(&self, id: OrderId) -> Result<Stored<OrderState>, Problem> {
        let partition_key = encoded(ORDERS.key(), &id)?;
        self.stored(&ORDER_STORE, &id, &partition_key, &id.to_string())
            .await
    }

    /// An order, as far as anybody knows it; one that is accepted and not yet processed is pending.
    pub(super) async fn order(&self, id: OrderId) -> Result<Option<Order>, Problem> {
        let (stored, certain) = match self.order_state(id).await? {
            Stored::Found(state) => (Some(state.order), true),
            Stored::Absent => (None, true),
            Stored::Unknown => (None, false),
        };
        // Events can be read a moment before the store shows what they tell: who was told of a
        // change sees it.
        let told = self.feed.newest(id).map(|event| event.order);
        let newest = [stored, told]
            .into_iter()
            .flatten()
            .max_by_key(|order| order.version);
        if newest.is_some() {
            return Ok(newest);
        }
        if let Some(place) = self.in_flight.get(id) {
            return Ok(Some(pending(id, &place)));
        }
        match self.tables.order(id).await {
            Ok(Some(order)) => Ok(Some(order)),
            Ok(None) if certain => Ok(None),
            Ok(None) => Err(unavailable(
                "the order's store is on its way",
                "nobody serves it",
            )),
            Err(error) => Err(unavailable("orders cannot be read", error)),
        }
    }

    /// The stock of a product.
    pub(super) async fn stock(&self, sku: &Sku) -> Result<Option<Stock>, Problem> {
        let key = encoded(INVENTORY_COMMANDS.key(), sku)?;
        match self.stored(&STOCK_STORE, sku, &key, sku).await? {
            Stored::Found(stock) => Ok(Some(stock)),
            Stored::Absent => Ok(None),
            Stored::Unknown => self
                .tables
                .stock(sku)
                .await
                .map_err(|e| unavailable("stock cannot be read", e)),
        }
    }

    /// How an adjustment of stock ended.
    pub(super) async fn adjustment(
        &self,
        key: &AdjustmentKey,
    ) -> Result<Stored<Adjustment>, Problem> {
        let partition_key = encoded(INVENTORY_COMMANDS.key(), &key.sku)?;
        let text = format!("{}/{}", key.sku, key.adjustment_id);
        self.stored(&ADJUSTMENT_STORE, key, &partition_key, &text)
            .await
    }

    /// Reads a store whose partition follows from the key of the topic that feeds it,
    /// `partition_key`. `text` is the store's key as other instances are asked for it.
    async fn stored<K, V: DeserializeOwned>(
        &self,
        store: &KvStore<K, V>,
        key: &K,
        partition_key: &[u8],
        text: &str,
    ) -> Result<Stored<V>, Problem> {
        match self
            .queries
            .locate(store.name(), partition_key)
            .map_err(Problem::internal)?
        {
            // Read right here: it is a look into memory, and seldom a block from the disk.
            Located::Here(view) => Ok(
                match view.get_typed(store, key).map_err(Problem::internal)? {
                    Some((value, _)) => Stored::Found(value),
                    None => Stored::Absent,
                },
            ),
            Located::There(endpoint) => self.ask(&endpoint, store.name(), text).await,
            Located::Nowhere => Ok(Stored::Unknown),
        }
    }

    async fn ask<V: DeserializeOwned>(
        &self,
        endpoint: &str,
        store: &str,
        key: &str,
    ) -> Result<Stored<V>, Problem> {
        let Ok(answer) = self
            .peer
            .get(endpoint, &["stores", store, "keys", key], &[])
            .await
        else {
            return Ok(Stored::Unknown);
        };
        match answer.status {
            StatusCode::OK => value_of(&answer.body)
                .map(Stored::Found)
                .map_err(Problem::internal),
            StatusCode::NOT_FOUND => Ok(Stored::Absent),
            _ => Ok(Stored::Unknown),
        }
    }
}

fn value_of<V: DeserializeOwned>(body: &[u8]) -> Result<V, BoxError> {
    let mut answer: JsonValue = serde_json::from_slice(body)?;
    let value = answer.get_mut("value").ok_or("the answer has no value")?;
    Ok(serde_json::from_value(value.take())?)
}

fn encoded<K>(serde: Serde<K>, key: &K) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    serde.encode(key, &mut bytes).map_err(Problem::internal)?;
    Ok(bytes)
}

/// An order that is accepted and not yet processed.
pub(super) fn pending(id: OrderId, place: &PlaceOrder) -> Order {
    let line = |line: &crate::model::RequestedLine| OrderLine {
        sku: line.sku.clone(),
        name: None,
        quantity: line.quantity,
        unit_price: None,
    };
    Order {
        order_id: id,
        customer_id: place.customer_id.clone(),
        status: OrderStatus::Pending,
        reason: None,
        currency: place.currency,
        total: 0,
        lines: place.lines.iter().map(line).collect(),
        placed_at: place.placed_at,
        updated_at: place.placed_at,
        version: 0,
        payment: None,
    }
}
