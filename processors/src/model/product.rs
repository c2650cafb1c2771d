//! Products: the catalogue's entries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Currency, InvalidValue, PRICE_MAX, Sku, V1};

/// An entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ProductWire", into = "ProductWire")]
pub struct Product {
    /// Its name in keys and requests.
    pub sku: Sku,
    /// Its name for people.
    pub name: Arc<str>,
    /// What it is filed under.
    pub category: Option<Arc<str>>,
    /// Price of one piece, in minor units, 0 to [`PRICE_MAX`].
    pub price: i64,
    /// Of the price.
    pub currency: Currency,
    /// Free text.
    pub description: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ProductKind {
    Product,
}

#[derive(Serialize, Deserialize)]
struct ProductWire {
    #[serde(rename = "type")]
    kind: ProductKind,
    v: V1,
    sku: Sku,
    name: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    category: Option<Arc<str>>,
    price: i64,
    currency: Currency,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<Arc<str>>,
}

impl From<Product> for ProductWire {
    fn from(product: Product) -> Self {
        Self {
            kind: ProductKind::Product,
            v: V1,
            sku: product.sku,
            name: product.name,
            category: product.category,
            price: product.price,
            currency: product.currency,
            description: product.description,
        }
    }
}

impl TryFrom<ProductWire> for Product {
    type Error = InvalidValue;
    fn try_from(wire: ProductWire) -> Result<Self, InvalidValue> {
        let ProductWire {
            kind: ProductKind::Product,
            v: V1,
            ..
        } = wire;
        if !(0..=PRICE_MAX).contains(&wire.price) {
            return Err(InvalidValue::Range("price"));
        }
        Ok(Self {
            sku: wire.sku,
            name: wire.name,
            category: wire.category,
            price: wire.price,
            currency: wire.currency,
            description: wire.description,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_survives_the_way_through_json_and_a_wrong_one_does_not_decode() {
        let product = Product {
            sku: "tea".parse().expect("legal"),
            name: "Tea".into(),
            category: None,
            price: 150,
            currency: Currency::USD,
            description: None,
        };
        let json = serde_json::to_string(&product).expect("encodes");
        assert_eq!(
            json,
            r#"{"type":"product","v":1,"sku":"tea","name":"Tea","price":150,"currency":"USD"}"#
        );
        assert_eq!(
            serde_json::from_str::<Product>(&json).expect("decodes"),
            product
        );
        for (from, to) in [
            ("150", "-1"),
            ("\"v\":1", "\"v\":2"),
            ("product\"", "service\""),
        ] {
            let wrong = json.replacen(from, to, 1);
            assert!(serde_json::from_str::<Product>(&wrong).is_err(), "{wrong}");
        }
    }
}
