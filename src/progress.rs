//! `Progress`: a line on the terminal that lives while a replay runs.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::replay::Figures;

/// How often the line is drawn anew.
const REDRAW: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{bar:30.cyan/blue} {pos}/{len} {msg}";

/// A progress bar; nothing is drawn where the output is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    drawing: JoinHandle<()>,
}

impl Progress {
    /// Draws what `tell` says: how far it is, and a few words.
    pub(crate) fn new(total: u64, tell: impl Fn() -> (u64, String) + Send + 'static) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is legal");
        let bar = ProgressBar::new(total).with_style(style);
        let drawn = bar.clone();
        let drawing = tokio::spawn(async move {
            let mut tick = tokio::time::interval(REDRAW);
            loop {
                tick.tick().await;
                let (position, message) = tell();
                drawn.set_message(message);
                drawn.set_position(position);
            }
        });
        Self { bar, drawing }
    }

    /// Draws how many orders were taken, and how fast.
    pub(crate) fn accepting(total: u64, figures: Arc<Figures>) -> Self {
        let started = Instant::now();
        Self::new(total, move || {
            let accepted = figures.accepted.load(Ordering::Relaxed);
            let refused = figures.refused.load(Ordering::Relaxed);
            let rate = accepted as f64 / started.elapsed().as_secs_f64();
            (
                accepted,
                format!("accepted, {refused} refused, {rate:.0} orders/s"),
            )
        })
    }

    /// Takes the line away.
    pub(crate) fn finish(self) {
        self.drawing.abort();
        self.bar.finish_and_clear();
    }
}
