//! TLS and mTLS with rustls, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use super::connection::ClientIdentity;
use crate::config::Tls;

/// Why TLS cannot be offered. Every message names setting and file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds something else.
    #[error("{setting} = \"{}\" {why}", file.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Certificate and key cannot be used.
    #[error("tls.certificate and tls.key cannot be used: {0}; name a certificate and the key it was made for")]
    Pair(rustls::Error),
    /// The client authorities cannot be used.
    #[error("tls.client_ca cannot be used: {0}")]
    Authorities(String),
}

/// TLS for both kinds of listener.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// gRPC: HTTP/2, with client certificates when `tls.client_ca` is set.
    pub grpc: Arc<ServerConfig>,
    /// HTTP/1.1 without client certificates: probes and scrapers have none.
    pub http: Arc<ServerConfig>,
}

/// Reads the files; nothing when TLS is off.
pub fn load(tls: &Tls) -> Result<Option<ServerTls>, TlsError> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Ok(None);
    };
    let chain = certificates("tls.certificate", certificate)?;
    let key = private_key("tls.key", key)?;
    let authorities = tls.client_ca.as_deref().map(authorities).transpose()?;
    let grpc = server_config(chain.clone(), key.clone_key(), authorities, b"h2")?;
    let http = server_config(chain, key, None, b"http/1.1")?;
    Ok(Some(ServerTls { grpc, http }))
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Option<RootCertStore>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the ring provider supports the default versions");
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Authorities(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn certificates(setting: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|error| refused(setting, file, "certificate", &error))?;
    if chain.is_empty() { Err(refused(setting, file, "certificate", &pem::Error::NoItemsFound)) } else { Ok(chain) }
}

fn private_key(setting: &'static str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| refused(setting, file, "private key", &error))
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let setting = "tls.client_ca";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, file)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::File {
            setting,
            file: file.to_path_buf(),
            why: format!("holds a certificate that is not valid: {error}"),
        })?;
    }
    Ok(roots)
}

fn refused(setting: &'static str, file: &Path, what: &str, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("holds no {what} in PEM form (-----BEGIN …-----)"),
        other => format!("is not valid PEM: {other}"),
    };
    TlsError::File { setting, file: file.to_path_buf(), why }
}

/// What a verified client certificate says. Names that cannot be read are left out: the chain has been verified, names
/// only tell clients apart.
pub(super) fn identity(leaf: &CertificateDer<'_>) -> ClientIdentity {
    let names = webpki::EndEntityCert::try_from(leaf).map_or_else(
        |_| Vec::new(),
        |certificate| certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect(),
    );
    ClientIdentity { names, certificate: leaf.to_vec() }
}
