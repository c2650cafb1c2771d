//! `Failure`: why a program ends without success, and with which exit code.

use std::{error::Error, fmt, process::ExitCode};

use millstream_topology::ErrorKind;

/// Why a program ends without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was called or configured wrongly: exit code 2.
    Usage(String),
    /// It failed while running: exit code 1.
    Failed(String),
    /// What it needs does not answer; a little later it may: exit code 1 for those who do not wait.
    Away(String),
    /// It ran, and has said itself what was wrong: exit code 1.
    Told,
}

/// What a program returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// It failed at `what`.
    pub(crate) fn at(what: impl fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self::Failed(format!("{what}: {}", chain(error)))
    }

    /// Prints the reason and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(reason) => {
                eprintln!("millstream: {reason}");
                ExitCode::from(2)
            }
            Self::Failed(reason) | Self::Away(reason) => {
                eprintln!("millstream: {reason}");
                ExitCode::from(1)
            }
            Self::Told => ExitCode::from(1),
        }
    }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

impl From<millstream_config::Error> for Failure {
    fn from(error: millstream_config::Error) -> Self {
        Self::Usage(chain(&error))
    }
}

impl From<millstream_topology::Error> for Failure {
    fn from(error: millstream_topology::Error) -> Self {
        match error.kind() {
            ErrorKind::Config | ErrorKind::Topology => Self::Usage(error.chain()),
            ErrorKind::Data | ErrorKind::User | ErrorKind::State | ErrorKind::Fenced => {
                Self::Failed(error.chain())
            }
            ErrorKind::Broker => Self::Away(error.chain()),
        }
    }
}

impl From<millstream_broker::Error> for Failure {
    fn from(error: millstream_broker::Error) -> Self {
        match &error {
            millstream_broker::Error::Client { .. } | millstream_broker::Error::Full => {
                Self::Away(chain(&error))
            }
            _ => Self::Failed(chain(&error)),
        }
    }
}

impl From<millstream_verifier::Error> for Failure {
    fn from(error: millstream_verifier::Error) -> Self {
        match error {
            millstream_verifier::Error::Topology(error) => error.into(),
            millstream_verifier::Error::Tables(error) => error.into(),
            error => Self::Failed(chain(&error)),
        }
    }
}

impl From<millstream_sinks::Error> for Failure {
    fn from(error: millstream_sinks::Error) -> Self {
        match &error {
            millstream_sinks::Error::Url { .. } => Self::Usage(chain(&error)),
            error if error.is_temporary() => Self::Away(chain(error)),
            _ => Self::Failed(chain(&error)),
        }
    }
}
