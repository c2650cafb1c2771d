//! `Index`: products by sku, by category, and by the words in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::catalogue::Listed;
use crate::model::{Product, Sku};

/// Words of a query that are looked at.
const QUERY_WORDS_MAX: usize = 8;
/// Words of a product that can be found.
const PRODUCT_WORDS_MAX: usize = 500;
/// Different words that one unfinished word of a query stands for.
const COMPLETIONS_MAX: usize = 200;

/// How much a word counts by where it stands.
const IN_NAME: u8 = 4;
const IN_CATEGORY: u8 = 2;
const IN_DESCRIPTION: u8 = 1;

/// Products by sku, by category, and by the words in them.
#[derive(Default)]
pub(super) struct Index {
    products: BTreeMap<Sku, (u32, Listed)>,
    skus: HashMap<u32, Sku>,
    /// Which products have a word, and how much it counts there.
    words: BTreeMap<Box<str>, BTreeMap<u32, u8>>,
    categories: HashMap<String, BTreeSet<Sku>>,
    next_id: u32,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.products.len()
    }

    pub(super) fn get(&self, sku: &Sku) -> Option<&Listed> {
        self.products.get(sku).map(|(_, listed)| listed)
    }

    /// Adds a product or replaces it.
    pub(super) fn put(&mut self, listed: Listed) {
        let sku = listed.product.sku.clone();
        self.remove(&sku);
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        for (word, weight) in words_of(&listed.product) {
            self.words.entry(word).or_default().insert(id, weight);
        }
        if let Some(category) = &listed.product.category {
            self.categories.entry(category.to_lowercase()).or_default().insert(sku.clone());
        }
        self.skus.insert(id, sku.clone());
        self.products.insert(sku, (id, listed));
    }

    pub(super) fn remove(&mut self, sku: &Sku) {
        let Some((id, listed)) = self.products.remove(sku) else { return };
        self.skus.remove(&id);
        for word in words_of(&listed.product).into_keys() {
            if let Some(products) = self.words.get_mut(&word) {
                products.remove(&id);
                if products.is_empty() {
                    self.words.remove(&word);
                }
            }
        }
        let category = listed.product.category.as_ref().map(|c| c.to_lowercase());
        if let Some(category) = category
            && let Some(skus) = self.categories.get_mut(&category)
        {
            skus.remove(sku);
            if skus.is_empty() {
                self.categories.remove(&category);
            }
        }
    }

    /// Products by sku, behind `after`, of one category or of all.
    pub(super) fn list(
        &self,
        category: Option<&str>,
        after: Option<&Sku>,
        limit: usize,
    ) -> Vec<Listed> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = (after.map_or(Unbounded, Excluded), Unbounded);
        match category {
            None => {
                let range = self.products.range::<Sku, _>(behind);
                range.take(limit).map(|(_, (_, listed))| listed.clone()).collect()
            }
            Some(category) => {
                let skus = self.categories.get(&category.to_lowercase());
                let range = skus.into_iter().flat_map(|skus| skus.range::<Sku, _>(behind));
                range.take(limit).filter_map(|sku| self.get(sku)).cloned().collect()
            }
        }
    }

    /// Products that have every word of a query, or a word that begins with it; those first in which the words
    /// are rare and stand in the name.
    pub(super) fn search(
        &self,
        query: &str,
        category: Option<&str>,
        skip: usize,
        limit: usize,
    ) -> Vec<Listed> {
        let mut scores: Option<HashMap<u32, f64>> = None;
        for word in words(query).take(QUERY_WORDS_MAX) {
            let found = self.with_word(&word);
            scores = Some(match scores {
                None => found,
                Some(so_far) => so_far
                    .into_iter()
                    .filter_map(|(id, score)| Some((id, score + found.get(&id)?)))
                    .collect(),
            });
        }
        let category = category.map(str::to_lowercase);
        let in_category = |listed: &Listed| {
            let own = listed.product.category.as_ref().map(|c| c.to_lowercase());
            category.is_none() || own == category
        };
        let mut ranked: Vec<(f64, &Listed)> = scores
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(id, score)| Some((score, self.get(self.skus.get(&id)?)?)))
            .filter(|(_, listed)| in_category(listed))
            .collect();
        ranked.sort_by(|(a, l), (b, r)| {
            let (l, r) = (&l.product, &r.product);
            b.total_cmp(a).then_with(|| l.name.cmp(&r.name)).then_with(|| l.sku.cmp(&r.sku))
        });
        ranked.into_iter().skip(skip).take(limit).map(|(_, listed)| listed.clone()).collect()
    }

    /// The products with a word, or with one that begins so, and how well each fits.
    fn with_word(&self, word: &str) -> HashMap<u32, f64> {
        let mut found: HashMap<u32, f64> = HashMap::new();
        let all = self.len() as f64;
        let begins = self.words.range::<str, _>(word..).take(COMPLETIONS_MAX);
        for (other, products) in begins.take_while(|(other, _)| other.starts_with(word)) {
            let rarity = (1.0 + all / products.len() as f64).ln();
            let closeness = if **other == *word { 1.0 } else { 0.5 };
            for (id, weight) in products {
                let score = rarity * closeness * f64::from(*weight);
                let best = found.entry(*id).or_default();
                *best = best.max(score);
            }
        }
        found
    }
}

