//! How the shop runs: a file, the environment and flags become checked [`Settings`].
//!
//! Later sources win: built-in values, then the TOML file of `--config`, then variables
//! `MILLSTREAM_…`, then flags. Sizes and times are text with a unit, such as `256MiB` and `100ms`.
//! A wrong value is an [`Error`] that names the field, the value, what is allowed, and where it
//! came from.
//!
//! ```
//! use millstream_config::{Flags, Settings};
//!
//! let flags = Flags { threads: Some(2), ..Flags::default() };
//! let settings = Settings::load(&Settings::default(), &flags)?;
//! assert_eq!(settings.streams.threads, 2);
//!
//! let flags = Flags { threads: Some(0), ..Flags::default() };
//! let error = Settings::load(&Settings::default(), &flags).expect_err("no thread, no work");
//! assert_eq!(
//!     error.to_string(),
//!     "streams.threads is wrong. value=`0`, allowed: 1 to 64, from: flag --threads"
//! );
//! # Ok::<(), millstream_config::Error>(())
//! ```
//!
//! What this crate is not: it opens nothing but the configuration file, and no setting switches
//! durability off.

mod error;
mod flags;
mod listen;
mod load;
mod role;
mod settings;
mod size;
mod time;

pub use error::{Error, Origin};
pub use flags::Flags;
pub use listen::ListenAddress;
pub use role::{Role, Roles};
pub use settings::{
    GroupProtocol, Inventory, InventoryMode, Kafka, Log, LogFormat, Payment, Settings, Shop,
    Streams,
};
pub use size::{InvalidSize, Size};
pub use time::{InvalidTime, Time};
