//! The one error of the public API, and what a caller can do about each kind.

use std::{fmt, sync::Arc};

/// Any error of a user's function or of a library below.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A result with Millstream's error.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The configuration is wrong: correct it and start again.
    Config,
    /// The topology cannot be: correct the program.
    Topology,
    /// A record cannot be read or written: skip it or set it aside.
    Data,
    /// A function of the user failed on a record: skip it, set it aside, or stop.
    User,
    /// Local state failed: the task is closed and rebuilt from its changelog.
    State,
    /// The log failed: tried again, after an abort where there was a transaction.
    Broker,
    /// Somebody else owns the work now: drop it and join again.
    Fenced,
}

/// An error with its [kind](Error::kind), the node it happened in, and its source.
///
/// ```
/// use millstream_topology::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::Config, "no such store. store=`counts`");
/// assert_eq!(error.kind(), ErrorKind::Config);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    node: Option<Arc<str>>,
    output: bool,
    source: Option<BoxError>,
}

impl Error {
    /// An error of that kind. The message is lower case, without a full stop, values last.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            node: None,
            output: false,
            source: None,
        }))
    }

    /// An error of that kind that has `source` as its cause.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<BoxError>,
    ) -> Self {
        let mut error = Self::new(kind, message);
        error.0.source = Some(source.into());
        error
    }

    /// Names the node it happened in; the innermost node wins.
    #[must_use]
    pub fn in_node(mut self, node: &Arc<str>) -> Self {
        self.0.node.get_or_insert_with(|| node.clone());
        self
    }

    /// Says that a result could not be written: it does not encode, or has no topic to go to.
    #[must_use]
    pub fn on_output(mut self) -> Self {
        self.0.output = true;
        self
    }

    /// True when a result could not be written, rather than a record read or processed.
    pub fn is_on_output(&self) -> bool {
        self.0.output
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The node it happened in, if it happened in one.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The message and those of all sources, in one line.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            line.push_str(": ");
            line.push_str(&error.to_string());
            source = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.node {
            Some(node) => write!(f, ", node=`{node}`"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_the_innermost_node_and_every_source_once() {
        let inner = Error::caused(ErrorKind::User, "function failed", "no such sku");
        let error = inner.in_node(&"price".into()).in_node(&"outer".into());
        assert_eq!(error.chain(), "function failed, node=`price`: no such sku");
    }
}
