//! What is logged goes to standard error, so that standard output holds answers alone.

use std::io::IsTerminal;

use millstream_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Outcome};

/// Starts logging. A second call changes nothing.
pub(crate) fn start(log: &Log) -> Outcome {
    let filter = EnvFilter::try_new(&log.filter).map_err(|e| {
        let filter = &log.filter;
        Failure::Usage(format!(
            "log.filter is wrong. value=`{filter}`, allowed: directives such as \
             info,millstream_runtime=debug: {e}"
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // An error says that there is a subscriber already.
    let _ = match log.format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
