//! Baskets and catalogues: what `demo`, `load` and `import` read.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::failure::{Failure, Outcome};

/// The sample that the program carries, so that a demo needs nothing but the binary.
const SAMPLE_ORDERS: &[u8] = include_bytes!("../data/orders.jsonl.gz");
const SAMPLE_PRODUCTS: &[u8] = include_bytes!("../data/products.csv.gz");

/// The currency of the sample's prices.
pub(crate) const CURRENCY: &str = "USD";

/// What a household carried to the till.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Basket {
    /// Its name in the source.
    pub(crate) order: String,
    /// The household.
    pub(crate) customer: String,
    /// When, in epoch milliseconds.
    pub(crate) ts: i64,
    /// The products.
    pub(crate) lines: Vec<BasketLine>,
}

/// One product of a basket.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BasketLine {
    /// The product.
    pub(crate) sku: String,
    /// How many pieces.
    #[serde(rename = "qty")]
    pub(crate) quantity: u32,
}

/// A row of a catalogue.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Product {
    /// Its number.
    pub(crate) sku: String,
    /// Its name.
    pub(crate) name: String,
    /// What it is filed under.
    #[serde(default)]
    pub(crate) category: Option<String>,
    /// Price of one piece in cents.
    pub(crate) price_cents: i64,
}

/// A row of a stock list.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StockRow {
    /// The product.
    pub(crate) sku: String,
    /// How many pieces come in.
    pub(crate) quantity: i64,
}

/// Baskets with their catalogue.
#[derive(Debug)]
pub(crate) struct Baskets {
    /// In the order of time.
    pub(crate) baskets: Vec<Basket>,
    /// The products in them.
    pub(crate) products: Vec<Product>,
}

impl Baskets {
    /// `orders.jsonl.gz` and `products.csv.gz` of a folder, or the sample that is built in.
    pub(crate) fn open(folder: Option<&Path>) -> Outcome<Self> {
        let Some(folder) = folder else {
            return Ok(Self {
                baskets: baskets(SAMPLE_ORDERS, "the built-in sample")?,
                products: rows(SAMPLE_PRODUCTS, "the built-in sample")?,
            });
        };
        Ok(Self {
            baskets: read_baskets(&either(folder, "orders.jsonl.gz", "orders.jsonl"))?,
            products: read_rows(&either(folder, "products.csv.gz", "products.csv"))?,
        })
    }
}

fn either(folder: &Path, first: &str, second: &str) -> std::path::PathBuf {
    let second = folder.join(second);
    if second.is_file() {
        second
    } else {
        folder.join(first)
    }
}

/// The baskets of a JSON Lines file, gzipped or not.
pub(crate) fn read_baskets(file: &Path) -> Outcome<Vec<Basket>> {
    baskets(open(file)?, &file.display().to_string())
}

/// The rows of a CSV file with a header, gzipped or not.
pub(crate) fn read_rows<T: for<'de> Deserialize<'de>>(file: &Path) -> Outcome<Vec<T>> {
    rows(open(file)?, &file.display().to_string())
}

fn open(file: &Path) -> Outcome<File> {
    File::open(file)
        .map_err(|e| Failure::Usage(format!("cannot be read. file=`{}`: {e}", file.display())))
}

fn baskets(source: impl Read + 'static, name: &str) -> Outcome<Vec<Basket>> {
    let lines = BufReader::new(plain(source, name)?).lines();
    let mut baskets = Vec::new();
    for (at, line) in lines.enumerate() {
        let line = line.map_err(|e| unreadable(name, at + 1, &e))?;
        if !line.trim().is_empty() {
            baskets.push(serde_json::from_str(&line).map_err(|e| unreadable(name, at + 1, &e))?);
        }
    }
    Ok(baskets)
}

fn rows<T: for<'de> Deserialize<'de>>(source: impl Read + 'static, name: &str) -> Outcome<Vec<T>> {
    let mut rows = csv::Reader::from_reader(plain(source, name)?);
    // The header is the first line.
    let numbered = rows.deserialize().enumerate();
    numbered
        .map(|(at, row)| row.map_err(|e| unreadable(name, at + 2, &e)))
        .collect()
}

/// What is behind gzip, or the source itself if it is not gzipped.
fn plain(source: impl Read + 'static, name: &str) -> Outcome<Box<dyn Read>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let mut source = BufReader::new(source);
    let head = source.fill_buf().map_err(|e| unreadable(name, 1, &e))?;
    Ok(match head.starts_with(&GZIP) {
        true => Box::new(MultiGzDecoder::new(source)),
        false => Box::new(source),
    })
}

fn unreadable(name: &str, line: usize, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::at(
        format!("a line cannot be read. file=`{name}`, line={line}"),
        error,
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_sample_is_whole() {
        let sample = Baskets::open(None).expect("built in");
        assert_eq!(sample.baskets.len(), 10_000);
        let skus: std::collections::HashSet<_> = sample.products.iter().map(|p| &p.sku).collect();
        assert!(
            sample
                .baskets
                .iter()
                .flat_map(|b| &b.lines)
                .all(|l| skus.contains(&l.sku))
        );
        assert!(sample.baskets.is_sorted_by_key(|b| b.ts));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, r#"{{"order":"1","customer":"2","ts":3,"lines":[]}}"#).expect("written");
        writeln!(file, r#"{{"order":"1"}}"#).expect("written");
        let Err(Failure::Failed(reason)) = read_baskets(file.path()) else {
            panic!("a basket without lines was taken");
        };
        assert!(reason.contains("line=2"), "{reason}");
    }
}
