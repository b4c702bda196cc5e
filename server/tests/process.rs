//! The real process: what a shell, a service manager and a second daemon see of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A daemon in a folder of its own; killed when dropped.
struct Daemon {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

fn kvtierd(directory: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvtierd"));
    command.arg("--data-directory").arg(directory).args(["--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(["--host-bytes", "64MiB", "--set", "nvme.enabled=false"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Daemon {
    /// Starts one and waits until it listens.
    fn start(directory: &Path) -> Self {
        let mut child = kvtierd(directory, &[]).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("listening") {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "ended early: {said}");
        }
        Self { child, log }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn published(directory: &Path, key: &str) -> String {
    let text = std::fs::read_to_string(directory.join("LISTENING")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    table[key].as_str().unwrap().to_owned()
}

fn get(at: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn refused(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_daemon_on_port_0_tells_where_it_is_and_ends_cleanly_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let http = published(folder.path(), "http");
    assert!(get(&http, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&http, "/metrics").contains("kvtier_build_info"));
    std::os::unix::net::UnixStream::connect(folder.path().join("kvtierd.sock")).unwrap();

    daemon.signal("-TERM");
    let (code, said) = daemon.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("draining") && said.contains("ended"), "{said}");
    assert!(!folder.path().join("kvtierd.sock").exists() && !folder.path().join("LISTENING").exists());
}

#[test]
fn a_second_daemon_is_refused_and_a_killed_one_leaves_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let (code, said) = refused(kvtierd(folder.path(), &[]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("in use by kvtierd with process id {}", daemon.child.id())), "{said}");
    assert!(get(&published(folder.path(), "http"), "/healthz").contains("200"), "the first one is not disturbed");

    daemon.signal("-KILL");
    assert_eq!(daemon.end().0, None);
    assert!(folder.path().join("kvtierd.sock").exists(), "a killed daemon leaves its socket");
    Daemon::start(folder.path());
}

#[test]
fn wrong_settings_end_with_2_and_a_start_that_fails_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = refused(kvtierd(folder.path(), &["--set", "host.bites=1"]));
    assert_eq!(code, Some(2));
    assert!(said.contains("the nearest is \"host.bytes\""), "{said}");

    std::fs::write(folder.path().join("kvtierd.sock"), "").unwrap();
    std::fs::write(folder.path().join("FORMAT"), "kvtier data directory\nversion 9\n").unwrap();
    let (code, said) = refused(kvtierd(folder.path(), &[]));
    assert_eq!(code, Some(1));
    assert!(said.contains("has format 9") && said.contains("up to 1"), "{said}");
}

#[test]
fn garbage_from_the_network_does_not_end_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(folder.path());
    for key in ["tcp", "http"] {
        let mut stream = TcpStream::connect(published(folder.path(), key)).unwrap();
        stream.write_all(&[0xff; 4096]).unwrap();
        // Closed or reset, in either order.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(get(&published(folder.path(), "http"), "/healthz").contains("200"));
}
