//! `Program`: a process that a test started, and ends.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use crate::eventually;

/// A process that a test started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    errors: PathBuf,
}

impl Program {
    /// Starts a program; what it writes to standard error goes behind what is in `errors` already.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(binary: &Path, arguments: &[&str], errors: &Path) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(errors)
            .expect("a file for errors");
        let mut child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tell, lines) = channel();
        // Reads on until the program ends, so that it never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Whoever wanted to hear may be gone.
                let _ = tell.send(line);
            }
        });
        Self {
            child,
            lines,
            errors: errors.to_owned(),
        }
    }

    /// Waits for a line of standard output that begins like this, and returns the rest of it.
    ///
    /// # Panics
    /// When none comes in time, or the program ends before.
    #[track_caller]
    pub fn line(&self, beginning: &str, within: Duration) -> String {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.trim().to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no line `{beginning}`: {}", self.errors())
                }
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended: {}", self.errors()),
            }
        }
    }

    /// What it has written to standard error so far.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Kills it as a power cut would: it can do nothing any more.
    ///
    /// # Panics
    /// When the system cannot.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }

    /// Tells it to stop, and waits for its end.
    ///
    /// # Panics
    /// When it takes longer.
    #[track_caller]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        let pid = self.child.id().to_string();
        let told = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill starts");
        assert!(told.success(), "it can be told");
        self.wait(within)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes longer.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        eventually(within, "the program ends", || {
            self.child.try_wait().expect("it can be waited for")
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns what it wrote.
///
/// # Panics
/// When it cannot be started.
pub fn run(binary: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.expect("the program starts")
}

/// A port of this machine that nobody listens at, at this moment.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}
