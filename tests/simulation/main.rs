//! Whole applications in the simulated log: several instances that crash, freeze, lose their places
//! and their answers, in an order that a seed decides, and exactly the right output at the end.
//!
//! A failing seed is printed. `MILLSTREAM_SIM_SEED=7` runs that one alone, and
//! `MILLSTREAM_SIM_SEEDS=100000` more of them than usual.

mod aggregates;
mod cases;
mod chance;
mod checks;
mod joins;
mod machine;
mod seeds;
mod shop;
mod small;
mod spots;
mod sweep;
mod tally;
mod timers;
mod world;
