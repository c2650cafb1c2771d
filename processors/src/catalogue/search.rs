//! `SearchIndex`: which products hold which words, and how well they fit a query.
//!
//! Ranking is BM25 over weighted fields: a word in the name counts three times, in the category
//! twice. A product that holds more of the words asked for comes before one that holds fewer.

use std::collections::{BTreeMap, HashMap};

use crate::model::{Product, Sku};

/// What a word counts in each field.
const NAME_WEIGHT: f32 = 3.0;
const CATEGORY_WEIGHT: f32 = 2.0;
const DESCRIPTION_WEIGHT: f32 = 1.0;
/// BM25: how soon repetitions of a word stop to count.
const SATURATION: f32 = 1.2;
/// BM25: how much long texts are held back.
const LENGTH_SHARE: f32 = 0.75;
/// What a word counts that only begins with the one asked for.
const PREFIX_SHARE: f32 = 0.5;
/// The most words that one beginning stands for.
const PREFIX_WORDS_MAX: usize = 64;
/// Shorter beginnings stand for themselves alone.
const PREFIX_CHARS_MIN: usize = 2;
/// The most words of a query, and of a product, that are looked at.
const QUERY_WORDS_MAX: usize = 16;
const PRODUCT_WORDS_MAX: usize = 2_000;
/// Longer words are cut.
const WORD_CHARS_MAX: usize = 32;

/// Words of products.
#[derive(Debug, Default)]
pub(super) struct SearchIndex {
    /// By word: products, and what the word weighs in them.
    words: BTreeMap<Box<str>, HashMap<Sku, f32>>,
    /// By product: its words, and its length.
    products: HashMap<Sku, (Vec<Box<str>>, f32)>,
    length_sum: f64,
}

impl SearchIndex {
    /// Adds a product that is not there.
    pub(super) fn add(&mut self, sku: &Sku, product: &Product) {
        let fields = [
            (Some(&product.name), NAME_WEIGHT),
            (product.category.as_ref(), CATEGORY_WEIGHT),
            (product.description.as_ref(), DESCRIPTION_WEIGHT),
        ];
        let mut weights: BTreeMap<Box<str>, f32> = BTreeMap::new();
        let mut length = 0.0;
        for (text, weight) in fields {
            let text = text.map(|text| &**text).unwrap_or_default();
            for word in words_of(text).take(PRODUCT_WORDS_MAX) {
                *weights.entry(word).or_default() += weight;
                length += weight;
            }
        }
        let words = weights.keys().cloned().collect();
        for (word, weight) in weights {
            self.words
                .entry(word)
                .or_default()
                .insert(sku.clone(), weight);
        }
        self.products.insert(sku.clone(), (words, length));
        self.length_sum += f64::from(length);
    }

    /// Removes a product, if it is there.
    pub(super) fn remove(&mut self, sku: &Sku) {
        let Some((words, length)) = self.products.remove(sku) else {
            return;
        };
        self.length_sum -= f64::from(length);
        for word in words {
            if let Some(holders) = self.words.get_mut(&word) {
                holders.remove(sku);
                if holders.is_empty() {
                    self.words.remove(&word);
                }
            }
        }
    }

    /// The products that hold at least one of the words, with their scores, in no order.
    pub(super) fn search(&self, query: &str) -> impl Iterator<Item = (f32, &Sku)> {
        let mut asked: Vec<Box<str>> = words_of(query).take(QUERY_WORDS_MAX).collect();
        asked.sort_unstable();
        asked.dedup();
        let mut found: HashMap<&Sku, (f32, u16)> = HashMap::new();
        for word in &asked {
            for (sku, score) in self.scores_of(word) {
                let (sum, matched) = found.entry(sku).or_default();
                *sum += score;
                *matched += 1;
            }
        }
        let asked = asked.len() as f32;
        found.into_iter().map(move |(sku, (sum, matched))| {
            let share = f32::from(matched) / asked;
            (sum * share * share, sku)
        })
    }

    /// What one word of a query is worth in each product: the best of the words that it stands for.
    fn scores_of(&self, word: &str) -> HashMap<&Sku, f32> {
        let mut scores: HashMap<&Sku, f32> = HashMap::new();
        let expand = word.chars().nth(PREFIX_CHARS_MIN - 1).is_some();
        let candidates = self
            .words
            .range::<str, _>((std::ops::Bound::Included(word), std::ops::Bound::Unbounded))
            .take_while(|(it, _)| it.starts_with(word))
            .take(PREFIX_WORDS_MAX)
            .filter(|(it, _)| expand || ***it == *word);
        for (it, holders) in candidates {
            let share = if **it == *word { 1.0 } else { PREFIX_SHARE };
            let rarity = self.rarity(holders.len());
            for (sku, weight) in holders {
                let score = share * rarity * self.saturated(*weight, sku);
                let best = scores.entry(sku).or_default();
                *best = best.max(score);
            }
        }
        scores
    }

    /// Rare words tell more than frequent ones.
    fn rarity(&self, holders: usize) -> f32 {
        let (all, holders) = (self.products.len() as f32, holders as f32);
        (1.0 + (all - holders + 0.5) / (holders + 0.5)).ln()
    }

    fn saturated(&self, weight: f32, sku: &Sku) -> f32 {
        let mean = (self.length_sum / self.products.len().max(1) as f64) as f32;
        let length = self.products.get(sku).map_or(mean, |(_, length)| *length);
        let norm = 1.0 - LENGTH_SHARE + LENGTH_SHARE * length / mean.max(1.0);
        weight * (SATURATION + 1.0) / (weight + SATURATION * norm)
    }
}

/// The words of a text: letters and digits, in lower case, the English plural undone.
fn words_of(text: &str) -> impl Iterator<Item = Box<str>> + '_ {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| {
            let lower: String = word
                .chars()
                .take(WORD_CHARS_MAX)
                .flat_map(char::to_lowercase)
                .collect();
            singular(lower).into_boxed_str()
        })
}

fn singular(mut word: String) -> String {
    let letters = word.chars().count();
    if letters > 4 && word.ends_with("ies") {
        word.truncate(word.len() - 3);
        word.push('y');
    } else if letters > 3 && word.ends_with('s') && !word.ends_with("ss") && !word.ends_with("us") {
        word.truncate(word.len() - 1);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_and_singular() {
        let words = |text| words_of(text).map(String::from).collect::<Vec<_>>();
        assert_eq!(words("TV/MOVIE-MAGAZINES"), ["tv", "movie", "magazine"]);
        assert_eq!(
            words("Berries, glass & citrus; gas"),
            ["berry", "glass", "citrus", "gas"]
        );
        assert_eq!(words("ÄPFEL 7up"), ["äpfel", "7up"]);
        assert_eq!(words(" ,"), [""; 0]);
    }

    #[test]
    fn a_removed_product_leaves_no_trace() {
        let mut index = SearchIndex::default();
        let sku: Sku = "1".parse().expect("legal");
        let product = Product {
            sku: sku.clone(),
            name: "Green tea".into(),
            category: None,
            price: 1,
            currency: crate::model::Currency::USD,
            description: Some("Tea".into()),
        };
        index.add(&sku, &product);
        assert_eq!(index.search("tea").count(), 1);
        index.remove(&sku);
        assert!(index.words.is_empty() && index.products.is_empty());
        assert_eq!(index.length_sum, 0.0);
    }
}
