//! `Members`: the instances of an application, where they answer queries, and which tasks they run.
//!
//! The group protocol of librdkafka has no room for such data, so each instance writes it to the
//! compacted topic `<application>-members` and reads what the others wrote. It is a hint for
//! routing queries, nothing else: who may commit is decided by the group alone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_broker::{
    Admin, Appender, Broker, Cleanup, Fetched, NewTopic, OwnedRecord, Reader, Start, TopicPartition,
};
use millstream_topology::{Headers, Result, TaskId};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::{clock::WallClock, config::Config, internal_topics::MEMBERS};

/// How often an instance says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A member that was silent for this long is not asked any more.
const STALE_AFTER_MS: i64 = 15_000;
/// A member that ended without a word is deleted from the topic after so long, by whoever notices:
/// names that change with every start must not fill it.
const FORGOTTEN_AFTER_MS: i64 = 24 * 3600 * 1000;
/// The longest wait for news, and so for noticing a change of the own tasks.
const NEWS_WAIT: Duration = Duration::from_millis(100);
/// Changes read in one go.
const NEWS_MAX: usize = 1000;

/// An instance, as it described itself last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub instance_id: String,
    /// Where it answers queries, if it does.
    pub endpoint: Option<String>,
    /// The tasks it runs, as `<sub-topology>_<partition>`.
    pub tasks: Vec<String>,
    /// The tasks that it keeps a standby of, with how many changelog records each is behind as far
    /// as it knows.
    #[serde(default)]
    pub standbys: BTreeMap<String, i64>,
    /// When it said so, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Another instance that has a standby of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StandbyHost {
    /// Its name.
    pub instance_id: String,
    /// Where it answers queries, if it does.
    pub endpoint: Option<String>,
    /// How many changelog records it was behind when it spoke last.
    pub lag: i64,
}

struct Inner {
    instance_id: String,
    endpoint: Option<String>,
    clock: Arc<dyn WallClock>,
    /// The tasks of each stream thread of this instance.
    own: Mutex<BTreeMap<usize, Vec<TaskId>>>,
    standbys: Mutex<BTreeMap<String, i64>>,
    changed: AtomicBool,
    stop: AtomicBool,
    /// Another process speaks under this one's name.
    replaced: AtomicBool,
    others: RwLock<BTreeMap<String, Member>>,
}

/// The instances of an application. Clones see the same.
#[derive(Clone)]
pub struct Members(Arc<Inner>);

impl Members {
    /// Makes the topic where members tell of themselves. Nobody hears of this one before its
    /// [`Herald`] works.
    pub(crate) fn open(
        broker: &dyn Broker,
        admin: &dyn Admin,
        config: &Config,
        clock: Arc<dyn WallClock>,
    ) -> Result<(Self, Herald)> {
        let topic: Arc<str> = format!("{}-{MEMBERS}", config.application_id).into();
        let cleanup = Cleanup::Compact;
        admin.create_topics(&[NewTopic {
            name: topic.clone(),
            partitions: 1,
            cleanup,
        }])?;
        let news = TopicPartition::new(topic, 0);
        let mut reader = broker.reader()?;
        reader.assign(&[(news.clone(), Start::Earliest)])?;
        let appender = broker.appender()?;
        let members = Self(Arc::new(Inner {
            instance_id: config.instance_id.clone(),
            endpoint: config.endpoint.clone(),
            clock,
            own: Mutex::default(),
            standbys: Mutex::default(),
            changed: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            others: RwLock::default(),
        }));
        let herald = Herald {
            members: members.0.clone(),
            reader,
            appender,
            news,
            said: None,
            fetched: Vec::new(),
        };
        Ok((members, herald))
    }

    /// All instances that were heard of lately, this one included, by name.
    pub fn list(&self) -> Vec<Member> {
        let now = self.0.clock.now_ms();
        let mut members: Vec<Member> = self
            .0
            .others
            .read()
            .expect("nothing panics with this lock")
            .values()
            .filter(|m| now - m.at_ms < STALE_AFTER_MS)
            .cloned()
            .collect();
        members.push(self.0.own_member());
        members.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
        members
    }

    /// Where another instance answers queries on this task's stores, if one does.
    pub(crate) fn owner(&self, task: TaskId) -> Option<String> {
        let now = self.0.clock.now_ms();
        let name = task.to_string();
        let others = self.0.others.read().expect("nothing panics with this lock");
        others
            .values()
            .filter(|m| now - m.at_ms < STALE_AFTER_MS && m.tasks.contains(&name))
            .max_by_key(|m| m.at_ms)
            .and_then(|m| m.endpoint.clone())
    }

