//! Tests of the program as its users meet it: started as a process, spoken to over HTTP, killed.

mod shop;

mod analytics;
mod bench_kafka;
mod dead_letters;
mod reset;
mod shop_embedded;
mod shop_kafka;
mod usage;
mod waits;
