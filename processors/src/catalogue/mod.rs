//! The catalogue as the door shows it: every product in memory, found by sku, by category and by
//! words.
//!
//! It is a view of `shop.products` and nothing else: a [`Feed`] reads the topic from its beginning
//! and goes on reading. Every process has the whole of it.

mod search;
mod feed;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    ops::Bound,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use uuid::Uuid;

use crate::model::{Product, Sku};
use search::SearchIndex;

pub use feed::Feed;

/// The most products of one page.
pub const PAGE_MAX: usize = 500;

/// A product with what HTTP wants to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The product.
    pub product: Product,
    /// Tells this content from any other, in quotes as the header `ETag` has it.
    pub etag: Arc<str>,
}

/// What to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductQuery {
    /// Words to be found in name, category or description; best matches come first. Without words,
    /// products come by sku.
    pub words: Option<String>,
    /// Only products of this category; upper and lower case are the same.
    pub category: Option<String>,
    /// How many, at most [`PAGE_MAX`].
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<ProductCursor>,
}

/// Some products, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductPage {
    /// The products.
    pub items: Vec<Arc<Listed>>,
    /// Give this with the same query to get the next page; none behind the last one.
    pub next_cursor: Option<ProductCursor>,
}

/// The last product of a page. Its text is opaque and fits into a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductCursor {
    /// Bits of the score; 0 in lists by sku.
    score: u32,
    sku: Sku,
}

/// Text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of a list of products")]
pub struct InvalidCursor;

impl fmt::Display for ProductCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.score)?;
        self.sku
            .bytes()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ProductCursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (score, sku) = text.split_at_checked(8).ok_or(InvalidCursor)?;
        let score = u32::from_str_radix(score, 16).map_err(|_| InvalidCursor)?;
        let (pairs, rest) = sku.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| {
            u8::from_str_radix(std::str::from_utf8(pair).map_err(|_| InvalidCursor)?, 16)
                .map_err(|_| InvalidCursor)
        };
        let sku: Vec<u8> = pairs.iter().map(byte).collect::<Result<_, _>>()?;
        let sku = String::from_utf8(sku).map_err(|_| InvalidCursor)?;
        if !rest.is_empty() {
            return Err(InvalidCursor);
        }
        Ok(Self {
            score,
            sku: sku.parse().map_err(|_| InvalidCursor)?,
        })
    }
}

/// All products.
///
/// ```
/// use millstream_processors::{
///     catalogue::{Catalogue, ProductQuery},
///     model::{Currency, Product, Sku},
/// };
///
/// let catalogue = Catalogue::default();
/// let sku: Sku = "1".parse()?;
/// catalogue.apply(&sku, Some(Product {
///     sku: sku.clone(),
///     name: "Green tea".into(),
///     category: None,
///     price: 150,
///     currency: Currency::USD,
///     description: None,
/// }));
/// let query = ProductQuery { words: Some("teas".into()), limit: 10, ..ProductQuery::default() };
/// assert_eq!(catalogue.page(&query).items[0].product.sku, sku);
/// # Ok::<(), millstream_processors::model::InvalidId>(())
/// ```
#[derive(Debug, Default)]
pub struct Catalogue {
    view: RwLock<View>,
}

#[derive(Debug, Default)]
struct View {
    products: BTreeMap<Sku, Arc<Listed>>,
    index: SearchIndex,
}

impl Catalogue {
    /// The product of that sku.
    pub fn get(&self, sku: &Sku) -> Option<Arc<Listed>> {
        self.read().products.get(sku).cloned()
    }

