//! `millstream shop`: one process of the shop, all its parts joined.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use millstream_api::{
    AdminState, Check, Figure, FigureKind, FrontLimits, ServeLimits, Switch, admin_router, front,
    refuse_non_loopback, serve,
};
use millstream_broker::{Admin, Broker};
use millstream_config::{Flags, ListenAddress, Role, Settings};
use millstream_processors::{
    door::{Door, DoorConfig},
    payment::{CallPolicy, GatewayWorker, SimulatedGateway, WorkerConfig},
    sql::{self, Tables},
    topics,
    topology::{ShopPolicy, shop},
};
use millstream_runtime::{Application, Config, ErrorPolicy, Health, Policies, StateKind};
use millstream_sinks::{RunningSink, Sink, SinkConfig, TopicDeadLetters};
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};
use tracing::{info, warn};

use crate::{
    data_dir::DataDir,
    failure::{Failure, Outcome, chain},
    logging, open,
    signals::Stop,
    waiting::Waiting,
};

/// How long requests may take to end when the shop stops.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// How long the sink may take to write its last batch.
const SINK_STOP_MAX: Duration = Duration::from_secs(5);
/// How long stopping may take in all. What is not done by then is done by the next start.
const STOP_MAX: Duration = Duration::from_secs(9);
/// How often the parts are asked whether they are well.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs a process of the shop until it is told to stop.
pub(crate) async fn run(flags: &Flags) -> Outcome {
    let settings = Settings::load(&Settings::default(), flags)?;
    logging::start(&settings.log)?;
    let mut stop = Stop::listen()?;
    let Some(shop) = start_unless_told(&settings, &mut stop).await? else {
        return Ok(());
    };
    shop.tell();
    let failed = tokio::select! {
        () = stop.told() => None,
        failure = shop.failed() => Some(failure),
    };
    info!("stopping");
    match tokio::time::timeout(STOP_MAX, shop.stop()).await {
        Ok(stopped) => failed.map_or(stopped, Err),
        Err(_) => {
            warn!("not all parts have stopped in time; the next start takes up what they left");
            failed.map_or(Ok(()), Err)
        }
    }
}

/// Starts a process of the shop, which may wait for its log and its database for ever. `None` when
/// it was told to stop before.
pub(crate) async fn start_unless_told(
    settings: &Settings,
    stop: &mut Stop,
) -> Outcome<Option<RunningShop>> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    let (tell, mut told) = watch::channel(false);
    // On a thread of its own: giving up may have to wait for parts that are there already, and they
    // get as much time as any stop.
    let mut starting = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                started = RunningShop::start(&settings) => started.map(Some),
                _ = told.wait_for(|told| *told) => Ok(None),
            }
        })
    });
    let failed = |e| Failure::at("a part of the program failed", &e);
    tokio::select! {
        started = &mut starting => return started.map_err(failed)?,
        () = stop.told() => tell.send_replace(true),
    };
    info!("stopping before it has started");
    let ended = async {
        match starting.await.map_err(failed)? {
            Ok(Some(shop)) => shop.stop().await,
            Ok(None) | Err(_) => Ok(()),
        }
    };
    match tokio::time::timeout(STOP_MAX, ended).await {
        Ok(outcome) => outcome.map(|()| None),
        Err(_) => Ok(None),
    }
}

/// A process of the shop at work.
pub(crate) struct RunningShop {
    settings: Settings,
    log: Arc<dyn Broker>,
    tables: Tables,
    application: Option<Arc<Application>>,
    door: Option<Door>,
    sink: Option<RunningSink>,
    gateway: Option<GatewayWorker>,
    intake: Option<Server>,
    admin: Server,
    /// Let go last: the folder is this process's until everything else has ended.
    _data_dir: DataDir,
}

