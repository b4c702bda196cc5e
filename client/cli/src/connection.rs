//! Where the daemon is and how to reach it: the options every command shares.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kvtier_client::{Client, ConnectOptions, Endpoint, TlsOptions};

use crate::amount::parse_time;
use crate::failure::Failure;

/// The unix socket a daemon started without settings listens on, seen from its working directory.
const SOCKET_DEFAULT: &str = "kvtier-data/kvtierd.sock";
/// The address it listens on besides.
const ADDRESS_DEFAULT: &str = "http://127.0.0.1:7070";

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArguments {
    /// Daemon to talk to: unix:///PATH, http://HOST:PORT or https://HOST:PORT [default: unix:./kvtier-data/kvtierd.sock
    /// if it exists, else http://127.0.0.1:7070]
    #[arg(long, global = true, env = "KVTIER_ENDPOINT", value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Print JSON with stable field names instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Longest wait for one answer
    #[arg(long, global = true, env = "KVTIER_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub(crate) timeout: Duration,
    /// Certificate authority that signed the daemon's certificate, in PEM (https only)
    #[arg(long, global = true, env = "KVTIER_TLS_CA", value_name = "FILE", hide_short_help = true)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This client's certificate, in PEM, for a daemon that asks for one
    #[arg(
        long,
        global = true,
        env = "KVTIER_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        hide_short_help = true
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, in PEM
    #[arg(
        long,
        global = true,
        env = "KVTIER_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert",
        hide_short_help = true
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Name to expect in the daemon's certificate, if it is not the host of the endpoint
    #[arg(long, global = true, env = "KVTIER_TLS_NAME", value_name = "NAME", hide_short_help = true)]
    pub(crate) tls_name: Option<String>,
}

impl GlobalArguments {
    /// Connects, or says where nobody answered.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let options = ConnectOptions {
            connect_timeout: self.timeout.min(Duration::from_secs(5)),
            call_timeout: self.timeout,
            stall_timeout: self.timeout.max(Duration::from_secs(30)),
            tls: self.tls()?,
            ..ConnectOptions::default()
        };
        Ok(Client::connect_with(&self.endpoint()?, options).await?)
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let text = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None if Path::new(SOCKET_DEFAULT).exists() => format!("unix:./{SOCKET_DEFAULT}"),
            None => ADDRESS_DEFAULT.to_owned(),
        };
        Ok(text.parse()?)
    }

    fn tls(&self) -> Result<TlsOptions, Failure> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(Failure::file("read", path));
        let identity_pem = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        Ok(TlsOptions {
            ca_pem: self.tls_ca.as_ref().map(read).transpose()?,
            identity_pem,
            server_name: self.tls_name.clone(),
        })
    }
}
