//! The sink's protocol, tested with a scripted log and real databases: SQLite always, MariaDB or
//! MySQL when `MILLSTREAM_TEST_MYSQL` names one.

mod databases;
mod log;
mod migrations;
mod protocol;
mod shop;

use std::sync::Arc;

use crate::writer::Point;

/// Called at each step of a batch; what it answers, the step does.
pub(crate) type Inject = Arc<dyn Fn(Point) -> Result<(), sqlx::Error> + Send + Sync>;
