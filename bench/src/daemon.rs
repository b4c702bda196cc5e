//! A kvtierd of our own: in a folder of its own, on ports of its own.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::grpc::drive::Target;
use crate::process::{Process, free_port, sibling};

type Failure = Box<dyn Error>;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    folder: PathBuf,
    settings: Vec<String>,
    port: u16,
    socket: PathBuf,
}

impl Daemon {
    /// Starts one with its data below `folder` and these `section.key=value` settings.
    pub fn start(folder: &Path, settings: &[String]) -> Result<Self, Failure> {
        let (port, socket) = (free_port()?, folder.join("kvtierd.sock"));
        let process = launch(folder, settings, port, &socket)?;
        Ok(Self { process, folder: folder.into(), settings: settings.to_vec(), port, socket })
    }

    /// Kills it with SIGKILL and starts it again on the same data.
    pub fn kill_and_restart(&mut self) -> Result<(), Failure> {
        self.process.kill()?;
        self.process = launch(&self.folder, &self.settings, self.port, &self.socket)?;
        Ok(())
    }

    /// Its TCP endpoint.
    pub fn tcp(&self) -> Target {
        Target::Tcp(format!("http://127.0.0.1:{}", self.port))
    }

    /// Its unix socket.
    pub fn unix(&self) -> Target {
        Target::Unix(self.socket.clone())
    }

    /// Process number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

fn launch(folder: &Path, settings: &[String], port: u16, socket: &Path) -> Result<Process, Failure> {
    let mut command = Command::new(sibling("kvtierd")?);
    command.current_dir(folder).arg("--create");
    let own = [
        format!("data_directory={}", folder.join("data").display()),
        format!("listen.tcp=127.0.0.1:{port}"),
        format!("listen.unix={}", socket.display()),
        format!("listen.http=127.0.0.1:{}", free_port()?),
    ];
    for setting in own.iter().chain(settings) {
        command.arg("--set").arg(setting);
    }
    Process::start(&mut command, || std::os::unix::net::UnixStream::connect(socket).is_ok())
}
