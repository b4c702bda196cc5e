//! How to connect, how long to wait, and how much to keep in flight.

use std::time::Duration;

use crate::ClientError;

/// The settings of a [`crate::Client`]. Every wait and every buffer of the client is bounded by one of them.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Longest wait for a connection, TLS included. Default 5 s. Lower than a busy machine's scheduling delay, healthy
    /// daemons look dead.
    pub connect_timeout: Duration,
    /// Deadline of one call that has one answer; the daemon is told and stops working at it. Default 10 s.
    pub call_timeout: Duration,
    /// Longest silence on a Put, Get or Scrub stream on which an answer is due. Default 30 s. It bounds a single wait,
    /// not the stream, so it need not grow with the number of blocks.
    pub stall_timeout: Duration,
    /// Most bytes of blocks a [`crate::PutStream`] has sent without an outcome. Default 64 MiB, at least one block is
    /// always allowed.
    pub put_bytes_in_flight_max: usize,
    /// Most blocks (parts) a [`crate::PutStream`] has sent without an outcome. Default 256.
    pub put_blocks_in_flight_max: usize,
    /// The name leases belong to: 32 lower-case hexadecimal digits. Default: random for every client. Two clients
    /// with one name may use and release each other's leases.
    pub client_id: Option<String>,
    /// Whom to trust over `https`.
    pub tls: TlsOptions,
}

/// TLS settings, in PEM. Used by `https` endpoints only.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// The certificate authority that signed the daemon's certificate. Required for `https`: a node's daemon is not
    /// signed by a public authority.
    pub ca_pem: Option<Vec<u8>>,
    /// This client's certificate chain and private key, for a daemon that asks for one (mTLS).
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// The name to expect in the daemon's certificate; default: the host of the endpoint.
    pub server_name: Option<String>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            put_bytes_in_flight_max: 64 << 20,
            put_blocks_in_flight_max: 256,
            client_id: None,
            tls: TlsOptions::default(),
        }
    }
}

impl ConnectOptions {
    /// Checks every setting and reports the first that cannot work.
    pub fn validate(&self) -> Result<(), ClientError> {
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("call_timeout", self.call_timeout),
            ("stall_timeout", self.stall_timeout),
        ];
        for (field, timeout) in timeouts {
            if timeout.is_zero() {
                return Err(ClientError::invalid(
                    field,
                    "0",
                    "a wait needs some time; the defaults are 5 s, 10 s and 30 s",
                ));
            }
        }
        let bounds = [
            ("put_bytes_in_flight_max", self.put_bytes_in_flight_max),
            ("put_blocks_in_flight_max", self.put_blocks_in_flight_max),
        ];
        for (field, bound) in bounds {
            if bound == 0 {
                return Err(ClientError::invalid(field, "0", "nothing could ever be sent; use at least 1"));
            }
        }
        self.client_id.as_deref().map_or(Ok(()), check_client_id)
    }
}

fn check_client_id(id: &str) -> Result<(), ClientError> {
    let is_hex = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if id.len() == 32 && is_hex {
        return Ok(());
    }
    let id = id.chars().take(64).collect::<String>();
    Err(ClientError::invalid("client_id", format!("{id:?}"), "use 32 lower-case hexadecimal digits"))
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions")
            .field("ca_pem", &self.ca_pem.is_some())
            .field("identity_pem", &self.identity_pem.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        ConnectOptions::default().validate().expect("defaults work");
    }

    #[test]
    fn a_setting_that_cannot_work_is_named() {
        let fields = [
            ConnectOptions { call_timeout: Duration::ZERO, ..Default::default() },
            ConnectOptions { put_blocks_in_flight_max: 0, ..Default::default() },
            ConnectOptions { client_id: Some("ABC".into()), ..Default::default() },
        ]
        .map(|options| match options.validate() {
            Err(ClientError::Invalid { field, .. }) => field,
            other => panic!("accepted: {other:?}"),
        });
        assert_eq!(fields, ["call_timeout", "put_blocks_in_flight_max", "client_id"]);
    }

    #[test]
    fn a_private_key_is_never_printed() {
        let tls = TlsOptions { identity_pem: Some((b"cert".to_vec(), b"secret".to_vec())), ..Default::default() };
        assert!(!format!("{tls:?}").contains("115"), "bytes of the key appear");
        assert_eq!(format!("{tls:?}"), "TlsOptions { ca_pem: false, identity_pem: true, server_name: None }");
    }
}
