//! What tests of whole programs need: processes under control, waiting with a deadline, and a bare
//! HTTP client.
//!
//! Nothing here sleeps for a fixed time: everything waits for a condition, and fails when it does
//! not come about.

mod http;
mod program;
mod wait;

pub use http::{Answer, get, post};
pub use program::{Program, free_port, run};
pub use wait::eventually;
