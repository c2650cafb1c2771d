//! `Layered`: two ordered sequences as one, of which the upper hides equal keys of the lower.

use std::{cmp::Ordering, iter::Peekable};

/// Entries of both sides by ascending key; of equal keys the upper's entry only.
pub(crate) struct Layered<A: Iterator, B: Iterator> {
    upper: Peekable<A>,
    lower: Peekable<B>,
}

impl<A: Iterator, B: Iterator> Layered<A, B> {
    pub(crate) fn new(upper: A, lower: B) -> Self {
        Self {
            upper: upper.peekable(),
            lower: lower.peekable(),
        }
    }
}

impl<K, V, A, B> Iterator for Layered<A, B>
where
    K: AsRef<[u8]>,
    A: Iterator<Item = (K, V)>,
    B: Iterator<Item = (K, V)>,
{
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        let order = match (self.upper.peek(), self.lower.peek()) {
            (Some((upper, _)), Some((lower, _))) => upper.as_ref().cmp(lower.as_ref()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.upper.next(),
            Ordering::Greater => self.lower.next(),
            Ordering::Equal => {
                self.lower.next();
                self.upper.next()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_side_wins() {
        let upper = [("a", 1), ("c", 1)];
        let lower = [("b", 2), ("c", 2), ("d", 2)];
        let merged: Vec<_> = Layered::new(upper.into_iter(), lower.into_iter()).collect();
        assert_eq!(merged, [("a", 1), ("b", 2), ("c", 1), ("d", 2)]);
    }
}
