//! `World`: instances of one application on one simulated log, and everything that befalls them.

mod standbys;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Appender, Broker, Cleanup, NewTopic, OwnedRecord, TopicPartition,
    sim::{Committed, SimClient, SimConfig, SimLog},
};
use millstream_operators::Topology;
use millstream_runtime::{Config, Health, Part, Policies, Stepped, full_name};
use millstream_topology::{Headers, SubTopology, TaskId, partition_for_key};

use crate::{
    chance::Chance,
    machine::{Clock, Disk, Mounted},
    seeds::silence_panics,
    spots::{Spot, SpotFaults, SpotPlan, Watch},
};

/// The application's id.
pub(crate) const APP: &str = "app";
const SESSION: Duration = Duration::from_secs(6);
/// Stream threads that an instance has at most.
const THREADS_MAX: usize = 3;
/// Virtual time within which everything must be at rest once nothing goes wrong any more.
const HEALING_MAX: Duration = Duration::from_secs(300);

/// What goes wrong, and how much there is to do.
#[derive(Clone)]
pub(crate) struct Storm {
    pub(crate) config: SimConfig,
    pub(crate) spots: SpotPlan,
    pub(crate) instances: usize,
    pub(crate) records: u64,
    pub(crate) turns: u64,
    /// The longest step of time of a turn, in milliseconds.
    pub(crate) turn_ms_max: u64,
    /// Of a thousand turns: how many kill an instance, freeze one, start one twice.
    pub(crate) kills: u64,
    pub(crate) freezes: u64,
    pub(crate) doubles: u64,
    /// And how many add or remove a stream thread, or pause or resume an instance.
    pub(crate) moves: u64,
    /// Of how many other instances each task has a standby.
    pub(crate) standbys: usize,
    /// Of a thousand times that those could read on, how often they do: slow ones are behind when
    /// they become tasks.
    pub(crate) standby_steps: u64,
}

/// Somebody beside the application, such as a gateway that answers it.
pub(crate) trait Actor {
    /// Does a little.
    fn step(&mut self, log: &SimLog, chance: &mut Chance);

    /// What is still to be waited for, once nothing goes wrong any more.
    fn unrest(&self, world: &World<'_>) -> Option<String>;
}

/// What an application is to do: its topology, and what it is fed with.
pub(crate) struct Feed {
    pub(crate) partitions: u32,
    pub(crate) topology: Topology,
    /// Topics that others write or read, with whether they are compacted.
    pub(crate) topics: Vec<(&'static str, bool)>,
    pub(crate) policies: Policies,
    /// How many records are there before anything starts, and before anything goes wrong.
    pub(crate) first: u64,
    /// Whether repartition topics are purged of what was processed.
    pub(crate) purges: bool,
    /// The `n`th record: topic, key, value, timestamp.
    pub(crate) record: fn(&mut Chance, u64) -> Input,
}

/// A record to be appended.
pub(crate) struct Input {
    pub(crate) topic: &'static str,
    pub(crate) key: String,
    pub(crate) value: Option<Bytes>,
    pub(crate) timestamp: i64,
}

/// A process.
struct Process {
    client: SimClient,
    app: Stepped,
    watch: Watch,
    /// Tasks that were standbys and run now: what they had to read is still to be counted.
    promoted: Vec<TaskId>,
    asleep_until: Duration,
}

/// A place where one instance runs, again and again.
struct Slot {
    name: String,
    disk: Disk,
    process: Option<Process>,
    back_at: Duration,
}

pub(crate) struct World<'a> {
    pub(crate) log: SimLog,
    feed: &'a Feed,
    storm: Storm,
    chance: Chance,
    slots: Vec<Slot>,
    /// Processes whose place another has taken, on other machines.
    zombies: Vec<Process>,
    faults: Arc<Mutex<SpotFaults>>,
    feeder: Option<Arc<dyn Appender>>,
    actor: Option<Box<dyn Actor>>,
    fed: u64,
    auditing: bool,
    /// Starts, kills, freezes, doubles and moves.
    pub(crate) events: BTreeMap<&'static str, u64>,
    /// What should not have happened.
    pub(crate) broken: Vec<String>,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, feed: &'a Feed, storm: &Storm) -> Self {
        silence_panics();
        let mut config = storm.config.clone();
        let rates = std::mem::take(&mut config.rates);
        let log = SimLog::new(seed, config);
        let admin = log.client("setup").admin().expect("nothing goes wrong yet");
        let topic = |(name, compacted): &(&'static str, bool)| NewTopic {
            name: (*name).into(),
            partitions: feed.partitions,
            cleanup: match compacted {
                true => Cleanup::Compact,
                false => Cleanup::Delete { retention_ms: None },
            },
        };
        let topics: Vec<NewTopic> = feed.topics.iter().map(topic).collect();
        admin.create_topics(&topics).expect("created");
        let slot = |at: usize| Slot {
            name: format!("i{at}"),
            disk: Disk::default(),
            process: None,
            back_at: Duration::ZERO,
        };
        let mut world = Self {
            log,
            feed,
            storm: storm.clone(),
            chance: Chance::new(seed),
            slots: (0..storm.instances).map(slot).collect(),
            zombies: Vec::new(),
            faults: SpotFaults::new(seed, storm.spots.clone()),
            feeder: None,
            actor: None,
            fed: 0,
            auditing: false,
            events: BTreeMap::new(),
            broken: Vec::new(),
        };
        while world.fed < feed.first {
            world.append();
        }
        world.log.advance(Duration::from_millis(1));
        world.log.set_rates(rates);
        world
    }

