//! `AdminState`: what the operations pages look at.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use millstream_broker::{Admin, TopicPartition};
use millstream_runtime::{Application, Health, Members, Queries, Status, full_name};
use millstream_topology::{Description, TopicRole};

use super::{Figure, lag::LagCache, metrics::StoreEntries, topology::Sampler};
use crate::Peer;

/// When those who ask for something that is on its way may ask again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Something else that should be well when a program serves.
pub struct Check {
    /// Its name, shown while it fails.
    pub name: &'static str,
    /// Says why it is not well. Called for every request: it must not block.
    pub run: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// What the operations pages look at: a running application, its log, and what a program adds.
///
/// It does not keep the application alive: once its owner has closed it, pages say that it stops.
pub struct AdminState {
    application: Weak<Application>,
    pub(crate) application_id: String,
    pub(crate) description: Description,
    /// The topics that the application reads, by full name.
    pub(crate) inputs: Vec<Arc<str>>,
    pub(crate) queries: Queries,
    pub(crate) members: Members,
    pub(crate) log: Arc<dyn Admin>,
    pub(crate) peer: Peer,
    pub(crate) figures: Vec<Figure>,
    pub(crate) checks: Vec<Check>,
    pub(crate) changes: bool,
    /// Held while threads are added and removed.
    pub(crate) moving: Mutex<()>,
    pub(crate) notices: Vec<Check>,
    pub(crate) sampler: Sampler,
    pub(crate) lag: LagCache,
    pub(crate) entries: StoreEntries,
}

impl AdminState {
    /// Looks at an application that runs on that log under that id.
    pub fn new(
        application: &Arc<Application>,
        application_id: impl Into<String>,
        log: Arc<dyn Admin>,
    ) -> Self {
        let application_id = application_id.into();
        let topology = application.topology();
        let sources = topology.subtopologies().iter().flat_map(|sub| &sub.sources);
        let inputs = sources
            .map(|(topic, role)| full_name(&application_id, topic, *role))
            .collect();
        Self {
            application: Arc::downgrade(application),
            description: topology.describe(),
            inputs,
            queries: application.queries(),
            members: application.members(),
            application_id,
            log,
            peer: Peer::new(),
            figures: Vec::new(),
            checks: Vec::new(),
            changes: false,
            moving: Mutex::default(),
            notices: Vec::new(),
            sampler: Sampler::default(),
            lag: LagCache::default(),
            entries: StoreEntries::default(),
        }
    }

    /// Adds a figure to `/metrics`.
    #[must_use]
    pub fn with_figure(mut self, figure: Figure) -> Self {
        self.figures.push(figure);
        self
    }

    /// Adds a condition to `/ready`.
    #[must_use]
    pub fn with_check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Adds the routes that change the running application. Nobody is asked who he is: only for
    /// addresses that nobody reaches but its operators.
    #[must_use]
    pub fn with_changes(mut self) -> Self {
        self.changes = true;
        self
    }

    /// To be held for a moment only: whoever lets it go last closes it.
    pub(crate) fn application(&self) -> Option<Arc<Application>> {
        self.application.upgrade()
    }

    /// Adds something that `/ready` tells of while it is not well, and answers 200 all the same:
    /// what no other instance would do better, such as a database that is away while orders go on.
    #[must_use]
    pub fn with_notice(mut self, notice: Check) -> Self {
        self.notices.push(notice);
        self
    }

    /// Whether the application serves.
    pub(crate) fn health(&self) -> Health {
        self.application().map_or(Health::Stopping, |a| a.health())
    }

    pub(crate) fn health_name(&self) -> &'static str {
        match self.health() {
            Health::Starting => "starting",
            Health::Running => "running",
            Health::Paused => "paused",
            Health::Stalled(_) => "stalled",
            Health::Stopping => "stopping",
            Health::Failed(_) => "failed",
        }
    }

    /// What it is doing at this moment.
    pub(crate) fn status(&self) -> Status {
        self.application().map(|a| a.status()).unwrap_or_default()
    }

    /// The name of a topic on the log.
    pub(crate) fn full_name(&self, topic: &str, internal: bool) -> Arc<str> {
        let role = match internal {
            true => TopicRole::Repartition { partitions: None },
            false => TopicRole::External,
        };
        full_name(&self.application_id, topic, role)
    }

    /// The partitions that the application reads, and where this instance stands in those it runs.
    pub(crate) fn local_positions(&self) -> Vec<(TopicPartition, i64)> {
        let status = self.status();
        let positions = status
            .threads
            .into_iter()
            .flat_map(|t| t.tasks)
            .flat_map(|t| t.positions);
        let parsed = positions.filter_map(|(name, position)| {
            let (topic, partition) = name.rsplit_once('-')?;
            Some((
                TopicPartition::new(topic, partition.parse().ok()?),
                position,
            ))
        });
        parsed.collect()
    }
}
