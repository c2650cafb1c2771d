//! The sink's protocol, tested with a scripted log and real databases: SQLite always, MariaDB or
//! MySQL when `MILLSTREAM_TEST_MYSQL` names one.

mod chaos;
mod crashes;
mod databases;
mod faults;
mod log;
mod migrations;
mod outages;
mod protocol;
mod proxy;
mod refusals;
mod shop;
mod world;

pub(crate) use faults::Hook;
