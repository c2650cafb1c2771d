//! Keys of the shop's stores: short, and ordered by bytes as they are ordered by meaning.

use std::{fmt, str::FromStr, sync::Arc};

use millstream_topology::{BoxError, Codec};
use serde_json::Value as JsonValue;
use uuid::Uuid;

use super::{InvalidId, OrderId, Sku};

/// An order's id as its 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct OrderIdBytes;

impl Codec for OrderIdBytes {
    type Value = OrderId;
    fn encode(id: &OrderId, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(id.0.as_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<OrderId, BoxError> {
        Ok(OrderId(Uuid::from_slice(bytes)?))
    }
    fn to_json(id: &OrderId) -> JsonValue {
        id.to_string().into()
    }
    fn parse(text: &str) -> Result<OrderId, BoxError> {
        Ok(text.parse()?)
    }
}

/// What an order and a product have to do with each other: `<sku>/<order_id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationKey {
    /// The product.
    pub sku: Sku,
    /// The order.
    pub order_id: OrderId,
}

/// An adjustment of a product's stock: `<sku>/<adjustment_id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjustmentKey {
    /// The product.
    pub sku: Sku,
    /// The adjustment, unique for the product.
    pub adjustment_id: Arc<str>,
}

/// A product in an hour: `<hour>/<sku>`, the hour in epoch milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HourOfProduct {
    /// First millisecond of the hour, in epoch milliseconds.
    pub hour: i64,
    /// The product.
    pub sku: Sku,
}

/// Part of the things to do at a time: `<due_ms>/<part>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerKey {
    /// When, in epoch milliseconds.
    pub due_ms: i64,
    /// Numbers the parts of a list that grew too long for one entry.
    pub part: u32,
}

/// Ends the sku in a key; no sku holds it.
const END: u8 = 0;

/// Milliseconds as bytes in the order of time; the sign bit is turned so that times before 1970
/// come first.
fn put_time(ms: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&(ms ^ i64::MIN).to_be_bytes());
}

