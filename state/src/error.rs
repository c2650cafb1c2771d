//! What can go wrong with state, as the source of a [`millstream_topology::Error`].

use millstream_topology::{BoxError, Error, ErrorKind};

/// A result with Millstream's error.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// The cause of an error of kind [`ErrorKind::State`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes on disk are not what was written: the task's directory must go.
    #[error("stored bytes are damaged")]
    Corrupt {
        /// What found it.
        source: BoxError,
    },
    /// Another database handle has the directory open.
    #[error("state directory is in use by another process or task")]
    Locked {
        /// What the operating system said.
        source: BoxError,
    },
    /// The disk has no room. Nothing is lost; it can be tried again when there is some.
    #[error("no space is left for state; make room")]
    Full {
        /// What the operating system said.
        source: BoxError,
    },
    /// The disk or the database failed.
    #[error("reading or writing the state directory failed")]
    Io {
        /// What failed.
        source: BoxError,
    },
    /// Another version of Millstream wrote the bytes.
    #[error("state has a format of another version. found={found:?}, known={known}")]
    Format {
        /// The version that is stored; `None` where entries exist without one.
        found: Option<u8>,
        /// The version that this program writes.
        known: u8,
    },
    /// A store's kind was changed but not its name.
    #[error("store was of another kind before; give it a new name. store=`{store}`")]
    KindChanged {
        /// The store.
        store: String,
    },
    /// One task has more stores than prefixes.
    #[error("task has had too many stores. store=`{store}`")]
    TooManyStores {
        /// The first store that has no place.
        store: String,
    },
    /// A stored key or value does not decode with the store's codec.
    #[error("stored entry does not decode. store=`{store}`")]
    Undecodable {
        /// The store.
        store: String,
        /// What the codec said.
        source: BoxError,
    },
}

impl Fault {
    /// The fault behind an error, if state is where it began.
    pub fn of(error: &Error) -> Option<&Self> {
        let first = std::error::Error::source(error);
        let mut sources = std::iter::successors(first, |error| error.source());
        sources.find_map(|source| source.downcast_ref())
    }

    /// True when the bytes on disk cannot be used by this program, so that the task must be built
    /// anew. Not so for an entry that does not decode: files carry checksums, so its codec was
    /// changed, and its changelog has the same bytes.
    pub fn means_rebuild(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Format { .. } => true,
            Self::Undecodable { .. }
            | Self::Locked { .. }
            | Self::Full { .. }
            | Self::Io { .. }
            | Self::KindChanged { .. }
            | Self::TooManyStores { .. } => false,
        }
    }

    pub(crate) fn corrupt(found: impl Into<BoxError>) -> Error {
        let source = found.into();
        Self::Corrupt { source }.into()
    }

    pub(crate) fn undecodable(store: &str, source: impl Into<BoxError>) -> Error {
        Self::Undecodable {
            store: store.to_owned(),
            source: source.into(),
        }
        .into()
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::caused(ErrorKind::State, "state failed", fault)
    }
}

/// A key or value that the user's codec refuses to write.
pub(crate) fn unwritable(store: &str, what: &str, source: BoxError) -> Error {
    Error::caused(
        ErrorKind::Data,
        format!("{what} does not encode. store=`{store}`"),
        source,
    )
}
