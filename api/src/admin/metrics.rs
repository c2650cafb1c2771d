//! `/metrics`: figures in Prometheus' text format.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use millstream_runtime::{Queries, RestoreStats, Status};
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder, core::Collector};
use tokio::sync::Mutex;

use super::AdminState;
use crate::Problem;

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FigureKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A figure that a program adds to `/metrics`. Figures of one name have the same label names.
pub struct Figure {
    /// Its name, such as `shop_orders_accepted_total`.
    pub name: String,
    /// What it counts, for people.
    pub help: String,
    /// How it moves.
    pub kind: FigureKind,
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// Reads it. Called for every scrape: it must not block.
    pub read: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// How long counted entries are shown before they are counted again: counting walks over them.
const ENTRIES_FRESH: Duration = Duration::from_secs(15);

/// The number of entries of each store, counted from time to time.
#[derive(Default)]
pub(crate) struct StoreEntries(Mutex<Option<(Instant, Arc<BTreeMap<String, u64>>)>>);

impl StoreEntries {
    async fn read(&self, queries: &Queries) -> Arc<BTreeMap<String, u64>> {
        let mut kept = self.0.lock().await;
        if let Some((at, entries)) = &*kept
            && at.elapsed() < ENTRIES_FRESH
        {
            return entries.clone();
        }
        let queries = queries.clone();
        let count = move || {
            queries
                .stores()
                .into_iter()
                .map(|s| (s.name, s.entries))
                .collect()
        };
        let counted: Result<BTreeMap<String, u64>, _> = tokio::task::spawn_blocking(count).await;
        let counted = Arc::new(counted.unwrap_or_default());
        *kept = Some((Instant::now(), counted.clone()));
        counted
    }
}

pub(super) async fn metrics(State(state): State<Arc<AdminState>>) -> Result<Response, Problem> {
    let entries = state.entries.read(&state.queries).await;
    let page = Page::default();
    let written = write_status(&page, &state.status())
        .and_then(|()| write_instance(&page, &state, &entries))
        .and_then(|()| write_figures(&page, &state.figures));
    written.map_err(Problem::internal)?;
    let text = TextEncoder::new()
        .encode_to_string(&page.0.gather())
        .map_err(Problem::internal)?;
    let mut response = text.into_response();
    let format = HeaderValue::from_static(TEXT_FORMAT);
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    Ok(response)
}

/// One scrape. The figures are counted elsewhere, so a registry is made of them anew each time.
#[derive(Default)]
struct Page(Registry);

type Rows = Vec<(Vec<String>, f64)>;

impl Page {
    fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: Rows,
    ) -> prometheus::Result<()> {
        let family = CounterVec::new(Opts::new(name, help), labels)?;
        for (values, value) in rows {
            // A value below zero would panic in there.
            family
                .get_metric_with_label_values(&values)?
                .inc_by(value.max(0.0));
        }
        self.add(family)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str], rows: Rows) -> prometheus::Result<()> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        for (values, value) in rows {
            family.get_metric_with_label_values(&values)?.set(value);
        }
        self.add(family)
    }

    fn add(&self, family: impl Collector + 'static) -> prometheus::Result<()> {
        self.0.register(Box::new(family))
    }
}

fn write_status(page: &Page, status: &Status) -> prometheus::Result<()> {
    let threads = |value: fn(&millstream_runtime::CommitStats) -> f64| -> Rows {
        let row =
            |t: &millstream_runtime::ThreadStatus| (vec![t.index.to_string()], value(&t.commits));
        status.threads.iter().map(row).collect()
    };
    let thread = &["thread"];
    let counter = |name, help, rows| page.counter(name, help, thread, rows);
    counter(
        "millstream_commits_total",
        "Transactions committed.",
        threads(|c| c.count as f64),
    )?;
    counter(
        "millstream_aborts_total",
        "Transactions aborted.",
        threads(|c| c.aborts as f64),
    )?;
    counter(
        "millstream_rejoins_total",
        "Times a thread joined anew.",
        threads(|c| c.rejoins as f64),
    )?;
    counter(
        "millstream_failed_records_total",
        "Records that were set aside or skipped by policy.",
        threads(|c| c.failed_records as f64),
    )?;
    counter(
        "millstream_commit_seconds_total",
        "Time spent in commits.",
        threads(|c| c.sum_us as f64 / 1e6),
    )?;
    let quantiles = status.threads.iter().flat_map(|t| {
        let row = |quantile: &str, us: u64| {
            (
                vec![t.index.to_string(), quantile.to_owned()],
                us as f64 / 1e6,
            )
        };
        [row("0.5", t.commits.p50_us), row("0.99", t.commits.p99_us)]
    });
    page.gauge(
        "millstream_commit_seconds",
        "Time of a commit, by quantile since the start.",
        &["thread", "quantile"],
        quantiles.collect(),
    )?;
    let help = "Stream threads that there should be.";
    let wanted = vec![(vec![], status.threads_wanted as f64)];
    page.gauge("millstream_threads", help, &[], wanted)?;
    let nodes = status
        .nodes
        .iter()
        .map(|(node, n)| (vec![node.clone()], *n as f64))
        .collect();
    let help = "Records that a node has taken since its tasks were opened here.";
    page.counter("millstream_node_records_total", help, &["node"], nodes)?;
    write_tasks(page, status)
}