fn take_time(bytes: &[u8]) -> Result<(i64, &[u8]), BoxError> {
    let (time, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or("key is too short for a time")?;
    Ok((i64::from_be_bytes(*time) ^ i64::MIN, rest))
}

fn take_sku(bytes: &[u8]) -> Result<(Sku, &[u8]), BoxError> {
    let end = bytes
        .iter()
        .position(|b| *b == END)
        .ok_or("key has no end of its sku")?;
    Ok((
        std::str::from_utf8(&bytes[..end])?.parse()?,
        &bytes[end + 1..],
    ))
}

/// Codec of [`ReservationKey`]: sku, a zero byte, 16 bytes of the order id.
#[derive(Clone, Copy, Debug)]
pub struct ReservationKeyBytes;

impl Codec for ReservationKeyBytes {
    type Value = ReservationKey;
    fn encode(key: &ReservationKey, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(key.sku.as_bytes());
        out.push(END);
        OrderIdBytes::encode(&key.order_id, out)
    }
    fn decode(bytes: &[u8]) -> Result<ReservationKey, BoxError> {
        let (sku, rest) = take_sku(bytes)?;
        Ok(ReservationKey {
            sku,
            order_id: OrderIdBytes::decode(rest)?,
        })
    }
    fn to_json(key: &ReservationKey) -> JsonValue {
        format!("{}/{}", key.sku, key.order_id).into()
    }
    fn parse(text: &str) -> Result<ReservationKey, BoxError> {
        let (sku, order_id) = text.rsplit_once('/').ok_or("expected <sku>/<order_id>")?;
        Ok(ReservationKey {
            sku: sku.parse()?,
            order_id: order_id.parse()?,
        })
    }
}

/// Codec of [`AdjustmentKey`]: sku, a zero byte, the adjustment's id.
#[derive(Clone, Copy, Debug)]
pub struct AdjustmentKeyBytes;

impl Codec for AdjustmentKeyBytes {
    type Value = AdjustmentKey;
    fn encode(key: &AdjustmentKey, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(key.sku.as_bytes());
        out.push(END);
        out.extend_from_slice(key.adjustment_id.as_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<AdjustmentKey, BoxError> {
        let (sku, rest) = take_sku(bytes)?;
        Ok(AdjustmentKey {
            sku,
            adjustment_id: std::str::from_utf8(rest)?.into(),
        })
    }
    fn to_json(key: &AdjustmentKey) -> JsonValue {
        format!("{}/{}", key.sku, key.adjustment_id).into()
    }
    fn parse(text: &str) -> Result<AdjustmentKey, BoxError> {
        let (sku, id) = text
            .split_once('/')
            .ok_or("expected <sku>/<adjustment_id>")?;
        Ok(AdjustmentKey {
            sku: sku.parse()?,
            adjustment_id: id.into(),
        })
    }
}

/// Codec of [`HourOfProduct`]: 8 bytes of time, the sku.
#[derive(Clone, Copy, Debug)]
pub struct HourOfProductBytes;

impl Codec for HourOfProductBytes {
    type Value = HourOfProduct;
    fn encode(key: &HourOfProduct, out: &mut Vec<u8>) -> Result<(), BoxError> {
        put_time(key.hour, out);
        out.extend_from_slice(key.sku.as_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<HourOfProduct, BoxError> {
        let (hour, sku) = take_time(bytes)?;
        Ok(HourOfProduct {
            hour,
            sku: std::str::from_utf8(sku)?.parse()?,
        })
    }
    fn to_json(key: &HourOfProduct) -> JsonValue {
        format!("{}/{}", key.hour, key.sku).into()
    }
    fn parse(text: &str) -> Result<HourOfProduct, BoxError> {
        let (hour, sku) = text.split_once('/').ok_or("expected <hour>/<sku>")?;
        Ok(HourOfProduct {
            hour: hour.parse()?,
            sku: sku.parse()?,
        })
    }
}

/// Codec of [`TimerKey`]: 8 bytes of time, 4 bytes of the part.
#[derive(Clone, Copy, Debug)]
pub struct TimerKeyBytes;

impl Codec for TimerKeyBytes {
    type Value = TimerKey;
    fn encode(key: &TimerKey, out: &mut Vec<u8>) -> Result<(), BoxError> {
        put_time(key.due_ms, out);
        out.extend_from_slice(&key.part.to_be_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<TimerKey, BoxError> {
        let (due_ms, part) = take_time(bytes)?;
        Ok(TimerKey {
            due_ms,
            part: u32::from_be_bytes(part.try_into()?),
        })
    }
    fn to_json(key: &TimerKey) -> JsonValue {
        format!("{}/{}", key.due_ms, key.part).into()
    }
    fn parse(text: &str) -> Result<TimerKey, BoxError> {
        let (due_ms, part) = text.split_once('/').ok_or("expected <due_ms>/<part>")?;
        Ok(TimerKey {
            due_ms: due_ms.parse()?,
            part: part.parse()?,
        })
    }
}

/// A time in epoch milliseconds, ordered by bytes as by time.
#[derive(Clone, Copy, Debug)]
pub struct TimeBytes;

impl Codec for TimeBytes {
    type Value = i64;
    fn encode(time: &i64, out: &mut Vec<u8>) -> Result<(), BoxError> {
        put_time(*time, out);
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<i64, BoxError> {
        match take_time(bytes)? {
            (time, []) => Ok(time),
            _ => Err("key is too long for a time".into()),
        }
    }
    fn to_json(time: &i64) -> JsonValue {
        (*time).into()
    }
    fn parse(text: &str) -> Result<i64, BoxError> {
        Ok(text.parse()?)
    }
}

impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sku, self.order_id)
    }
}

impl FromStr for ReservationKey {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        ReservationKeyBytes::parse(text).map_err(|_| InvalidId::Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<C: Codec>(key: &C::Value) -> Vec<u8> {
        let mut out = Vec::new();
        C::encode(key, &mut out).expect("encodes");
        out
    }

    #[track_caller]
    fn survives<C: Codec>(key: &C::Value)
    where
        C::Value: PartialEq + fmt::Debug,
    {
        assert_eq!(&C::decode(&bytes::<C>(key)).expect("decodes"), key);
        let json = C::to_json(key);
        let text = json
            .as_str()
            .map_or_else(|| json.to_string(), str::to_owned);
        assert_eq!(&C::parse(&text).expect("parses"), key);
    }

    proptest! {
        #[test]
        fn keys_survive_bytes_and_text(
            sku in "[a-zA-Z0-9 äß._-]{1,40}", id in any::<u128>(), adjustment in "[^\0]{0,40}",
            time in any::<i64>(), part in any::<u32>(),
        ) {
            let sku: Sku = sku.parse().expect("legal");
            let order_id = OrderId(Uuid::from_u128(id));
            survives::<OrderIdBytes>(&order_id);
            survives::<ReservationKeyBytes>(&ReservationKey { sku: sku.clone(), order_id });
            survives::<AdjustmentKeyBytes>(
                &AdjustmentKey { sku: sku.clone(), adjustment_id: adjustment.into() });
            survives::<HourOfProductBytes>(&HourOfProduct { hour: time, sku });
            survives::<TimerKeyBytes>(&TimerKey { due_ms: time, part });
            survives::<TimeBytes>(&time);
        }

        #[test]
        fn times_are_ordered_as_bytes(
            a in any::<i64>(), b in any::<i64>(), p in any::<u32>(), q in any::<u32>(),
        ) {
            prop_assert_eq!(a.cmp(&b), bytes::<TimeBytes>(&a).cmp(&bytes::<TimeBytes>(&b)));
            let (left, right) = (TimerKey { due_ms: a, part: p }, TimerKey { due_ms: b, part: q });
            let as_bytes = bytes::<TimerKeyBytes>(&left).cmp(&bytes::<TimerKeyBytes>(&right));
            prop_assert_eq!(left.cmp(&right), as_bytes);
        }
    }
}