/// The words of a text: runs of letters and digits, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

fn words_of(product: &Product) -> HashMap<Box<str>, u8> {
    let mut found = HashMap::new();
    let texts = [
        (Some(&*product.name), IN_NAME),
        (Some(&*product.sku), IN_NAME),
        (product.category.as_deref(), IN_CATEGORY),
        (product.description.as_deref(), IN_DESCRIPTION),
    ];
    for (text, weight) in texts {
        for word in text.into_iter().flat_map(words) {
            if found.len() < PRODUCT_WORDS_MAX {
                let best: &mut u8 = found.entry(word.into_boxed_str()).or_default();
                *best = (*best).max(weight);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Currency;

    fn product(sku: &str, name: &str, category: &str, description: &str) -> Listed {
        let product = Product {
            sku: sku.parse().expect("legal"),
            name: name.into(),
            category: Some(category.into()),
            price: 100,
            currency: Currency::USD,
            description: Some(description.into()),
        };
        Listed { product, partition: 0, offset: 0 }
    }

    fn index() -> Index {
        let mut index = Index::default();
        for listed in [
            product("1", "Green tea", "Drinks", "from hills"),
            product("2", "Black tea", "Drinks", "strong"),
            product("3", "Teapot", "Kitchen", "for green leaves"),
            product("4", "Grün & Söhne", "Drinks", "tea for two"),
        ] {
            index.put(listed);
        }
        index
    }

    #[track_caller]
    fn finds(index: &Index, query: &str, category: Option<&str>, expect: &[&str]) {
        let found = index.search(query, category, 0, 10);
        let skus: Vec<&str> = found.iter().map(|l| &*l.product.sku).collect();
        assert_eq!(skus, expect, "{query}");
    }

    #[test]
    fn names_come_before_descriptions_and_every_word_counts() {
        let index = index();
        finds(&index, "tea", None, &["2", "1", "3", "4"]);
        finds(&index, "TEA green", None, &["1", "3"]);
        finds(&index, "tea green", Some("kitchen"), &["3"]);
        finds(&index, "söhne", None, &["4"]);
        finds(&index, "tea coffee", None, &[]);
        finds(&index, "?!", None, &[]);
        let second = index.search("tea", None, 1, 1);
        assert_eq!(&*second[0].product.sku, "1");
    }

    #[test]
    fn a_product_that_is_replaced_or_removed_is_not_found_by_its_old_words() {
        let mut index = index();
        index.put(product("1", "Coffee", "Drinks", ""));
        index.remove(&"3".parse().expect("legal"));
        finds(&index, "green", None, &[]);
        finds(&index, "coffee", None, &["1"]);
        assert!(index.list(Some("Kitchen"), None, 10).is_empty());
        for sku in ["1", "2", "4"] {
            index.remove(&sku.parse().expect("legal"));
        }
        assert!(index.words.is_empty() && index.skus.is_empty() && index.categories.is_empty());
    }

    #[test]
    fn lists_go_by_sku_page_by_page() {
        let index = index();
        let skus = |listed: Vec<Listed>| -> Vec<String> {
            listed.iter().map(|l| l.product.sku.to_string()).collect()
        };
        assert_eq!(skus(index.list(None, None, 2)), ["1", "2"]);
        let after = "2".parse().expect("legal");
        assert_eq!(skus(index.list(None, Some(&after), 5)), ["3", "4"]);
        assert_eq!(skus(index.list(Some("drinks"), Some(&after), 5)), ["4"]);
    }
}