impl RunningShop {
    /// Starts the parts that the settings name, and listens.
    pub(crate) async fn start(settings: &Settings) -> Outcome<Self> {
        let roles = &settings.roles;
        if roles.has(Role::Door) && !roles.has(Role::Streams) {
            let roles = roles.to_string();
            return Err(Failure::Usage(format!(
                "roles is wrong. value=`{roles}`, allowed: door together with streams, as the door \
                 reads the stores"
            )));
        }
        let data_dir = DataDir::take(&settings.data_dir)?;
        let instance_id = data_dir.instance_id()?;
        let listener = match roles.has(Role::Door) {
            true => Some(bind(settings.listen, "listen").await?),
            false => None,
        };
        let admin_listener = bind(settings.admin_listen, "admin-listen").await?;
        // From here on it answers, if only that it is not ready.
        let waiting = Waiting::default();
        let intake = match listener {
            Some(listener) => Some(Server::start(listener, waiting.door_pages())?),
            None => None,
        };
        let admin = Server::start(admin_listener, waiting.admin_pages())?;

        let log = blocking({
            let settings = settings.clone();
            move || open::log(&settings)
        })
        .await?;
        let topics = async || create_topics(settings, &log).await;
        waiting.until_done("the log", topics).await?;
        let tables = async || open::tables(settings).await;
        let tables = waiting.until_done("the database", tables).await?;
        let application = match roles.has(Role::Streams) {
            true => {
                let start = async || start_streams(settings, &instance_id, &admin, &log).await;
                Some(waiting.until_done("the log", start).await?)
            }
            false => None,
        };
        let sink = match roles.has(Role::Sink) {
            true => {
                let start = async || start_sink(settings, &instance_id, &log, &tables).await;
                Some(waiting.until_done("the log", start).await?)
            }
            false => None,
        };
        let gateway = match roles.has(Role::Gateway) {
            true => Some(start_gateway(settings, &instance_id, &log, &tables)?),
            false => None,
        };
        let door = match (&application, &intake) {
            (Some(application), Some(intake)) => {
                let open = async || open_door(settings, application, &log, &tables).await;
                let door = waiting.until_done("the log", open).await?;
                intake.pages.turn_to(door.router());
                Some(door)
            }
            _ => None,
        };
        let pages = admin_pages(
            settings,
            application.as_ref(),
            door.as_ref(),
            sink.as_ref(),
            &*log,
        )?;
        admin.pages.turn_to(pages);
        Ok(Self {
            settings: settings.clone(),
            log,
            tables,
            application,
            door,
            sink,
            gateway,
            intake,
            admin,
            _data_dir: data_dir,
        })
    }

    /// Says on standard output where it serves.
    pub(crate) fn tell(&self) {
        if let Some(intake) = &self.intake {
            println!("listening http://{}", intake.address);
        }
        println!("admin http://{}", self.admin.address);
    }

    /// Where customers are served.
    pub(crate) fn url(&self) -> Option<String> {
        self.intake
            .as_ref()
            .map(|server| format!("http://{}", server.address))
    }