    /// Says which tasks a stream thread of this instance runs from now on.
    pub(crate) fn announce(&self, thread: usize, tasks: Vec<TaskId>) {
        let mut own = self.0.own.lock().expect("nothing panics with this lock");
        match tasks.is_empty() {
            true => own.remove(&thread),
            false => own.insert(thread, tasks),
        };
        drop(own);
        self.0.changed.store(true, Ordering::Release);
    }

    /// The time by which ages are counted.
    pub(crate) fn monotonic(&self) -> Duration {
        self.0.clock.monotonic()
    }

    /// The other instances that have a standby of this task, the least behind first.
    pub(crate) fn standbys(&self, task: TaskId) -> Vec<StandbyHost> {
        let now = self.0.clock.now_ms();
        let name = task.to_string();
        let others = self.0.others.read().expect("nothing panics with this lock");
        let heard = others.values().filter(|m| now - m.at_ms < STALE_AFTER_MS);
        let mut hosts: Vec<StandbyHost> = heard
            .filter_map(|m| {
                Some(StandbyHost {
                    instance_id: m.instance_id.clone(),
                    endpoint: m.endpoint.clone(),
                    lag: *m.standbys.get(&name)?,
                })
            })
            .collect();
        hosts.sort_by_key(|host| host.lag);
        hosts
    }

    /// Says which standbys this instance has, and how far behind they are.
    pub(crate) fn stand_by(&self, lags: BTreeMap<String, i64>) {
        let mut standbys = (self.0.standbys.lock()).expect("nothing panics with this lock");
        // How far behind they are can wait for the next heartbeat.
        if !standbys.keys().eq(lags.keys()) {
            self.0.changed.store(true, Ordering::Release);
        }
        *standbys = lags;
    }

    /// Says nothing any more, no goodbye either: the name is another process's, which speaks for
    /// itself.
    pub(crate) fn fall_silent(&self) {
        self.0.replaced.store(true, Ordering::Release);
    }

    /// Takes this instance off the list of members, and says nothing any more.
    pub(crate) fn close(&self) {
        self.0
            .own
            .lock()
            .expect("nothing panics with this lock")
            .clear();
        self.stand_by(BTreeMap::new());
        self.0.stop.store(true, Ordering::Release);
    }
}

impl Inner {
    fn own_member(&self) -> Member {
        let own = self.own.lock().expect("nothing panics with this lock");
        Member {
            instance_id: self.instance_id.clone(),
            endpoint: self.endpoint.clone(),
            tasks: own.values().flatten().map(TaskId::to_string).collect(),
            standbys: (self.standbys.lock().expect("nothing panics with this lock")).clone(),
            at_ms: self.clock.now_ms(),
        }
    }

    fn hear(&self, record: &Fetched) {
        let Some(key) = &record.key else {
            return;
        };
        if **key == *self.instance_id.as_bytes() {
            return;
        }
        let member = match record
            .value
            .as_deref()
            .map(serde_json::from_slice::<Member>)
        {
            Some(Ok(member)) => Some(member),
            None => None,
            Some(Err(error)) => {
                debug!(%error, "a member's news cannot be read");
                return;
            }
        };
        let name = String::from_utf8_lossy(key).into_owned();
        let mut others = self.others.write().expect("nothing panics with this lock");
        match member {
            Some(member) => others.insert(name, member),
            None => others.remove(&name),
        };
    }

    /// The members that were silent for so long that they will not come back.
    fn forgotten(&self) -> Vec<String> {
        let now = self.clock.now_ms();
        let others = self.others.read().expect("nothing panics with this lock");
        let gone = others
            .iter()
            .filter(|(_, m)| now - m.at_ms > FORGOTTEN_AFTER_MS);
        gone.map(|(name, _)| name.clone()).collect()
    }
}

/// Tells the others of this instance, and hears what they tell.
pub(crate) struct Herald {
    members: Arc<Inner>,
    reader: Box<dyn Reader>,
    appender: Arc<dyn Appender>,
    news: TopicPartition,
    /// When it spoke last.
    said: Option<Duration>,
    fetched: Vec<Fetched>,
}

impl Herald {
    /// Works until [`Members::close`].
    pub(crate) fn run(mut self) {
        while self.step(NEWS_WAIT) {}
    }

    /// Says what is due and hears what comes within `wait`; `false` when this was the last time.
    pub(crate) fn step(&mut self, wait: Duration) -> bool {
        let clock = &self.members.clock;
        if self.members.replaced.load(Ordering::Acquire) {
            return false;
        }
        let stopping = self.members.stop.load(Ordering::Acquire);
        let now = clock.monotonic();
        let due = self.said.is_none_or(|at| now - at >= HEARTBEAT);
        if stopping {
            self.say(&self.members.instance_id, None);
            return false;
        }
        if due || self.members.changed.swap(false, Ordering::AcqRel) {
            self.said = Some(now);
            self.say(&self.members.instance_id, Some(&self.members.own_member()));
            for gone in self.members.forgotten() {
                self.say(&gone, None);
            }
        }
        self.fetched.clear();
        match self.reader.poll(wait, NEWS_MAX, &mut self.fetched) {
            Ok(()) => self.fetched.iter().for_each(|news| self.members.hear(news)),
            Err(error) => {
                debug!(%error, "news of the members cannot be read");
                clock.wait(wait);
            }
        }
        true
    }

