//! Tests of the program as its users meet it: started as a process, spoken to over HTTP, killed.

mod shop;

mod analytics;
mod shop_embedded;
mod usage;
