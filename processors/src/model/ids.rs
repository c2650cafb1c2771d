//! Identifiers: orders, customers, products.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// The longest sku and the longest customer id, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Namespace of the UUIDs that are derived from a customer and an idempotency key.
const ORDER_NAMESPACE: Uuid = Uuid::from_u128(0x6d1c_0f5e_7a3b_5b0e_9c2f_4f1e_8a77_31d2);

/// Names one order.
///
/// ```
/// use millstream_processors::model::{CustomerId, OrderId};
///
/// let ada: CustomerId = "ada".parse()?;
/// let order = OrderId::derived(&ada, "key-1");
/// assert_eq!(order, OrderId::derived(&ada, "key-1"));
/// assert_eq!(order.to_string().parse(), Ok(order));
/// # Ok::<(), millstream_processors::model::InvalidId>(())
/// ```
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl OrderId {
    /// The id of the order that a customer places with that idempotency key: always the same one,
    /// so that a retry reaches the partition and the state of the first try.
    pub fn derived(customer: &CustomerId, idempotency_key: &str) -> Self {
        let mut name = Vec::with_capacity(customer.len() + 1 + idempotency_key.len());
        name.extend_from_slice(customer.as_bytes());
        // No customer id holds a NUL, so no two pairs give one name.
        name.push(0);
        name.extend_from_slice(idempotency_key.as_bytes());
        Self(Uuid::new_v5(&ORDER_NAMESPACE, &name))
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OrderId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::from_str(text).map(Self).map_err(|_| InvalidId::Uuid)
    }
}

/// Text that is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a UUID.
    #[error("not a UUID")]
    Uuid,
    /// Empty, too long, or with control characters.
    #[error("an id has 1 to {ID_BYTES_MAX} bytes and no control characters")]
    Text,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let legal = !text.is_empty()
                    && text.len() <= ID_BYTES_MAX
                    && !text.chars().any(char::is_control);
                if legal { Ok(Self(text.into())) } else { Err(InvalidId::Text) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ParsedText(std::marker::PhantomData))
            }
        }
    };
}

text_id!(
    /// Names one product. Cheap to clone.
    Sku
);
text_id!(
    /// Names one customer. Cheap to clone.
    CustomerId
);

/// Reads a type from the text it is written as, without an owned string in between.
pub(crate) struct ParsedText<T>(pub(crate) std::marker::PhantomData<T>);

impl<T: FromStr> de::Visitor<'_> for ParsedText<T>
where
    T::Err: fmt::Display,
{
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_id_depends_on_customer_and_key_alone() {
        let customer = |id: &str| id.parse::<CustomerId>().expect("legal");
        let id = OrderId::derived(&customer("a"), "bc");
        assert_eq!(id, OrderId::derived(&customer("a"), "bc"));
        assert_ne!(id, OrderId::derived(&customer("ab"), "c"));
        assert_ne!(id, OrderId::derived(&customer("a"), "bd"));
    }

    #[test]
    fn ids_that_would_break_keys_are_refused() {
        for text in ["", "a\0b", "a\nb", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(text.parse::<Sku>(), Err(InvalidId::Text), "{text:?}");
        }
        assert_eq!("no uuid".parse::<OrderId>(), Err(InvalidId::Uuid));
        assert!(serde_json::from_str::<Sku>("\"\"").is_err());
        assert_eq!(
            "grün 7".parse::<Sku>().expect("legal").to_string(),
            "grün 7"
        );
    }
}
