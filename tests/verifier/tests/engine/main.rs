//! The engine's part of the verifier: it holds on a correct log, and finds each violation that is
//! made for it, and nothing else.

mod log;
mod real;
mod violations;
