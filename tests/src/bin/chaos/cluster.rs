//! `Cluster`: three instances, a broker and a database, and what can be done to them.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

use crate::{
    Options,
    instance::Instance,
    ports::Ports,
    proxy::Link,
    schedule::{Fault, INSTANCES, Server, Step},
    services::{Service, kafka_behind},
};

/// What every instance is told.
const FLAGS: [&str; 6] = [
    "--set",
    "streams.session_timeout=6s",
    "--set",
    "payment.deadline=20s",
    "--set",
    "log.filter=info",
];

/// How long nobody reaches the broker before it is told to stop.
///
/// A broker that stops in order gives up the lead of its partitions while its transaction
/// coordinator still works. Where no other broker has a copy they have no leader then, and Kafka
/// 4.3 takes such a partition for a deleted one: a transaction that is committed in this moment is
/// committed without a word to it, and is open there for ever
/// (`KRaftMetadataCache.getPartitionLeaderEndpoint`). No client can mend that, so no transaction
/// may be on its way.
const QUIET_BEFORE_STOP: Duration = Duration::from_millis(500);

/// Everything that faults can happen to. Dropping it ends it.
pub(crate) struct Cluster {
    pub(crate) instances: Vec<Arc<Instance>>,
    links: Vec<[Link; 2]>,
    kafka: Arc<Service>,
    database: Arc<Service>,
    pub(crate) ports: Ports,
    /// One fault at a time for each instance, link and service.
    instance_turns: [Mutex<()>; INSTANCES],
    link_turns: [[Mutex<()>; 2]; INSTANCES],
    service_turns: [Mutex<()>; 2],
}

impl Cluster {
    /// Starts services and links; instances are started by whoever keeps them.
    pub(crate) async fn start(options: &Options) -> io::Result<Self> {
        let Options {
            binary,
            scripts,
            folder,
            ..
        } = options;
        let ports = Ports::choose()?;
        let kafka = Arc::new(Service::kafka(
            scripts,
            folder,
            ports.kafka,
            ports.kafka_proxies,
        ));
        let database = Arc::new(Service::database(scripts, folder, ports.database));
        let mut links = Vec::new();
        let mut instances = Vec::new();
        for at in 0..INSTANCES {
            let to_kafka = Link::open(ports.kafka_proxies[at], kafka_behind(ports.kafka, at));
            let server = ([127, 0, 0, 1], ports.database).into();
            let to_database = Link::open(ports.database_proxies[at], server);
            links.push([to_kafka.await?, to_database.await?]);
            let mut flags = FLAGS.map(str::to_owned).to_vec();
            flags.extend([
                "--set".to_owned(),
                format!("streams.num_standby_replicas={}", options.standbys()),
                "--bootstrap-servers".to_owned(),
                format!("127.0.0.1:{}", ports.kafka_proxies[at]),
                "--database-url".to_owned(),
                database_url(ports.database_proxies[at]),
            ]);
            let served = ports.instances[at];
            instances.push(Arc::new(Instance::new(at, binary, folder, served, &flags)));
        }
        let cluster = Self {
            instances,
            links,
            kafka,
            database,
            ports,
            instance_turns: Default::default(),
            link_turns: Default::default(),
            service_turns: Default::default(),
        };
        tokio::try_join!(
            cluster.on(Server::Kafka, Service::start),
            cluster.on(Server::Database, Service::start),
        )?;
        Ok(cluster)
    }

    /// Where tools find the log, past the proxies.
    pub(crate) fn log_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.kafka)
    }

    /// Where tools find the tables, past the proxies.
    pub(crate) fn database_url(&self) -> String {
        database_url(self.ports.database)
    }

    /// Has a fault happen; returns when it is over.
    pub(crate) async fn suffer(&self, step: Step) -> io::Result<()> {
        let _turn = self.turn(step.fault).await;
        let lasts = step.lasts;
        match step.fault {
            Fault::Kill(at) => self.instances[at].kill(lasts).await,
            Fault::Zombie(at) => self.instances[at].freeze(lasts).await,
            Fault::Link(at, server, harm) => {
                let link = &self.links[at][server as usize];
                link.set(Some(harm));
                sleep(lasts).await;
                link.set(None);
                Ok(())
            }
            Fault::Stop(Server::Kafka) => {
                self.close_kafka_links(true);
                sleep(QUIET_BEFORE_STOP).await;
                let stopped = self.restart(Server::Kafka, Service::stop, lasts).await;
                self.close_kafka_links(false);
                stopped
            }
            Fault::Stop(Server::Database) => {
                self.restart(Server::Database, Service::stop, lasts).await
            }
            Fault::Crash(server) => self.restart(server, Service::kill, lasts).await,
            Fault::Pause(server) => {
                self.on(server, |service| service.signal("STOP")).await?;
                sleep(lasts).await;
                self.on(server, |service| service.signal("CONT")).await
            }
        }
    }

    fn close_kafka_links(&self, closed: bool) {
        for links in &self.links {
            links[Server::Kafka as usize].close(closed);
        }
    }

    async fn turn(&self, fault: Fault) -> MutexGuard<'_, ()> {
        match fault {
            Fault::Kill(at) | Fault::Zombie(at) => self.instance_turns[at].lock().await,
            Fault::Link(at, server, _) => self.link_turns[at][server as usize].lock().await,
            Fault::Stop(server) | Fault::Crash(server) | Fault::Pause(server) => {
                self.service_turns[server as usize].lock().await
            }
        }
    }

    async fn restart(
        &self,
        server: Server,
        end: fn(&Service) -> io::Result<()>,
        away: Duration,
    ) -> io::Result<()> {
        self.on(server, end).await?;
        sleep(away).await;
        self.on(server, Service::start).await
    }

    async fn on(
        &self,
        server: Server,
        act: impl FnOnce(&Service) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let service = match server {
            Server::Kafka => self.kafka.clone(),
            Server::Database => self.database.clone(),
        };
        let done = tokio::task::spawn_blocking(move || act(&service)).await;
        done.map_err(io::Error::other)?
    }
}

fn database_url(port: u16) -> String {
    format!("mysql://millstream:millstream@127.0.0.1:{port}/millstream")
}