    /// How many records were to be appended so far.
    pub(crate) fn fed(&self) -> u64 {
        self.fed
    }

    pub(crate) fn has_standbys(&self) -> bool {
        self.storm.standbys > 0 && self.storm.instances > 1
    }

    /// Whether no clock is ever set to another time.
    pub(crate) fn has_right_clocks(&self) -> bool {
        self.storm.config.rates.clock_jump == 0.0
    }

    pub(crate) fn topology(&self) -> &'a Topology {
        &self.feed.topology
    }

    pub(crate) fn with_actor(mut self, actor: Box<dyn Actor>) -> Self {
        self.actor = Some(actor);
        self
    }

    pub(crate) fn passes(&self, spot: Spot) -> u64 {
        self.faults.lock().expect("no panic").passes(spot)
    }

    fn count(&mut self, event: &'static str) {
        self.add(event, 1);
    }

    fn add(&mut self, event: &'static str, times: u64) {
        *self.events.entry(event).or_default() += times;
    }

    fn config(&self, instance: &str) -> Config {
        let mut config = Config::new(APP, "unused");
        config.instance_id = instance.to_owned();
        config.session_timeout = SESSION;
        config.flush_interval = Duration::from_millis(500);
        config.records_per_turn = 7;
        config.buffered_records_max = 20;
        config.purge_interval = match self.feed.purges {
            true => Duration::from_millis(20),
            // The checks read what repartition topics hold.
            false => Duration::from_secs(1_000_000),
        };
        config.policies = self.feed.policies.clone();
        config.num_standby_replicas = self.storm.standbys;
        config
    }

    fn start(&mut self, at: usize) {
        let slot = &self.slots[at];
        let client = self.log.client(&slot.name);
        let watch = Watch::new(&self.faults);
        let bases = Mounted {
            disk: slot.disk.clone(),
            client: client.clone(),
            watch: watch.clone(),
        };
        let opened = Stepped::open(
            &self.feed.topology,
            Arc::new(client.clone()),
            self.config(&slot.name),
            Arc::new(match self.auditing {
                true => Clock::standing(&self.log, &client),
                false => Clock::new(&self.log, &client),
            }),
            Box::new(bases),
        );
        self.count("starts");
        let now = self.log.now();
        let slot = &mut self.slots[at];
        match opened {
            Ok(app) => {
                slot.process = Some(Process {
                    client,
                    app,
                    watch,
                    promoted: Vec::new(),
                    asleep_until: now,
                });
            }
            // What starts it tries again.
            Err(_) => slot.back_at = now + Duration::from_millis(self.chance.below(2000)),
        }
    }

    /// Runs while things go wrong.
    pub(crate) fn storm(&mut self) {
        for turn in 0..self.storm.turns {
            self.turn(turn);
            if self.chance.hits(self.storm.kills) {
                self.kill();
            }
            if self.chance.hits(self.storm.freezes) {
                self.freeze();
            }
            if self.chance.hits(self.storm.doubles) {
                self.double();
            }
            if self.chance.hits(self.storm.moves) {
                self.rearrange();
            }
            if self.chance.hits(2) {
                self.log.compact();
            }
        }
        while self.fed < self.storm.records {
            self.append();
        }
    }

    fn turn(&mut self, turn: u64) {
        let due = self.storm.records * (turn + 1) / self.storm.turns;
        while self.fed < due {
            self.append();
        }
        let at = self.chance.below(self.slots.len() as u64) as usize;
        self.work(at);
        if !self.zombies.is_empty() {
            let at = self.chance.below(self.zombies.len() as u64) as usize;
            let part = part(&mut self.chance, &self.storm, &self.zombies[at].app);
            let zombie = &mut self.zombies[at];
            zombie.app.step(part);
            let (lives, health) = (zombie.client.lives(), zombie.app.health());
            let gone = !lives || ended(&health);
            if let (true, Health::Failed(why)) = (lives, health) {
                match is_for_its_name(&why) {
                    true => self.count("given up"),
                    false => self.broken.push(format!("a second process stopped: {why}")),
                }
            }
            if gone || self.chance.hits(5) {
                self.zombies.swap_remove(at).client.kill();
            }
        }
        self.pass();
    }

    /// Lets the others work, and some time pass.
    fn pass(&mut self) {
        if let Some(actor) = &mut self.actor {
            actor.step(&self.log, &mut self.chance);
        }
        let ms = self.chance.below(self.storm.turn_ms_max);
        self.log.advance(Duration::from_millis(ms));
    }

    /// Lets the process of a slot work for some steps, or starts one.
    fn work(&mut self, at: usize) {
        let now = self.log.now();
        if self.slots[at].process.is_none() {
            if now >= self.slots[at].back_at {
                self.start(at);
            }
            return;
        }
        for _ in 0..=self.chance.below(6) {
            let slot = &mut self.slots[at];
            let process = slot.process.as_mut().expect("checked above");
            let part = part(&mut self.chance, &self.storm, &process.app);
            if now < process.asleep_until {
                return;
            }
            process.app.step(part);
            let health = process.app.health();
            let lives = process.client.lives();
            self.count_promotions(at);
            if !lives {
                self.crash(at);
                return;
            }
            if let Health::Failed(why) = health {
                // Losing the place to another process is the only reason to give up. The one that
                // joined last goes on; what starts processes starts the other again.
                if !is_for_its_name(&why) {
                    self.broken.push(format!("an instance stopped: {why}"));
                }
                self.crash(at);
                return;
            }
        }
    }

    /// The process is gone; it comes back before or after its session has ended.
    fn crash(&mut self, at: usize) {
        self.count("crashes");
        let away = self.chance.below(2 * SESSION.as_millis() as u64);
        let slot = &mut self.slots[at];
        if let Some(process) = slot.process.take() {
            process.client.kill();
        }
        slot.back_at = self.log.now() + Duration::from_millis(away);
    }

    fn kill(&mut self) {
        let at = self.chance.below(self.slots.len() as u64) as usize;
        if self.slots[at].process.is_some() {
            self.crash(at);
        }
    }

    fn freeze(&mut self) {
        let at = self.chance.below(self.slots.len() as u64) as usize;
        let long = self.chance.below(3 * SESSION.as_millis() as u64);
        let until = self.log.now() + Duration::from_millis(long);
        if let Some(process) = &mut self.slots[at].process {
            process.asleep_until = until;
            self.count("freezes");
        }
    }

    /// An instance gets a stream thread more or less, or is paused or resumed.
    fn rearrange(&mut self) {
        let at = self.chance.below(self.slots.len() as u64) as usize;
        let what = self.chance.below(4);
        let Some(process) = &mut self.slots[at].process else {
            return;
        };
        let app = &mut process.app;
        // An application that is about to end refuses.
        let (done, event) = match what {
            0 if app.threads().count() < THREADS_MAX => (app.add_thread().is_ok(), "added"),
            1 => (matches!(app.remove_thread(), Ok(Some(_))), "removed"),
            2 => {
                app.pause();
                (true, "pauses")
            }
            _ => {
                app.resume();
                (true, "resumes")
            }
        };
        if done {
            self.count(event);
        }
    }

    /// A second process of the same name starts on another machine, while the first still works.
    fn double(&mut self) {
        let at = self.chance.below(self.slots.len() as u64) as usize;
        if let Some(process) = self.slots[at].process.take() {
            self.zombies.push(process);
            self.slots[at].disk = Disk::default();
            self.count("doubles");
            self.start(at);
        }
    }

    fn append(&mut self) {
        let Input {
            topic,
            key,
            value,
            timestamp,
        } = (self.feed.record)(&mut self.chance, self.fed);
        self.fed += 1;
        let partition = partition_for_key(key.as_bytes(), self.feed.partitions);
        let record = OwnedRecord {
            to: TopicPartition::new(topic, partition),
            timestamp,
            key: Some(Bytes::from(key)),
            value,
            headers: Headers::default(),
        };
        if self.feeder.is_none() {
            self.feeder = self.log.client("feeder").appender().ok();
        }
        // What does not arrive was never there: the output is compared with what did.
        let appended = self
            .feeder
            .as_ref()
            .map(|f| f.append(record, Box::new(|_| ())));
        if !matches!(appended, Some(Ok(()))) {
            self.feeder = None;
        }
    }

    /// Nothing goes wrong any more; all instances come back and finish.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.log.calm();
        self.storm.standby_steps = 1000;
        self.faults.lock().expect("no panic").stop();
        for zombie in self.zombies.drain(..) {
            zombie.client.kill();
        }
        for process in self.slots.iter_mut().filter_map(|s| s.process.as_mut()) {
            process.asleep_until = Duration::ZERO;
            process.app.resume();
            if process.app.status().threads_wanted == 0 {
                // One that has failed refuses, and is started anew.
                let _ = process.app.add_thread();
            }
        }
        let until = self.log.now() + HEALING_MAX;
        loop {
            for _ in 0..20 {
                for at in 0..self.slots.len() {
                    self.work(at);
                }
                self.pass();
            }
            match self.unrest() {
                None => return Ok(()),
                Some(why) if self.log.now() > until => {
                    return Err(format!("does not come to rest: {why}"));
                }
                Some(_) => {}
            }
        }
    }

    /// Why the application is not at rest, if it is not.
    fn unrest(&self) -> Option<String> {
        for slot in &self.slots {
            let Some(process) = &slot.process else {
                return Some(format!("{} is down", slot.name));
            };
            let health = process.app.health();
            if health != Health::Running {
                return Some(format!("{} is {health:?}", slot.name));
            }
        }
        let owners = self.owners();
        let all = self.feed.topology.subtopologies().len() * self.feed.partitions as usize;
        if owners.len() != all {
            return Some(format!("only these tasks have an owner: {owners:?}"));
        }
        for (at, slot) in self.slots.iter().enumerate() {
            let app = &slot.process.as_ref().expect("checked above").app;
            let threads = app.status().threads.into_iter();
            let mut says: Vec<String> = threads.flat_map(|t| t.tasks).map(|t| t.id).collect();
            says.sort();
            let owned = owners.iter().filter(|(_, owner)| **owner == at);
            let mut owned: Vec<String> = owned.map(|(task, _)| task.to_string()).collect();
            owned.sort();
            if says != owned {
                return Some(format!(
                    "{} says that it runs {says:?}, not {owned:?}",
                    slot.name
                ));
            }
        }
        let standbys = self.standby_disks().len();
        let wanted = match self.storm.standbys > 0 && self.slots.len() > 1 {
            true => self.followed_tasks(),
            false => 0,
        };
        if standbys != wanted {
            return Some(format!("{standbys} of {wanted} standbys are up to date"));
        }
        let group = self.log.group(APP);
        for at in self.inputs() {
            let last = self.log.committed_records(&at).last().map(|r| r.offset);
            let next = group.offsets.get(&at).copied().unwrap_or(0);
            if last.is_some_and(|last| next <= last) {
                return Some(format!("{at} is processed up to {next}, last={last:?}"));
            }
        }
        let open = self.log.open_transactions();
        if !open.is_empty() {
            return Some(format!("transactions are open: {open:?}"));
        }
        self.actor.as_ref().and_then(|actor| actor.unrest(self))
    }

    /// The partitions that the application reads.
    fn inputs(&self) -> Vec<TopicPartition> {
        let subs = self.feed.topology.subtopologies().iter();
        let topics = subs
            .flat_map(|sub| &sub.sources)
            .map(|(topic, role)| full_name(APP, topic, *role));
        let partitions = self.feed.partitions as i32;
        let each =
            |topic: Arc<str>| (0..partitions).map(move |p| TopicPartition::new(topic.clone(), p));
        topics.flat_map(each).collect()
    }

    /// Which slot has which task, as the group says.
    fn owners(&self) -> BTreeMap<TaskId, usize> {
        let mut owners = BTreeMap::new();
        for (member, partitions) in self.log.group(APP).members {
            // Behind the instance stands the index of the thread.
            let instance = member.rsplit_once('-').map(|(instance, _)| instance);
            let of = |slot: &Slot| instance == Some(&*format!("{APP}-{}", slot.name));
            let Some(at) = self.slots.iter().position(of) else {
                continue;
            };
            for partition in partitions {
                let reads = |sub: &&SubTopology| {
                    let mut sources = sub.sources.iter();
                    sources.any(|(topic, role)| full_name(APP, topic, *role) == partition.topic)
                };
                let sub = self.feed.topology.subtopologies().iter().find(reads);
                let task = TaskId {
                    subtopology: sub.expect("nothing else is read").id,
                    partition: partition.partition,
                };
                owners.insert(task, at);
            }
        }
        owners
    }

    /// All instances end as on SIGTERM; returns each task's disk.
    pub(crate) fn stop(&mut self) -> Result<BTreeMap<TaskId, Disk>, String> {
        let owners = self.owners().into_iter();
        let disks = owners.map(|(task, at)| (task, self.slots[at].disk.clone()));
        let disks = disks.collect();
        for slot in &mut self.slots {
            let mut process = slot.process.take().expect("at rest");
            process.app.stop();
            for thread in process.app.threads().collect::<Vec<_>>() {
                process.app.step(Part::Thread(thread));
            }
            process.app.step(Part::Standbys);
            if let Health::Failed(why) = process.app.health() {
                return Err(format!("did not end well: {why}"));
            }
        }
        Ok(disks)
    }

    /// A new instance with an empty disk restores everything and ends. Its timers are never due, so
    /// that it changes nothing.
    pub(crate) fn rebuild(&mut self) -> Result<BTreeMap<TaskId, Disk>, String> {
        self.auditing = true;
        self.actor = None;
        self.slots = vec![Slot {
            name: "auditor".to_owned(),
            disk: Disk::default(),
            process: None,
            back_at: Duration::ZERO,
        }];
        self.heal()?;
        self.stop()
    }

    /// The committed records of a topic, by partition.
    pub(crate) fn records(&self, topic: &str) -> Vec<Vec<Committed>> {
        let each = (0..self.feed.partitions as i32).map(|p| TopicPartition::new(topic, p));
        each.map(|at| self.log.committed_records(&at)).collect()
    }
}

/// What works next, mostly a stream thread.
fn part(chance: &mut Chance, storm: &Storm, app: &Stepped) -> Part {
    match chance.below(10) {
        0 => Part::Members,
        1 => Part::Globals,
        2 => Part::Flush,
        3 if storm.standbys > 0 && chance.hits(storm.standby_steps) => Part::Standbys,
        _ => {
            let threads: Vec<usize> = app.threads().collect();
            match threads.len() {
                0 => Part::Flush,
                1 => Part::Thread(threads[0]),
                several => Part::Thread(threads[chance.below(several as u64) as usize]),
            }
        }
    }
}

/// Whether it stopped because another process has its place.
fn is_for_its_name(why: &str) -> bool {
    why.contains("another process runs under this instance id")
}

fn ended(health: &Health) -> bool {
    matches!(health, Health::Failed(_) | Health::Stopping)
}