    /// How many products there are.
    pub fn len(&self) -> usize {
        self.read().products.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a change in: the product as it is from now on, or none when it was deleted.
    pub fn apply(&self, sku: &Sku, product: Option<Product>) {
        let listed = product.map(|product| {
            let etag = etag_of(&product);
            Arc::new(Listed { product, etag })
        });
        let view = &mut *self.write();
        view.index.remove(sku);
        match listed {
            Some(listed) => {
                view.index.add(sku, &listed.product);
                view.products.insert(sku.clone(), listed);
            }
            None => {
                view.products.remove(sku);
            }
        }
    }

    /// A page of what the query asks for.
    pub fn page(&self, query: &ProductQuery) -> ProductPage {
        let limit = query.limit.clamp(1, PAGE_MAX);
        let view = self.read();
        match query.words.as_deref().map(str::trim) {
            Some(words) if !words.is_empty() => view.best(words, query, limit),
            Some(_) | None => view.by_sku(query, limit),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn by_sku(&self, query: &ProductQuery, limit: usize) -> ProductPage {
        let after = match &query.cursor {
            Some(cursor) => Bound::Excluded(&cursor.sku),
            None => Bound::Unbounded,
        };
        let mut found = self
            .products
            .range::<Sku, _>((after, Bound::Unbounded))
            .filter(|(_, listed)| is_of(&listed.product, query.category.as_deref()))
            .map(|(_, listed)| listed.clone());
        let items: Vec<Arc<Listed>> = found.by_ref().take(limit).collect();
        let last = items.last().filter(|_| found.next().is_some());
        let next_cursor = last.map(|listed| ProductCursor {
            score: 0,
            sku: listed.product.sku.clone(),
        });
        ProductPage { items, next_cursor }
    }

    fn best(&self, words: &str, query: &ProductQuery, limit: usize) -> ProductPage {
        let rank = |a: &(f32, &Sku), b: &(f32, &Sku)| -> Ordering {
            b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1))
        };
        let before = query
            .cursor
            .as_ref()
            .map(|c| (f32::from_bits(c.score), &c.sku));
        let mut scored: Vec<(f32, &Sku)> = self
            .index
            .search(words)
            .filter(|hit| before.is_none_or(|before| rank(&before, hit).is_lt()))
            .filter(|(_, sku)| {
                let listed = self.products.get(*sku);
                listed.is_some_and(|l| is_of(&l.product, query.category.as_deref()))
            })
            .collect();
        let more = scored.len() > limit;
        if more {
            scored.select_nth_unstable_by(limit, rank);
            scored.truncate(limit);
        }
        scored.sort_unstable_by(rank);
        let next_cursor = scored
            .last()
            .filter(|_| more)
            .map(|(score, sku)| ProductCursor {
                score: score.to_bits(),
                sku: (*sku).clone(),
            });
        let items = scored
            .iter()
            .filter_map(|(_, sku)| self.products.get(*sku).cloned())
            .collect();
        ProductPage { items, next_cursor }
    }
}

fn is_of(product: &Product, category: Option<&str>) -> bool {
    category.is_none_or(|wanted| {
        product
            .category
            .as_deref()
            .is_some_and(|it| it.to_lowercase() == wanted.to_lowercase())
    })
}

/// Namespace of the UUIDs that entity tags are.
const ETAG_NAMESPACE: Uuid = Uuid::from_u128(0x2d5a_9f0c_3c1e_5f4b_8a6d_90c7_b1e2_4f83);

fn etag_of(product: &Product) -> Arc<str> {
    let content = serde_json::to_vec(product).expect("a product has a JSON form");
    format!("\"{}\"", Uuid::new_v5(&ETAG_NAMESPACE, &content).simple()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Currency;

    fn product(sku: &str, name: &str, category: &str, description: &str) -> Product {
        Product {
            sku: sku.parse().expect("legal"),
            name: name.into(),
            category: (!category.is_empty()).then(|| category.into()),
            price: 1,
            currency: Currency::USD,
            description: (!description.is_empty()).then(|| description.into()),
        }
    }

    fn shelf() -> Catalogue {
        let catalogue = Catalogue::default();
        for product in [
            product("1", "Green tea", "Tea", ""),
            product("2", "Black tea, strong", "Tea", "A tea for cold mornings"),
            product("3", "Milk", "Dairy", "Goes well with tea"),
            product("4", "Strawberries", "Fruit", ""),
            product("5", "Strawberry jam", "Spreads", "Made of berries"),
            product("6", "Crème brûlée", "Desserts", ""),
        ] {
            catalogue.apply(&product.sku.clone(), Some(product));
        }
        catalogue
    }

    fn query(words: &str, limit: usize) -> ProductQuery {
        let words = (!words.is_empty()).then(|| words.to_owned());
        ProductQuery {
            words,
            limit,
            ..ProductQuery::default()
        }
    }

    fn skus(page: &ProductPage) -> Vec<String> {
        page.items
            .iter()
            .map(|listed| listed.product.sku.to_string())
            .collect()
    }

    #[track_caller]
    fn finds(words: &str, expect: &[&str]) {
        assert_eq!(skus(&shelf().page(&query(words, 10))), expect, "{words}");
    }

    #[test]
    fn a_word_in_the_name_counts_more_than_one_in_the_description() {
        finds("tea", &["1", "2", "3"]);
        finds("milk", &["3"]);
    }

    #[test]
    fn products_with_all_words_come_first() {
        finds("tea mornings", &["2", "1", "3"]);
        finds("strong milk", &["3", "2"]);
    }

    #[test]
    fn forms_of_a_word_and_its_beginning_are_found() {
        finds("TEAS", &["1", "2", "3"]);
        finds("strawberry", &["4", "5"]);
        finds("straw", &["4", "5"]);
        finds("berry", &["5"]);
        finds("crème", &["6"]);
        finds("nothing like it", &[]);
        finds("…!?", &[]);
    }

    #[test]
    fn a_change_replaces_what_was_found_before() {
        let shelf = shelf();
        shelf.apply(
            &"1".parse().expect("legal"),
            Some(product("1", "Coffee", "Coffee", "")),
        );
        assert_eq!(skus(&shelf.page(&query("tea", 10))), ["2", "3"]);
        assert_eq!(skus(&shelf.page(&query("coffee", 10))), ["1"]);
        shelf.apply(&"1".parse().expect("legal"), None);
        assert_eq!(skus(&shelf.page(&query("coffee", 10))), [""; 0]);
        assert_eq!(shelf.len(), 5);
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        for words in ["", "tea strawberries milk"] {
            let shelf = shelf();
            let all = skus(&shelf.page(&query(words, 10)));
            let mut found = Vec::new();
            let mut cursor = None;
            loop {
                let page = shelf.page(&ProductQuery {
                    cursor,
                    ..query(words, 2)
                });
                found.extend(skus(&page));
                let Some(next) = page.next_cursor else { break };
                cursor = Some(next.to_string().parse().expect("a cursor"));
            }
            assert_eq!(found, all);
            assert!(all.len() > 4);
        }
    }

    #[test]
    fn a_category_narrows_lists_and_searches() {
        let of = |category: &str, words: &str| {
            let category = Some(category.to_owned());
            skus(&shelf().page(&ProductQuery {
                category,
                ..query(words, 10)
            }))
        };
        assert_eq!(of("tea", ""), ["1", "2"]);
        assert_eq!(of("DAIRY", "tea"), ["3"]);
        assert_eq!(of("none", ""), [""; 0]);
    }

    #[test]
    fn a_tag_changes_with_the_content_and_only_with_it() {
        let tag = |p: Product| etag_of(&p);
        let tea = product("1", "Tea", "", "");
        assert_eq!(tag(tea.clone()), tag(tea.clone()));
        assert_ne!(
            tag(tea.clone()),
            tag(Product {
                price: 2,
                ..tea.clone()
            })
        );
        assert!(tag(tea).starts_with('"'));
    }

    #[test]
    fn text_that_is_no_cursor_is_refused() {
        for text in [
            "",
            "0",
            "0000000",
            "00000000",
            "0000000041f",
            "zzzzzzzz41",
            "00000000zz",
            "é",
        ] {
            assert!(text.parse::<ProductCursor>().is_err(), "{text}");
        }
    }
}
