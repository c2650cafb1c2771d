//! `Owned`: a process of this run, which ends with it.

use std::{
    fs::File,
    io,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

/// A process that is killed when this is dropped.
pub(crate) struct Owned(Child);

impl Owned {
    /// Starts it; what it says goes behind what is in these files already.
    pub(crate) fn start(command: &mut Command, out: &Path, errors: &Path) -> io::Result<Self> {
        let log = |path: &Path| File::options().create(true).append(true).open(path);
        let command = command
            .stdin(Stdio::null())
            .stdout(log(out)?)
            .stderr(log(errors)?);
        command.spawn().map(Self)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.kill();
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, name: &str) -> io::Result<()> {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()?;
    match sent.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "no such process. signal={name}, pid={pid}"
        ))),
    }
}
