//! Where a daemon listens: `http://host:port`, `https://host:port` or `unix:///path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::ClientError;

/// The address of one daemon.
///
/// ```
/// use kvtier_client::Endpoint;
///
/// assert_eq!("unix:///run/kvtierd.sock".parse(), Ok(Endpoint::Unix("/run/kvtierd.sock".into())));
/// assert!("127.0.0.1:7070".parse::<Endpoint>().is_err(), "the scheme is part of an endpoint");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Plain TCP. Meant for loopback: the daemon refuses other addresses unless it was told `insecure = true`.
    Http(String),
    /// TCP under TLS; [`crate::TlsOptions`] says whom to trust.
    Https(String),
    /// A unix socket. The path may be relative to the working directory.
    Unix(PathBuf),
}

const REMEDY: &str = "write http://HOST:PORT, https://HOST:PORT or unix:///PATH";

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let invalid = |remedy: &str| ClientError::invalid("endpoint", format!("{text:?}"), remedy);
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(invalid(REMEDY));
            }
            return Ok(Self::Unix(path.into()));
        }
        let (secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(invalid(REMEDY)),
        };
        check_authority(rest.strip_suffix('/').unwrap_or(rest)).map_err(invalid)?;
        let address = text.strip_suffix('/').unwrap_or(text).to_owned();
        Ok(if secure { Self::Https(address) } else { Self::Http(address) })
    }
}

fn check_authority(authority: &str) -> Result<(), &'static str> {
    let (host, port) = authority.rsplit_once(':').ok_or("name the port, as in http://127.0.0.1:7070")?;
    if host.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
        return Err(REMEDY);
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err("a port is a number from 1 to 65535"),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) | Self::Https(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_prints_as_it_was_written() {
        for text in ["http://127.0.0.1:7070", "https://node-7.example:443", "unix:///run/k.sock", "http://[::1]:7070"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_unix_path_may_be_relative() {
        let expected = Endpoint::Unix("./kvtier-data/kvtierd.sock".into());
        assert_eq!("unix:./kvtier-data/kvtierd.sock".parse(), Ok(expected));
    }

    #[test]
    fn a_trailing_slash_is_not_part_of_the_address() {
        assert_eq!("http://h:1/".parse(), Ok(Endpoint::Http("http://h:1".into())));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_forms_that_are() {
        let bad = ["", "h:1", "ftp://h:1", "http://", "http://h", "http://h:0", "http://h:70000", "http://:1", "unix:"];
        for text in bad.iter().chain(&["http://h:1/path", "http://u@h:1", "http://h h:1"]) {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(matches!(&error, ClientError::Invalid { field, .. } if field == "endpoint"), "{text}: {error}");
        }
    }
}
