//! What has to be there before anything can be compared, and how it gets there.
//!
//! Mooncake comes from PyPI into an environment of its own below the folder that was named. Redis and fio are programs of the
//! system: they are taken from the PATH, else asked of apt if this user may, else named with the command that installs
//! them. Nothing is taken from anywhere without a pinned version or the system's own packages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Failure;

/// What is asked of PyPI.
const MOONCAKE: [&str; 2] = ["mooncake-transfer-engine-non-cuda==0.3.13.post1", "numpy==2.4.6"];

/// What was found or installed.
pub(super) struct Tools {
    /// A Python environment; none: Mooncake is left out.
    pub(super) mooncake: Option<PathBuf>,
}

/// Installs what is missing and not left out.
pub(super) fn install(folder: &Path, without: &[String]) -> Result<Tools, Failure> {
    let wants = |name: &str| !without.iter().any(|left_out| left_out.starts_with(name));
    program("redis-server", "redis-server")?;
    if wants("fio") {
        program("fio", "fio")?;
    }
    let mooncake =
        if wants("mooncake") { Some(mooncake(&std::path::absolute(folder)?.join("mooncake"))?) } else { None };
    Ok(Tools { mooncake })
}

/// An environment with the package.
fn mooncake(environment: &Path) -> Result<PathBuf, Failure> {
    let python = environment.join("bin/python");
    let imports = ["-c", "import numpy, mooncake.store"];
    if succeeds(Command::new(&python).args(imports)) {
        return Ok(environment.to_owned());
    }
    eprintln!("installing Mooncake into {}", environment.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(MOONCAKE))?;
    run(Command::new(&python).args(imports))?;
    Ok(environment.to_owned())
}

/// A program of the system.
fn program(name: &str, package: &str) -> Result<(), Failure> {
    if succeeds(Command::new(name).arg("--version")) {
        return Ok(());
    }
    eprintln!("installing {package}");
    let installed = run(Command::new("apt-get").args(["install", "--yes", "--quiet", package]));
    installed.map_err(|error| {
        format!("{name} is missing and could not be installed ({error}); run: sudo apt-get install {package}")
    })?;
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words = words.join(" ");
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("`{words}` does not start: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.trim().lines().next_back().unwrap_or_default().to_owned();
            Err(format!("`{words}` ended with {}: {last}", output.status).into())
        }
    }
}
