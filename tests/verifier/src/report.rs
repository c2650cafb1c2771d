//! `Report`: what was found, promise by promise.

use std::fmt;

/// Examples of one broken promise that are kept; all are counted.
pub const EXAMPLES_MAX: usize = 20;

/// What was found about one promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The promise.
    pub promise: &'static str,
    /// How many things were looked at.
    pub checked: u64,
    /// How many of them break it.
    pub broken: u64,
    /// The first of those, in words, values last.
    pub examples: Vec<String>,
    /// What was left out, if not everything could be looked at.
    pub bounded: Option<String>,
}

impl Row {
    /// Nothing was looked at yet.
    pub fn new(promise: &'static str) -> Self {
        Self {
            promise,
            checked: 0,
            broken: 0,
            examples: Vec::new(),
            bounded: None,
        }
    }

    /// Looks at one thing.
    pub fn expect(&mut self, holds: bool, example: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.breaks(example);
        }
    }

    /// So many things hold.
    pub(crate) fn hold(&mut self, things: u64) {
        self.checked += things;
    }

    /// One of the things that were looked at breaks the promise.
    pub(crate) fn breaks(&mut self, example: impl FnOnce() -> String) {
        self.broken += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }

    /// Not everything could be looked at; the first reason stays.
    pub(crate) fn bound(&mut self, what: impl FnOnce() -> String) {
        self.bounded.get_or_insert_with(what);
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By promise, in the order in which they are told.
    pub rows: Vec<Row>,
}

impl Report {
    /// True when no promise is broken.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.broken == 0)
    }

    /// The promises that are broken.
    pub fn broken(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.broken > 0)
    }

    /// What was found about a promise.
    pub fn row(&self, promise: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.promise == promise)
    }
}

impl FromIterator<Row> for Report {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        Self {
            rows: rows.into_iter().collect(),
        }
    }
}

impl Extend<Row> for Report {
    fn extend<I: IntoIterator<Item = Row>>(&mut self, rows: I) {
        self.rows.extend(rows);
    }
}

/// A line for each promise and each example, for the message of a test that fails.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let (promise, checked, broken) = (row.promise, row.checked, row.broken);
            writeln!(f, "{promise}: checked={checked}, broken={broken}")?;
            for example in &row.examples {
                writeln!(f, "  broken: {example}")?;
            }
            if let Some(left_out) = &row.bounded {
                writeln!(f, "  not everything: {left_out}")?;
            }
        }
        Ok(())
    }
}
