//! The door before a real shop: embedded log, stream threads, simulated gateway, SQLite.

mod shop;

mod bad_input;
mod catalogue;
mod inventory;
mod orders;
mod overload;
mod streams;
mod two;
