//! `Instance`: a process of the shop, started again whenever it is gone.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    http,
    process::{Owned, signal},
};

/// How often an instance is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The pause before one that ended by itself is started again.
const AGAIN: Duration = Duration::from_secs(1);

/// One instance. Its process ends when this is dropped.
pub(crate) struct Instance {
    pub(crate) index: usize,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    binary: PathBuf,
    arguments: Vec<String>,
    out: PathBuf,
    pub(crate) errors: PathBuf,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    process: Option<Owned>,
    /// Killed by us, and not to be started yet; or at the end of the run.
    down: bool,
    started: Option<Instant>,
    ready: bool,
    /// From a start to the first time that it was ready.
    times_to_ready: Vec<Duration>,
    /// Ends of a process that nobody asked for. What it needs may be away: it has to wait then.
    unasked_ends: Vec<String>,
}

impl Instance {
    pub(crate) fn new(
        index: usize,
        binary: &Path,
        folder: &Path,
        (port, admin_port): (u16, u16),
        flags: &[String],
    ) -> Self {
        let data_dir = folder.join(format!("shop-{index}"));
        let mut arguments: Vec<String> = ["shop", "--data-dir"].map(str::to_owned).into();
        arguments.push(data_dir.display().to_string());
        arguments.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        arguments.extend([
            "--admin-listen".to_owned(),
            format!("127.0.0.1:{admin_port}"),
        ]);
        arguments.extend_from_slice(flags);
        Self {
            index,
            port,
            admin_port,
            binary: binary.to_owned(),
            arguments,
            out: folder.join(format!("shop-{index}.out")),
            errors: folder.join(format!("shop-{index}.log")),
            now: Mutex::default(),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("nothing panics with this lock")
    }

    /// Keeps it running for ever.
    pub(crate) async fn keep(self: Arc<Self>) -> io::Result<()> {
        loop {
            if self.see_to_process()? {
                sleep(AGAIN).await;
            }
            if self.is_awaited()
                && matches!(http::get(self.admin_port, "/ready").await, Ok((200, _)))
            {
                let mut now = self.now();
                if let (false, Some(started)) = (now.ready, now.started) {
                    now.ready = true;
                    now.times_to_ready.push(started.elapsed());
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Starts it when it is gone; true when it has ended by itself.
    fn see_to_process(&self) -> io::Result<bool> {
        let mut now = self.now();
        if now.down {
            return Ok(false);
        }
        let ended = match &mut now.process {
            None => None,
            Some(process) => match process.ended()? {
                None => return Ok(false),
                ended => ended,
            },
        };
        now.process = None;
        now.ready = false;
        if let Some(status) = ended {
            let what = format!("instance {}: {status}: {}", self.index, self.last_words());
            now.unasked_ends.push(what);
            return Ok(true);
        }
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).env("NO_COLOR", "1");
        now.process = Some(Owned::start(&mut command, &self.out, &self.errors)?);
        now.started = Some(Instant::now());
        Ok(false)
    }

    fn is_awaited(&self) -> bool {
        let now = self.now();
        now.process.is_some() && !now.ready
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.errors).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    /// `kill -9`; it stays away for so long.
    pub(crate) async fn kill(&self, away: Duration) -> io::Result<()> {
        {
            let mut now = self.now();
            now.down = true;
            now.ready = false;
            if let Some(mut process) = now.process.take() {
                process.kill()?;
            }
        }
        sleep(away).await;
        self.now().down = false;
        Ok(())
    }

    /// SIGSTOP, and SIGCONT after so long.
    pub(crate) async fn freeze(&self, time: Duration) -> io::Result<()> {
        let Some(pid) = self.now().process.as_ref().map(Owned::pid) else {
            return Ok(());
        };
        signal(pid, "STOP")?;
        sleep(time).await;
        // It may have ended by itself, which is told elsewhere.
        let _ = signal(pid, "CONT");
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.now().ready
    }

    pub(crate) fn times_to_ready(&self) -> Vec<Duration> {
        self.now().times_to_ready.clone()
    }

    pub(crate) fn unasked_ends(&self) -> Vec<String> {
        self.now().unasked_ends.clone()
    }

    /// Ends it for good.
    pub(crate) fn end(&self) {
        let mut now = self.now();
        now.down = true;
        now.process = None;
    }
}
