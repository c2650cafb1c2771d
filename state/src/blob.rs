//! `Blob`: a short string of bytes that is cheap to clone.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

const INLINE_BYTES: usize = 22;

/// Bytes of which up to 22 lie in the value itself. Keys of integers and their values need no
/// allocation, and comparing them follows no pointer: that is half of the cost of a commit.
#[derive(Clone)]
pub(crate) struct Blob(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Arc<[u8]>),
}

const _: () = assert!(size_of::<Blob>() == 24, "a blob is as large as a `Vec`");

impl From<&[u8]> for Blob {
    #[inline]
    fn from(slice: &[u8]) -> Self {
        if slice.len() > INLINE_BYTES {
            return Self(Repr::Shared(slice.into()));
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..slice.len()].copy_from_slice(slice);
        Self(Repr::Inline {
            len: slice.len() as u8,
            bytes,
        })
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Deref for Blob {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Blob {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl AsRef<[u8]> for Blob {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Blob {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Blob {}

impl PartialOrd for Blob {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Blob {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // Bytes behind the end are zero, so the length decides only where one is the other and
            // zeros.
            (
                Repr::Inline { len, bytes },
                Repr::Inline {
                    len: other_len,
                    bytes: other_bytes,
                },
            ) => words(bytes)
                .cmp(&words(other_bytes))
                .then(len.cmp(other_len)),
            (Repr::Inline { .. } | Repr::Shared(_), _) => (**self).cmp(&**other),
        }
    }
}

/// Numbers that are ordered as the bytes are: two comparisons instead of a call.
#[inline]
fn words(bytes: &[u8; INLINE_BYTES]) -> (u128, u64) {
    let (head, tail) = bytes.split_at(size_of::<u128>());
    let mut last = [0; size_of::<u64>()];
    last[..tail.len()].copy_from_slice(tail);
    let head = head.try_into().expect("a head has 16 bytes");
    (u128::from_be_bytes(head), u64::from_be_bytes(last))
}

/// As the hash of the slice, because maps are asked with slices.
impl Hash for Blob {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_keeps_its_bytes() {
        for len in 0..64u8 {
            let bytes: Vec<u8> = (0..len).collect();
            assert_eq!(*Blob::from(&bytes[..]), bytes[..]);
        }
    }

    proptest::proptest! {
        #[test]
        fn order_is_that_of_the_bytes(
            a in proptest::collection::vec(0..3u8, 0..30),
            b in proptest::collection::vec(0..3u8, 0..30),
        ) {
            let (left, right) = (Blob::from(&a[..]), Blob::from(&b[..]));
            proptest::prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            proptest::prop_assert_eq!(left == right, a == b);
        }
    }
}
