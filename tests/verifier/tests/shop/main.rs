//! The shop's part of the verifier: it holds on a shop in order, and finds each violation that is
//! made for it, and nothing else.

mod facts;
mod log;
mod orders;
mod tables;