    /// Writes what there is to know of a member, or that it is gone.
    fn say(&self, instance_id: &str, member: Option<&Member>) {
        let json = |m: &Member| serde_json::to_vec(m).expect("a member has a JSON form");
        let record = OwnedRecord {
            to: self.news.clone(),
            timestamp: self.members.clock.now_ms(),
            key: Some(Bytes::copy_from_slice(instance_id.as_bytes())),
            value: member.map(json).map(Bytes::from),
            headers: Headers::default(),
        };
        let done = Box::new(|result: millstream_broker::Result<i64>| {
            if let Err(error) = result {
                warn!(%error, "the other members could not be told of this one");
            }
        });
        if let Err(error) = self.appender.append(record, done) {
            debug!(%error, "the other members could not be told of this one");
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_broker::sim::{SimClient, SimConfig, SimLog};

    use super::*;

    struct Virtual(SimLog, SimClient);

    impl WallClock for Virtual {
        fn now_ms(&self) -> i64 {
            self.1.now_ms()
        }

        fn monotonic(&self) -> Duration {
            self.0.now()
        }

        fn wait(&self, _: Duration) {}
    }

    fn join(log: &SimLog, name: &str) -> (Members, Herald) {
        let client = log.client(name);
        let admin = client.admin().expect("the log answers");
        let clock = Arc::new(Virtual(log.clone(), client.clone()));
        let config = Config {
            instance_id: name.to_owned(),
            ..Config::new("shop", "unused")
        };
        Members::open(&client, &*admin, &config, clock).expect("the log answers")
    }

    /// Lets them talk for so long.
    fn talk(log: &SimLog, heralds: &mut [&mut Herald], millis: u64) {
        for _ in 0..millis / 100 {
            for herald in &mut *heralds {
                herald.step(Duration::ZERO);
            }
            log.advance(Duration::from_millis(100));
        }
    }

    fn names(members: &Members) -> Vec<String> {
        members.list().into_iter().map(|m| m.instance_id).collect()
    }

    #[test]
    fn a_member_that_leaves_is_taken_off_the_list() {
        let log = SimLog::new(1, SimConfig::default());
        let ((a, mut to_a), (b, mut to_b)) = (join(&log, "a"), join(&log, "b"));
        talk(&log, &mut [&mut to_a, &mut to_b], 1000);
        assert_eq!(
            (names(&a), names(&b)),
            (names(&b), ["a", "b"].map(str::to_owned).into())
        );

        b.close();
        assert!(!to_b.step(Duration::ZERO));
        talk(&log, &mut [&mut to_a], 1000);
        assert_eq!(names(&a), ["a"]);
        assert!(to_a.members.others.read().expect("no panic").is_empty());
    }

    #[test]
    fn a_member_whose_name_is_another_process_s_says_no_goodbye() {
        let log = SimLog::new(1, SimConfig::default());
        let ((a, mut to_a), (older, mut to_older)) = (join(&log, "a"), join(&log, "b"));
        let (_newer, mut to_newer) = join(&log, "b");
        talk(&log, &mut [&mut to_a, &mut to_older, &mut to_newer], 1000);
        older.fall_silent();
        older.close();
        assert!(!to_older.step(Duration::ZERO));
        talk(&log, &mut [&mut to_a, &mut to_newer], 1000);
        assert_eq!(names(&a), ["a", "b"]);
    }

    #[test]
    fn a_member_that_ended_without_a_word_is_forgotten_after_a_day() {
        let log = SimLog::new(1, SimConfig::default());
        let ((a, mut to_a), (_b, mut to_b)) = (join(&log, "a"), join(&log, "b"));
        talk(&log, &mut [&mut to_a, &mut to_b], 1000);
        drop(to_b);
        talk(&log, &mut [&mut to_a], 16_000);
        assert_eq!(names(&a), ["a"], "it is not asked any more");
        assert_eq!(to_a.members.others.read().expect("no panic").len(), 1);

        log.advance(Duration::from_millis(FORGOTTEN_AFTER_MS as u64));
        talk(&log, &mut [&mut to_a], 10_000);
        assert!(to_a.members.others.read().expect("no panic").is_empty());
    }

    #[test]
    fn what_an_older_program_tells_is_understood() {
        let told = r#"{"instance_id":"a","endpoint":null,"tasks":["0_1"],"at_ms":5}"#;
        let member: Member = serde_json::from_str(told).expect("is read");
        assert_eq!((member.standbys.len(), member.at_ms), (0, 5));
    }
}
