//! Builds the gRPC channel: the transport numbers of `kvtier_proto::tuning`, TLS, and the unix socket.
//!
//! The channel connects again by itself when it was lost; a call made while that fails is answered `Unavailable`.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kvtier_proto::tuning;
use kvtier_proto::v1::kv_tier_client::KvTierClient;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint as Transport, Identity};

use crate::{ClientError, ConnectOptions, Endpoint};

/// The generated client over our channel.
pub(crate) type Wire = KvTierClient<Channel>;

/// How often an idle connection is asked whether its other end is alive, and how long an answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Connects now, so that a wrong address shows here and not in the first call.
pub(crate) async fn open(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Channel, ClientError> {
    let transport = configure(endpoint, options)?;
    let connecting = async {
        match endpoint {
            Endpoint::Unix(path) => transport.connect_with_connector(unix_connector(path.clone())).await,
            _ => transport.connect().await,
        }
    };
    let unavailable = |detail| ClientError::Unavailable {
        endpoint: endpoint.to_string(),
        detail,
        retry_after: crate::decode::RETRY_AFTER_DEFAULT,
    };
    match tokio::time::timeout(options.connect_timeout, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unavailable(crate::decode::root_cause(&error))),
        Err(_) => Err(unavailable(format!("no connection within {} ms", options.connect_timeout.as_millis()))),
    }
}

/// Prepares a channel that connects at its first call.
pub(crate) fn open_lazily(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Channel, ClientError> {
    let transport = configure(endpoint, options)?;
    Ok(match endpoint {
        Endpoint::Unix(path) => transport.connect_with_connector_lazy(unix_connector(path.clone())),
        _ => transport.connect_lazy(),
    })
}

/// The generated client with our message bounds.
pub(crate) fn wire(channel: Channel) -> Wire {
    KvTierClient::new(channel)
        .max_decoding_message_size(tuning::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(tuning::MESSAGE_BYTES_MAX)
}

fn configure(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Transport, ClientError> {
    let address = match endpoint {
        Endpoint::Http(address) | Endpoint::Https(address) => address.clone(),
        // Only the `:authority` header; the connector knows the path.
        Endpoint::Unix(_) => "http://localhost".to_owned(),
    };
    let invalid = |error: tonic::transport::Error| {
        ClientError::invalid("endpoint", format!("\"{endpoint}\""), crate::decode::root_cause(&error))
    };
    let transport = Transport::from_shared(address)
        .map_err(invalid)?
        .user_agent(concat!("kvtier-client/", env!("CARGO_PKG_VERSION")))
        .map_err(invalid)?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(tuning::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(tuning::CONNECTION_WINDOW_BYTES)
        .max_frame_size(tuning::FRAME_BYTES_MAX)
        .buffer_size(tuning::CLIENT_BUFFER_COUNT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    match endpoint {
        Endpoint::Https(_) => transport.tls_config(tls(options)?).map_err(invalid),
        _ => Ok(transport),
    }
}

fn tls(options: &ConnectOptions) -> Result<ClientTlsConfig, ClientError> {
    let ca = options.tls.ca_pem.as_ref().ok_or_else(|| {
        ClientError::invalid("tls.ca_pem", "absent", "an https endpoint needs the authority that signed the daemon")
    })?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).timeout(options.connect_timeout);
    if let Some((certificate, key)) = &options.tls.identity_pem {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &options.tls.server_name {
        config = config.domain_name(name);
    }
    Ok(config)
}

fn unix_connector(
    path: PathBuf,
) -> impl tower::Service<
    tonic::transport::Uri,
    Response = TokioIo<UnixStream>,
    Error = std::io::Error,
    Future = impl Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send,
> + Send
+ 'static {
    tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}