    /// Where operators are served.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin.address)
    }

    /// The log that it works on.
    pub(crate) fn log(&self) -> &Arc<dyn Broker> {
        &self.log
    }

    /// The tables that it writes.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How it was told to work.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns once every store is up to date, or something has failed.
    pub(crate) async fn ready(&self) -> Outcome {
        let running = |app: &Arc<Application>| app.health() == Health::Running;
        while !self.application.as_ref().is_none_or(running) {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                failure = self.failed() => return Err(failure),
            }
        }
        Ok(())
    }

    /// Returns when a part has failed.
    pub(crate) async fn failed(&self) -> Failure {
        loop {
            if let Some(Health::Failed(reason)) = self.application.as_ref().map(|app| app.health())
            {
                return Failure::Failed(format!("the streams have stopped: {reason}"));
            }
            if let Some(sink) = self.sink.as_ref().filter(|sink| sink.is_finished()) {
                let reason = sink.metrics().last_error().unwrap_or_default();
                return Failure::Failed(format!("the sink has stopped: {reason}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops intake, finishes what is begun, leaves the groups.
    pub(crate) async fn stop(self) -> Outcome {
        let Self {
            log,
            application,
            door,
            sink,
            gateway,
            intake,
            admin,
            _data_dir,
            ..
        } = self;
        if let Some(intake) = intake {
            intake.stop().await;
        }
        let streams = blocking(move || {
            drop(door);
            match application {
                // A page that is just asked for may hold it, too.
                Some(application) => Ok(application.stop()?),
                None => Ok(()),
            }
        });
        let gateway = blocking(move || {
            gateway.into_iter().for_each(GatewayWorker::stop);
            Ok(())
        });
        let sink = async {
            match sink {
                Some(sink) => Ok(sink.stop(SINK_STOP_MAX).await?),
                None => Ok(()),
            }
        };
        let (streams, gateway, sink) = tokio::join!(streams, gateway, sink);
        admin.stop().await;
        // Closing the log may take a moment, too.
        blocking(move || {
            drop(log);
            Ok(())
        })
        .await?;
        streams.and(gateway).and(sink)
    }
}

async fn create_topics(settings: &Settings, log: &Arc<dyn Broker>) -> Outcome {
    let wanted = topics::new_topics(settings.shop.partitions);
    // A client that cannot even be made is no matter of time.
    let admin = log.admin().map_err(|e| Failure::Failed(chain(&e)))?;
    let create = move || {
        admin.create_topics(&wanted).map_err(|error| match &error {
            millstream_broker::Error::PartitionCount { .. } => Failure::Usage(format!(
                "{}; set shop.partitions to what the topics have",
                chain(&error)
            )),
            _ => Failure::from(error),
        })
    };
    blocking(create).await
}

async fn start_streams(
    settings: &Settings,
    instance_id: &str,
    admin: &Server,
    log: &Arc<dyn Broker>,
) -> Outcome<Arc<Application>> {
    let streams = &settings.streams;
    let topology = shop(&policy(settings)?)?;
    let config = Config {
        instance_id: instance_id.to_owned(),
        threads: streams.threads,
        state: StateKind::Disk(settings.state_dir()),
        commit_interval: streams.commit_interval.duration(),
        memory_budget: streams.memory_budget.bytes(),
        flush_interval: streams.flush_interval.duration(),
        session_timeout: streams.session_timeout.duration(),
        num_standby_replicas: streams.num_standby_replicas,
        accept_removed: names(&streams.accept_removed),
        policies: Policies {
            decode: ErrorPolicy::DeadLetter,
            process: ErrorPolicy::DeadLetter,
            produce: ErrorPolicy::DeadLetter,
            dead_letter_topic: Some(topics::DEAD_LETTERS.name()),
        },
        endpoint: Some(admin.address.to_string()),
        ..Config::new(&*streams.application_id, settings.state_dir())
    };
    let log = log.clone();
    blocking(move || Ok(Arc::new(Application::start(&topology, log, config)?))).await
}

fn names(list: &str) -> Vec<String> {
    let names = list.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The rules of the business, as the settings say.
fn policy(settings: &Settings) -> Outcome<ShopPolicy> {
    let mut policy = ShopPolicy::default();
    let payment = &settings.payment;
    policy.order.deadline = payment.deadline.duration();
    policy.order.retry_first = payment.retry_first.duration();
    policy.order.retry_max = payment.retry_max.duration();
    policy.inventory.held_for = settings.inventory.reservation_ttl.duration();
    policy.zone = zone(settings)?;
    Ok(policy)
}

/// The zone whose days the reports count by.
pub(crate) fn zone(settings: &Settings) -> Outcome<chrono_tz::Tz> {
    let name = &settings.shop.time_zone;
    name.parse()
        .map_err(|_| Failure::Usage(format!("no such time zone. shop.time_zone=`{name}`")))
}

async fn start_sink(
    settings: &Settings,
    instance_id: &str,
    log: &Arc<dyn Broker>,
    tables: &Tables,
) -> Outcome<RunningSink> {
    let group = format!("{}-sink", settings.streams.application_id);
    let topics = blocking({
        let log = log.clone();
        move || Ok(log.admin()?.topics()?)
    });
    let topics = topics.await?;
    let dead_letters = topics
        .iter()
        .find(|t| &*t.name == topics::DEAD_LETTERS.name());
    let partitions = dead_letters.map_or(settings.shop.partitions, |topic| topic.partitions);
    let dead_letters =
        TopicDeadLetters::new(log.appender()?, topics::DEAD_LETTERS.name(), partitions);
    let member = format!("{group}-{instance_id}");
    let config = SinkConfig {
        session_timeout: settings.streams.session_timeout.duration(),
        ..SinkConfig::new(open::SINK, group, member)
    };
    let database = tables.database().clone();
    let sink = Sink::new(
        config,
        log.clone(),
        database,
        sql::projections(),
        Arc::new(dead_letters),
    );
    Ok(sink.start())
}

fn start_gateway(
    settings: &Settings,
    instance_id: &str,
    log: &Arc<dyn Broker>,
    tables: &Tables,
) -> Outcome<GatewayWorker> {
    let payment = &settings.payment;
    let config = WorkerConfig {
        calls_max: payment.concurrency,
        calls: CallPolicy {
            timeout: payment.call_timeout.duration(),
            ..CallPolicy::default()
        },
        session_timeout: settings.streams.session_timeout.duration(),
        ..WorkerConfig::new(&*settings.streams.application_id, instance_id)
    };
    let gateway = Arc::new(SimulatedGateway::open(tables.clone()));
    let runtime = Handle::current();
    GatewayWorker::start(log.clone(), gateway, runtime, config)
        .map_err(|e| Failure::at("the gateway worker cannot be started", &e))
}

async fn open_door(
    settings: &Settings,
    application: &Application,
    log: &Arc<dyn Broker>,
    tables: &Tables,
) -> Outcome<Door> {
    let config = DoorConfig {
        allow_event_time: settings.allow_event_time,
        ..DoorConfig::new(&*settings.streams.application_id)
    };
    let (queries, log, tables) = (application.queries(), log.clone(), tables.clone());
    blocking(move || Ok(Door::open(config, log, queries, tables)?)).await
}

fn admin_pages(
    settings: &Settings,
    application: Option<&Arc<Application>>,
    door: Option<&Door>,
    sink: Option<&RunningSink>,
    log: &dyn Broker,
) -> Outcome<Router> {
    let Some(application) = application else {
        // Without streams there is no topology to look at, and nothing to wait for.
        let ok = || async { StatusCode::OK };
        return Ok(Router::new()
            .route("/live", get(ok))
            .route("/ready", get(ok)));
    };
    let admin: Arc<dyn Admin> = log.admin()?;
    let state = AdminState::new(application, &*settings.streams.application_id, admin);
    // It listens on loopback only: see `bind`.
    let mut state = state.with_changes();
    if let Some(door) = door {
        state = door
            .figures()
            .into_iter()
            .fold(state.with_check(door.check()), AdminState::with_figure);
    }
    if let Some(sink) = sink {
        let metrics = sink.metrics().clone();
        let run = move || metrics.last_error().map_or(Ok(()), Err);
        // While only the database is away, orders go on: taking an instance out of service, and the
        // others with it, would make an outage of what is a delay.
        let notice = Check {
            name: "sink",
            run: Box::new(run),
        };
        state = sink_figures(sink)
            .into_iter()
            .fold(state.with_notice(notice), AdminState::with_figure);
    }
    Ok(front(admin_router(state), FrontLimits::default()))
}

fn sink_figures(sink: &RunningSink) -> Vec<Figure> {
    type Read = fn(&millstream_sinks::Metrics) -> f64;
    let figures: [(&str, &str, FigureKind, Read); 6] = [
        (
            "records_total",
            "records whose rows are committed",
            FigureKind::Counter,
            |m| m.records.load(Ordering::Relaxed) as f64,
        ),
        (
            "rows_total",
            "rows written and deleted",
            FigureKind::Counter,
            |m| m.rows.load(Ordering::Relaxed) as f64,
        ),
        (
            "transactions_total",
            "transactions committed",
            FigureKind::Counter,
            |m| m.batches.load(Ordering::Relaxed) as f64,
        ),
        (
            "retries_total",
            "transactions tried again",
            FigureKind::Counter,
            |m| m.retries.load(Ordering::Relaxed) as f64,
        ),
        (
            "dead_letters_total",
            "records set aside",
            FigureKind::Counter,
            |m| m.dead_letters.load(Ordering::Relaxed) as f64,
        ),
        (
            "lag_records",
            "records that are not yet in the tables",
            FigureKind::Gauge,
            |m| m.lag.load(Ordering::Relaxed) as f64,
        ),
    ];
    let figure = |(name, help, kind, read): (&str, &str, FigureKind, Read)| {
        let metrics = sink.metrics().clone();
        Figure {
            name: format!("shop_sink_{name}"),
            help: help.to_owned(),
            kind,
            labels: Vec::new(),
            read: Box::new(move || read(&metrics)),
        }
    };
    figures.map(figure).into()
}

/// Takes an address before anything else is begun, so that a taken one is told at once.
async fn bind(wanted: ListenAddress, flag: &str) -> Outcome<TcpListener> {
    let wanted = wanted.socket();
    refuse_non_loopback(wanted).map_err(|e| Failure::Usage(chain(&e)))?;
    let taken = |e| {
        Failure::at(
            format!("cannot listen. flag=`--{flag}`, address=`{wanted}`"),
            &e,
        )
    };
    TcpListener::bind(wanted).await.map_err(taken)
}

fn address(listener: &TcpListener) -> Outcome<SocketAddr> {
    listener
        .local_addr()
        .map_err(|e| Failure::at("a listener has no address", &e))
}

/// Pages that are being served.
struct Server {
    address: SocketAddr,
    pages: Switch,
    close: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    fn start(listener: TcpListener, first: Router) -> Outcome<Self> {
        let address = address(&listener)?;
        let pages = Switch::new(first);
        let (close, mut closed) = watch::channel(false);
        let limits = ServeLimits {
            drain_time_max: DRAIN_MAX,
            ..ServeLimits::default()
        };
        let shutdown = async move {
            if closed.wait_for(|closed| *closed).await.is_err() {
                // Whoever could close it is gone without a word: it serves as long as the program
                // runs.
                pending::<()>().await;
            }
        };
        let serving = tokio::spawn(serve(listener, pages.router(), limits, shutdown));
        Ok(Self {
            address,
            pages,
            close,
            serving,
        })
    }

    /// Takes no more connections and waits for the requests that are being answered.
    async fn stop(self) {
        self.close.send_replace(true);
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "a server did not stop in order"),
            Err(error) => warn!(%error, "a server did not stop in order"),
        }
    }
}

/// Does something that blocks, away from the threads that serve.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(act).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Failure::at("a part of the program failed", &error)),
    }
}
