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

/// Bytes of which up to 22 lie in the value itself. Keys of integers and their values need no allocation, and
/// comparing them follows no pointer: that is half of the cost of a commit.
#[derive(Clone)]
pub(crate) struct Blob(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Arc<[u8]>),
}

const _: () = assert!(size_of::<Blob>() == 24, "a blob is as large as a `Vec`");

impl From<&[u8]> for Blob {
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

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
impl Eq for Blob {}

impl PartialOrd for Blob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Blob {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// As the hash of the slice, because maps are asked with slices.
impl Hash for Blob {
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

    #[test]
    fn order_is_that_of_the_bytes_whatever_their_place() {
        let (long, short) = (vec![1; 40], vec![2; 3]);
        assert!(Blob::from(&long[..]) < Blob::from(&short[..]));
    }
}
