//! A shop on a log of its own, started, killed and started again.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use millstream_tests::{Program, eventually, free_port, get};
use tempfile::TempDir;

/// How long a shop may take to serve.
const START_MAX: Duration = Duration::from_secs(60);
/// SIGTERM ends a shop within this time.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How long a shop to which no orders come may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(60);
/// How often a shop is started again because it was stopped too early.
const RESTS_MAX: usize = 5;

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_millstream"))
}

/// Runs the program to its end.
pub(crate) fn millstream(arguments: &[&str]) -> Output {
    millstream_tests::run(binary(), arguments)
}

/// Runs the program, which must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let output = millstream(arguments);
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{arguments:?}: {:?}\n{out}\n{errors}",
        output.status
    );
    out
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A shop on a folder of its own. Its address stays the same when it is started again.
pub(crate) struct Shop {
    folder: TempDir,
    port: u16,
    admin_port: u16,
    flags: Vec<String>,
    program: Option<Program>,
}

impl Shop {
    /// Starts a shop with these flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut shop = Self {
            folder: tempfile::tempdir().expect("a folder"),
            port: free_port(),
            admin_port: free_port(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            program: None,
        };
        shop.start_again();
        shop
    }

    /// Starts it in the same folder, and waits until it is ready.
    pub(crate) fn start_again(&mut self) {
        let data_dir = self.data_dir();
        let listen = format!("127.0.0.1:{}", self.port);
        let admin_listen = format!("127.0.0.1:{}", self.admin_port);
        let mut arguments = vec!["shop", "--data-dir", &data_dir, "--listen", &listen];
        arguments.extend(["--admin-listen", &admin_listen]);
        arguments.extend(self.flags.iter().map(String::as_str));
        let program = Program::start(binary(), &arguments, &self.errors());
        assert_eq!(program.line("listening ", START_MAX), self.url());
        assert_eq!(program.line("admin ", START_MAX), self.admin_url());
        let ready = format!("{}/ready", self.admin_url());
        eventually(START_MAX, "the shop is ready", || {
            get(&ready).ok().filter(|answer| answer.status == 200)
        });
        self.program = Some(program);
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.program.take().expect("it runs").kill();
    }

    /// Tells it to stop; it must end well and in time.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut program = self.program.take().expect("it runs");
        let status = program.terminate(STOP_MAX);
        assert!(status.success(), "{status}: {}", program.errors());
    }

    /// Stops it once everything has come to rest, and verifies it to the letter.
    ///
    /// A call of the gateway may be on its way when the shop is told to stop; the next start takes
    /// it up.
    #[track_caller]
    pub(crate) fn stop_and_verify(&mut self) -> String {
        for _ in 0..RESTS_MAX {
            eventually(REST_MAX, "the shop has come to rest", || {
                self.rests().then_some(())
            });
            self.stop();
            let verdict = succeeds(&["verify", "--data-dir", &self.data_dir()]);
            if verdict.ends_with("all promises hold\n") {
                return verdict;
            }
            self.start_again();
        }
        panic!("it does not come to rest");
    }

    /// True when streams and sink have read everything.
    pub(crate) fn rests(&self) -> bool {
        let lag = get(&format!("{}/lag", self.admin_url())).map(|answer| answer.body["lag"] == 0);
        let metrics = get(&format!("{}/metrics", self.admin_url())).map(|answer| answer.text);
        lag.unwrap_or(false)
            && metrics.is_ok_and(|text| text.lines().any(|line| line == "shop_sink_lag_records 0"))
    }

    /// Where customers are served.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where operators are served.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// Its folder.
    pub(crate) fn data_dir(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// A file beside its data.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What all its processes wrote to standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.errors()).unwrap_or_default()
    }

    fn errors(&self) -> PathBuf {
        self.file("errors")
    }
}
