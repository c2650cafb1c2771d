//! `Ports`: the ports of a run, which stay its own while their servers are away.

use std::{io, net::TcpListener};

use crate::schedule::INSTANCES;

/// Ports that this chooses from: below those that Linux gives to outgoing connections, which could
/// take the port of a server that is away.
const FIRST: u16 = 12_000;
const BLOCKS: u32 = 200;
/// One run's ports follow each other.
const BLOCK: u16 = 20;

/// The ports of a run.
pub(crate) struct Ports {
    /// The broker's; the next is the controller's, then come the listeners behind the proxies.
    pub(crate) kafka: u16,
    pub(crate) database: u16,
    pub(crate) kafka_proxies: [u16; INSTANCES],
    pub(crate) database_proxies: [u16; INSTANCES],
    /// For customers, and for operators.
    pub(crate) instances: [(u16, u16); INSTANCES],
}

impl Ports {
    /// Ports that nobody listens at.
    pub(crate) fn choose() -> io::Result<Self> {
        let own = std::process::id();
        let firsts = (0..BLOCKS).map(|at| FIRST + ((own + at) % BLOCKS) as u16 * BLOCK);
        let is_free = |first: &u16| {
            (*first..*first + BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        };
        let first = firsts.into_iter().find(is_free);
        let first = first.ok_or_else(|| io::Error::other("no free ports"))?;
        let place = |at: usize| first + at as u16;
        let kafka_ports = 2 + INSTANCES;
        let some = |from: usize| std::array::from_fn(|at| place(from + at));
        let served: [u16; INSTANCES] = some(kafka_ports + 1 + 2 * INSTANCES);
        let admin: [u16; INSTANCES] = some(kafka_ports + 1 + 3 * INSTANCES);
        Ok(Self {
            kafka: first,
            database: place(kafka_ports),
            kafka_proxies: some(kafka_ports + 1),
            database_proxies: some(kafka_ports + 1 + INSTANCES),
            instances: std::array::from_fn(|at| (served[at], admin[at])),
        })
    }
}
