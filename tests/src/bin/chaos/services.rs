//! Kafka and MariaDB, through the scripts that start and stop them.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    process::signal,
    schedule::{INSTANCES, KAFKA_PAUSE_MS_MAX},
};

/// After a kill the controller waits for the lost broker's session to end: the longest pause and a
/// little more.
const BROKER_SESSION: Duration = Duration::from_millis(KAFKA_PAUSE_MS_MAX + 2_000);

/// A service of this run. It is killed and deleted when this is dropped.
pub(crate) struct Service {
    script: PathBuf,
    folder: PathBuf,
    start: Vec<String>,
}

impl Service {
    /// The broker on `port`, with a listener for each instance behind it that tells clients to come
    /// to that instance's proxy.
    pub(crate) fn kafka(
        scripts: &Path,
        folder: &Path,
        port: u16,
        proxies: [u16; INSTANCES],
    ) -> Self {
        let mut listeners = format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{}",
            port + 1
        );
        let mut advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}");
        let mut protocols = "listener.security.protocol.map=\
             CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"
            .to_owned();
        for (instance, proxy) in proxies.iter().enumerate() {
            let behind = listener(port, instance);
            listeners += &format!(",EXT{instance}://127.0.0.1:{behind}");
            advertised += &format!(",EXT{instance}://127.0.0.1:{proxy}");
            protocols += &format!(",EXT{instance}:PLAINTEXT");
        }
        let settings = [
            listeners,
            advertised,
            protocols,
            "inter.broker.listener.name=PLAINTEXT".to_owned(),
            // Longer than any pause. A broker that wakes up after its session has lost the lead of
            // its partitions, and may lose markers of transactions as one that stops in order does.
            format!("broker.session.timeout.ms={}", BROKER_SESSION.as_millis()),
            "broker.heartbeat.interval.ms=500".to_owned(),
        ];
        let settings = settings
            .into_iter()
            .flat_map(|setting| ["--set".to_owned(), setting]);
        Self::new(scripts.join("kafka"), folder.join("kafka"), port, settings)
    }

    /// The database server on `port`.
    pub(crate) fn database(scripts: &Path, folder: &Path, port: u16) -> Self {
        Self::new(scripts.join("mariadb"), folder.join("mariadb"), port, [])
    }

    fn new(
        script: PathBuf,
        folder: PathBuf,
        port: u16,
        more: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut start = vec!["start".to_owned(), "--port".to_owned(), port.to_string()];
        start.extend(more);
        Self {
            script,
            folder,
            start,
        }
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(&self) -> io::Result<()> {
        let arguments: Vec<&str> = self.start.iter().map(String::as_str).collect();
        self.run(&arguments)
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn stop(&self) -> io::Result<()> {
        self.run(&["stop"])
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.run(&["kill"])
    }

    /// Sends its process a signal.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        let pid = std::fs::read_to_string(self.folder.join("pid"))?;
        signal(pid.trim().parse().map_err(io::Error::other)?, name)
    }

    fn run(&self, arguments: &[&str]) -> io::Result<()> {
        let mut command = Command::new(&self.script);
        command.args(arguments).arg("--dir").arg(&self.folder);
        let done = command.stdin(Stdio::null()).output()?;
        match done.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{} {}: {}",
                self.script.display(),
                arguments[0],
                String::from_utf8_lossy(&done.stderr)
            ))),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The broker's logs stay for whoever looks for a cause; its data go with the folder.
        if let Err(error) = self.kill() {
            eprintln!("chaos: {error}");
        }
    }
}

/// The broker's listener of an instance. The controller's is the next behind the broker's own.
fn listener(port: u16, instance: usize) -> u16 {
    port + 2 + instance as u16
}

/// Where the proxy of an instance finds the broker.
pub(crate) fn kafka_behind(port: u16, instance: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], listener(port, instance)))
}
