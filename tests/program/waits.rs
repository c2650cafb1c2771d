//! A shop whose log or database is away when it starts: it waits, says so, and can be stopped.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use millstream_tests::{Answer, Program, eventually, free_port, get};
use tempfile::TempDir;

use crate::{
    shop::{binary, millstream, text},
    shop_kafka::{OwnDatabase, clear, services},
};

/// How long a shop may take to notice that something is away, or is there again.
const NOTICE_MAX: Duration = Duration::from_secs(60);
/// SIGTERM ends a shop that waits within this time.
const STOP_MAX: Duration = Duration::from_secs(3);

/// A shop that has not started yet.
struct Starting {
    folder: TempDir,
    port: u16,
    admin_port: u16,
    program: Program,
}

impl Starting {
    fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, admin_port) = (free_port(), free_port());
        let data_dir = folder.path().join("data").display().to_string();
        let listen = format!("127.0.0.1:{port}");
        let admin_listen = format!("127.0.0.1:{admin_port}");
        let mut arguments = vec!["shop", "--data-dir", &data_dir, "--listen", &listen];
        arguments.extend(["--admin-listen", &admin_listen]);
        arguments.extend(flags);
        let program = Program::start(binary(), &arguments, &folder.path().join("errors"));
        Self {
            folder,
            port,
            admin_port,
            program,
        }
    }

    fn ask(&self, port: u16, path: &str) -> Option<Answer> {
        get(&format!("http://127.0.0.1:{port}{path}")).ok()
    }

    /// Waits until the log says that it is tried again, and why.
    #[track_caller]
    fn waits_for(&self, what: &str, reason: &str) {
        eventually(NOTICE_MAX, "the log says what is waited for", || {
            let log = self.program.errors();
            let said = |line: &&str| {
                line.contains(" WARN ")
                    && line.contains("it is tried again")
                    && line.contains(what)
                    && line.contains(reason)
            };
            // Twice: the first time might be the last before it gives up.
            (log.lines().filter(said).count() >= 2).then_some(())
        });
        let ready = self.ask(self.admin_port, "/ready").expect("an answer");
        assert_eq!(ready.status, 503, "{ready:?}");
        assert!(ready.text.contains(what), "{ready:?}");
        let live = self.ask(self.admin_port, "/live").expect("an answer");
        assert_eq!(live.status, 200, "{live:?}");
        let door = self.ask(self.port, "/v1/orders").expect("an answer");
        assert_eq!(door.status, 503, "{door:?}");
        assert!(door.head.contains("retry-after: 1"), "{door:?}");
    }

    #[track_caller]
    fn stops_promptly(mut self) {
        let status = self.program.terminate(STOP_MAX);
        assert!(status.success(), "{status}: {}", self.program.errors());
    }

    /// Waits until it serves, and stops it.
    #[track_caller]
    fn serves_after_all(mut self) {
        self.program.line("admin ", NOTICE_MAX);
        eventually(NOTICE_MAX, "it is ready", || {
            let ready = self.ask(self.admin_port, "/ready")?;
            (ready.status == 200).then_some(())
        });
        let door = self.ask(self.port, "/v1/products").expect("an answer");
        assert_eq!(door.status, 200, "{door:?}");
        let log = self.program.errors();
        assert!(log.contains("it was waited for"), "{log}");
        let status = self.program.terminate(Duration::from_secs(20));
        assert!(status.success(), "{status}: {log}");
        drop(self.folder);
    }
}

/// Carries connections to a server, from a port at which nobody has listened so far.
fn carry(from: u16, server: &str) {
    let listener = TcpListener::bind(("127.0.0.1", from)).expect("the port is still free");
    let server = server.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&server).expect("the server answers");
            let (back, forth) = (client.try_clone(), server.try_clone());
            copy(client, forth.expect("a handle"));
            copy(server, back.expect("a handle"));
        }
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || -> io::Result<()> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut bytes)?;
            if read == 0 {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&bytes[..read])?;
        }
    });
}

#[test]
fn a_shop_waits_for_a_database_that_is_away_and_can_be_stopped() {
    let url = format!("mysql://shop:secret@127.0.0.1:{}/shop", free_port());
    let shop = Starting::with(&["--database-url", &url]);
    shop.waits_for("the database", "Connection refused");
    let log = shop.program.errors();
    assert!(!log.contains("secret"), "{log}");
    shop.stops_promptly();
}

#[test]
fn a_shop_says_that_the_host_of_its_database_is_unknown() {
    let shop = Starting::with(&["--database-url", "mysql://shop@no-such-host.invalid/shop"]);
    shop.waits_for("the database", "lookup address");
    shop.stops_promptly();
}

#[test]
fn a_shop_waits_for_brokers_that_are_away_and_can_be_stopped() {
    let brokers = format!("127.0.0.1:{}", free_port());
    let flags = [
        "--bootstrap-servers",
        &brokers,
        "--set",
        "kafka.request_timeout=1s",
    ];
    let shop = Starting::with(&flags);
    shop.waits_for("the log", "cannot create topics");
    shop.stops_promptly();
}

#[test]
fn a_shop_starts_once_its_brokers_and_its_database_are_there() {
    let Some(services) = services() else {
        return;
    };
    let kafka = &services.kafka;
    clear(kafka);
    let database = OwnDatabase::create(services.database.clone());
    let url = database.url();
    let (before, rest) = url.split_once('@').expect("a user");
    let (address, name) = rest.split_once('/').expect("a database");
    let (brokers_port, database_port) = (free_port(), free_port());
    let brokers = format!("127.0.0.1:{brokers_port}");
    let proxied = format!("{before}@127.0.0.1:{database_port}/{name}");
    let shop = Starting::with(&[
        "--bootstrap-servers",
        &brokers,
        "--database-url",
        &proxied,
        "--set",
        "kafka.request_timeout=1s",
    ]);
    shop.waits_for("the log", "cannot create topics");
    // Only the first connection goes this way: the brokers say where they are themselves.
    carry(brokers_port, kafka);
    shop.waits_for("the database", "Connection refused");
    carry(database_port, address);
    shop.serves_after_all();
}

#[test]
fn what_does_not_pass_by_itself_ends_a_start_with_the_reason() {
    let Some(services) = services() else {
        return;
    };
    let database = OwnDatabase::create(services.database.clone());
    let url = database.url();
    let (user, rest) = url.split_once('@').expect("a user");
    let (scheme, user) = user.split_once("//").expect("a scheme");
    let name = user.split(':').next().expect("a name");
    let (address, _) = rest.split_once('/').expect("a database");
    let wrong_password = format!("{scheme}//{name}:no-{name}@{rest}");
    let no_database = format!("{scheme}//{user}@{address}/millstream_program_none");
    for (url, reason) in [
        (wrong_password, "Access denied"),
        (no_database, "nknown database"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("data").display().to_string();
        let mut arguments = vec!["shop", "--data-dir", &data_dir, "--database-url", &url];
        arguments.extend(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        let output = millstream(&arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(reason), "{errors}");
    }
}
