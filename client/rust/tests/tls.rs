//! TLS: the daemon is known by its authority, and may ask to know the client.

mod fake;

use std::sync::Arc;

use fake::Fake;
use kvtier_client::{Client, ClientError, ConnectOptions, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("signs").pem(), key.serialize_pem())
    }
}

async fn connect(fake: &Fake, tls: TlsOptions) -> Result<String, ClientError> {
    let options = ConnectOptions { tls, ..Default::default() };
    let client = Client::connect_with(&fake.endpoint.parse().expect("valid"), options).await?;
    Ok(client.status().await?.state)
}

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions { ca_pem: Some(authority.pem.clone().into_bytes()), ..Default::default() }
}

#[tokio::test]
async fn a_daemon_is_trusted_by_its_authority_only() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    let fake = Fake::tcp_with(Arc::default(), Some(tls));

    assert_eq!(connect(&fake, trusting(&authority)).await, Ok("serving".into()));
    let stranger = connect(&fake, trusting(&Authority::new())).await.expect_err("another authority");
    assert!(matches!(stranger, ClientError::Unavailable { .. }), "{stranger}");
    let other_name = TlsOptions { server_name: Some("elsewhere".into()), ..trusting(&authority) };
    connect(&fake, other_name).await.expect_err("another name");
    let nobody = connect(&fake, TlsOptions::default()).await.expect_err("no authority");
    assert!(matches!(&nobody, ClientError::Invalid { field, .. } if field == "tls.ca_pem"), "{nobody}");
}

#[tokio::test]
async fn a_daemon_may_ask_who_the_client_is() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(&authority.pem));
    let fake = Fake::tcp_with(Arc::default(), Some(tls));

    let (certificate, key) = authority.sign("a client");
    let identity_pem = Some((certificate.into_bytes(), key.into_bytes()));
    assert_eq!(connect(&fake, TlsOptions { identity_pem, ..trusting(&authority) }).await, Ok("serving".into()));
    connect(&fake, trusting(&authority)).await.expect_err("no certificate");
}