fn write_tasks(page: &Page, status: &Status) -> prometheus::Result<()> {
    let tasks = |value: fn(&millstream_runtime::TaskStatus) -> f64| -> Rows {
        let tasks = status.threads.iter().flat_map(|t| &t.tasks);
        tasks.map(|t| (vec![t.id.clone()], value(t))).collect()
    };
    let task = &["task"];
    let help = "Records processed since the task was opened here.";
    page.counter(
        "millstream_task_records_total",
        help,
        task,
        tasks(|t| t.records as f64),
    )?;
    let help = "Records that operators had to drop, such as late ones.";
    page.counter(
        "millstream_task_dropped_total",
        help,
        task,
        tasks(|t| t.dropped as f64),
    )?;
    let help = "Records that wait in memory.";
    page.gauge(
        "millstream_task_buffered",
        help,
        task,
        tasks(|t| t.buffered as f64),
    )?;
    let help = "Changelog records that a standby here is behind.";
    let standbys = status.standbys.iter();
    let lags = standbys.map(|s| (vec![s.id.clone()], s.lag as f64));
    page.gauge("millstream_standby_lag_records", help, task, lags.collect())?;
    let help = "How long ago a standby here was level with its task; none that never was.";
    let standbys = status.standbys.iter();
    let ages = standbys.filter_map(|s| Some((vec![s.id.clone()], s.stale_ms? as f64 / 1e3)));
    page.gauge(
        "millstream_standby_stale_seconds",
        help,
        task,
        ages.collect(),
    )?;
    let help = "Changelog records to read before the task can run.";
    let remaining = tasks(|t| t.restore_remaining as f64);
    page.gauge("millstream_task_restore_remaining", help, task, remaining)?;
    let help =
        "Changelogs of the task of which nothing has come for 30 s although records are left.";
    let stuck = tasks(|t| t.restore_stuck.len() as f64);
    page.gauge("millstream_task_restore_stuck", help, task, stuck)?;
    let RestoreStats { records, bytes } = status.restored;
    let one = |value: u64| vec![(vec![], value as f64)];
    let help = "Records that restores have read since the start.";
    page.counter("millstream_restored_records_total", help, &[], one(records))?;
    let help = "Bytes of keys and values that restores have read since the start.";
    page.counter("millstream_restored_bytes_total", help, &[], one(bytes))?;
    let help = "Greatest event time seen, in seconds since the Unix epoch.";
    let stream_time = tasks(|t| t.stream_time_ms as f64 / 1e3);
    page.gauge(
        "millstream_task_stream_time_seconds",
        help,
        task,
        stream_time,
    )?;
    let help = "Bytes of committed state that are not on disk yet.";
    let unwritten = tasks(|t| t.unwritten_bytes as f64);
    page.gauge("millstream_task_unwritten_bytes", help, task, unwritten)?;
    let help = "1 while the state of the task cannot be written to disk.";
    let stalled = tasks(|t| f64::from(u8::from(t.stalled.is_some())));
    page.gauge("millstream_task_stalled", help, task, stalled)?;
    let rebuilds = status.rebuilds.iter();
    let rebuilds = rebuilds.map(|(id, n)| (vec![id.clone()], *n as f64));
    let help = "Times the state of a task was found damaged and was rebuilt.";
    page.counter(
        "millstream_state_rebuilds_total",
        help,
        task,
        rebuilds.collect(),
    )?;
    let stores = status.threads.iter().flat_map(|t| &t.tasks).flat_map(|t| {
        let row = |s: &millstream_runtime::StoreStatus| {
            (vec![t.id.clone(), s.name.clone()], s.replayed as f64)
        };
        t.stores.iter().map(row).collect::<Vec<_>>()
    });
    let help = "Changelog records replayed since the task was opened here.";
    page.counter(
        "millstream_store_replayed_total",
        help,
        &["task", "store"],
        stores.collect(),
    )
}

fn write_instance(
    page: &Page,
    state: &AdminState,
    entries: &BTreeMap<String, u64>,
) -> prometheus::Result<()> {
    let rows = entries
        .iter()
        .map(|(store, n)| (vec![store.clone()], *n as f64))
        .collect();
    let help = "About how many entries this instance holds of a store.";
    page.gauge("millstream_store_entries", help, &["store"], rows)?;
    let now = state.health_name();
    let healths = [
        "starting", "running", "paused", "stalled", "stopping", "failed",
    ];
    let rows = healths
        .iter()
        .map(|h| (vec![(*h).to_owned()], f64::from(u8::from(*h == now))));
    let help = "1 for the state that the application is in.";
    page.gauge("millstream_health", help, &["state"], rows.collect())?;
    let members = state.members.list().len() as f64;
    page.gauge(
        "millstream_members",
        "Instances heard of lately.",
        &[],
        vec![(vec![], members)],
    )
}

fn write_figures(page: &Page, figures: &[Figure]) -> prometheus::Result<()> {
    let names: BTreeSet<&str> = figures.iter().map(|f| f.name.as_str()).collect();
    for name in names {
        let of_name: Vec<&Figure> = figures.iter().filter(|f| f.name == name).collect();
        let Some(first) = of_name.first() else {
            continue;
        };
        let labels: Vec<&str> = first
            .labels
            .iter()
            .map(|(label, _)| label.as_str())
            .collect();
        let row = |f: &&Figure| {
            (
                f.labels.iter().map(|(_, value)| value.clone()).collect(),
                (f.read)(),
            )
        };
        let rows = of_name.iter().map(row).collect();
        match first.kind {
            FigureKind::Counter => page.counter(name, &first.help, &labels, rows)?,
            FigureKind::Gauge => page.gauge(name, &first.help, &labels, rows)?,
        }
    }
    Ok(())
}
