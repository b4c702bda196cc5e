use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::config::machine::Here;
use crate::config::{Config, FlagValue, Sources, Tls};
use crate::observe::metrics::Entry;

const PATIENCE: Duration = Duration::from_secs(20);

/// A listening server with the health service, in a folder of its own.
struct World {
    addresses: Addresses,
    metrics: Arc<Metrics>,
    peers: Arc<Mutex<Vec<Peer>>>,
    closed: mpsc::UnboundedReceiver<ConnectionId>,
    folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

fn settings(folder: &Path, more: &[(&str, &str)]) -> Config {
    let directory = folder.to_str().unwrap();
    let small = [
        ("data_directory", directory),
        ("listen.tcp", "127.0.0.1:0"),
        ("listen.http", "127.0.0.1:0"),
        ("nvme.enabled", "false"),
        ("host.bytes", "64MiB"),
    ];
    let flags = small.iter().chain(more).map(|(path, text)| FlagValue {
        flag: format!("--set {path}={text}"),
        path: (*path).to_owned(),
        text: (*text).to_owned(),
    });
    Config::load(&Sources { flags: flags.collect(), ..Sources::default() }, false, &Here).unwrap()
}

fn world(more: &[(&str, &str)]) -> World {
    world_in(tempfile::tempdir().unwrap(), more)
}

fn world_in(folder: tempfile::TempDir, more: &[(&str, &str)]) -> World {
    let config = settings(folder.path(), more);
    let mut sockets = Sockets::bind(&config.listen).unwrap();
    let metrics = Arc::new(Metrics::new());
    let (tell, closed) = mpsc::unbounded_channel();
    let told: Closed = Arc::new(move |id| {
        // A test may have stopped listening.
        let _ = tell.send(id);
    });
    let seats = Seats::new(config.listen.connections_max as usize, metrics.clone(), told);
    let tls = tls::load(&config.tls).unwrap();
    let limits = Limits::from(&config.listen);
    let incoming = sockets.connections(&limits, tls, seats, metrics.clone(), CancellationToken::new());
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let (_, health) = tonic_health::server::health_reporter();
    let watched = tonic::service::interceptor::InterceptedService::new(health, move |request: tonic::Request<()>| {
        let peer = request.extensions().get::<Peer>().expect("every request knows its peer").clone();
        seen.lock().unwrap().push(peer);
        Ok(request)
    });
    let mut tasks = JoinSet::new();
    let server = tuned_server(&config.listen).add_service(watched);
    tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    World { addresses: sockets.addresses.clone(), metrics, peers, closed, folder, _tasks: tasks }
}

impl World {
    fn tcp(&self) -> SocketAddr {
        self.addresses.tcp.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tcp()).await.unwrap()
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.tcp())).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// How often a connection has had this outcome.
    fn entries(&self, outcome: &str) -> u64 {
        let text = self.metrics.encode();
        let line = format!("kvtier_connections_accepted_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

impl World {
    /// Resolves when so many connections have had this outcome: they are counted just after they are closed.
    async fn until_entries(&self, outcome: &str, count: u64) {
        let counted = async {
            while self.entries(outcome) < count {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, counted).await;
        assert_eq!(self.entries(outcome), count, "{outcome}");
    }
}

async fn check(channel: Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(|_| ())
}

/// Resolves when the other side has closed, with what it said before.
async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is a close too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the daemon closes");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_served_over_tcp_and_unix_and_every_request_knows_its_peer() {
    let world = world(&[]);
    check(world.channel().await).await.unwrap();
    let path = world.addresses.unix.clone().unwrap();
    let endpoint = Channel::from_static("http://localhost");
    let unix = endpoint.connect_with_connector(tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    }));
    check(unix.await.unwrap()).await.unwrap();

    let peers = world.peers.lock().unwrap().clone();
    assert!(matches!(peers[0].endpoint, Endpoint::Tcp(from) if from.ip().is_loopback()));
    let me = i32::try_from(std::process::id()).ok();
    assert!(matches!(peers[1].endpoint, Endpoint::Unix { process, .. } if process == me), "{peers:?}");
    assert_ne!(peers[0].id, peers[1].id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_client_is_told_of_once() {
    let mut world = world(&[]);
    let channel = world.channel().await;
    check(channel.clone()).await.unwrap();
    let id = world.peers.lock().unwrap()[0].id;
    assert!(world.closed.try_recv().is_err());
    drop(channel);
    assert_eq!(tokio::time::timeout(PATIENCE, world.closed.recv()).await.unwrap(), Some(id));
    assert!(world.closed.try_recv().is_err());
    assert!(world.metrics.encode().contains("kvtier_connections 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_is_closed_at_once_and_counted() {
    let world = world(&[]);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut stream = world.connect().await;
        stream.write_all(garbage).await.unwrap();
        assert_eq!(until_closed(&mut stream).await, b"");
    }
    world.until_entries("garbage", 3).await;
    check(world.channel().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_or_half_a_preface_is_closed_after_the_timeout() {
    let world = world(&[("listen.handshake_timeout", "200ms")]);
    let mut silent = world.connect().await;
    let mut half = world.connect().await;
    half.write_all(b"PRI * HTTP/2.0").await.unwrap();
    until_closed(&mut silent).await;
    until_closed(&mut half).await;
    world.until_entries("silent", 2).await;
    let gone = world.connect().await;
    drop(gone);
    check(world.channel().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_clients_keep_nobody_out() {
    let files = crate::process::raise_file_limit();
    assert!(files >= 14_000, "this test needs a limit on open files of 14,000, not {files} (ulimit -Hn)");
    let world = world(&[("listen.handshake_timeout", "60s"), ("listen.waiting_max", "1024")]);
    let mut silent = Vec::new();
    for _ in 0..10_000 {
        silent.push(world.connect().await);
    }
    tokio::time::timeout(PATIENCE, check(world.channel().await)).await.expect("served in time").unwrap();
    assert!(world.entries("sent_away") >= 10_000 - 1024, "{}", world.entries("sent_away"));
    assert_eq!(world.entries("served"), 1);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_limit_is_told_why_and_a_freed_seat_is_given_again() {
    let mut world = world(&[("listen.connections_max", "1")]);
    let first = world.channel().await;
    check(first.clone()).await.unwrap();

    let mut second = world.connect().await;
    second.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let said = until_closed(&mut second).await;
    assert!(String::from_utf8_lossy(&said).contains("listen.connections_max"), "{said:?}");
    assert_eq!(&said[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0], "SETTINGS come first");
    let lazy = Channel::from_shared(format!("http://{}", world.tcp())).unwrap().connect_lazy();
    check(lazy).await.unwrap_err();
    assert!(world.entries("turned_away") >= 2, "a client may try again by itself");

    drop(first);
    tokio::time::timeout(PATIENCE, world.closed.recv()).await.unwrap().unwrap();
    check(world.channel().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_the_setting() {
    let world = world(&[]);
    let folder = tempfile::tempdir().unwrap();
    let taken = world.tcp().to_string();
    let config = settings(folder.path(), &[("listen.tcp", &taken)]);
    let told = Sockets::bind(&config.listen).unwrap_err().to_string();
    assert!(told.contains("listen.tcp") && told.contains(&taken), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_private_replaced_when_stale_and_never_stolen() {
    let world = world(&[]);
    let path = world.addresses.unix.clone().unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let config = settings(world.folder.path(), &[]);
    let told = Sockets::bind(&config.listen).unwrap_err().to_string();
    assert!(told.contains("another process listens there"), "{told}");

    let folder = tempfile::tempdir().unwrap();
    let config = settings(folder.path(), &[]);
    let path = folder.path().join("kvtierd.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // what a crash leaves
    let sockets = Sockets::bind(&config.listen).unwrap();
    UnixStream::connect(&path).await.unwrap();
    drop(sockets);
    assert!(!path.exists(), "a clean end leaves no socket");

    std::fs::write(&path, "not a socket").unwrap();
    let told = Sockets::bind(&config.listen).unwrap_err().to_string();
    assert!(told.contains("is not a socket") && path.exists(), "{told}");
}

#[tokio::test]
async fn the_addresses_are_published_with_real_ports_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = Sockets::bind(&settings(folder.path(), &[]).listen).unwrap();
    let published = published::publish(folder.path(), &sockets.addresses).unwrap();
    let file = folder.path().join(published::NAME);
    let table: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let tcp: SocketAddr = table["tcp"].as_str().unwrap().parse().unwrap();
    assert!(Some(tcp) == sockets.addresses.tcp && tcp.port() != 0);
    assert_eq!(table["pid"].as_integer(), Some(i64::from(std::process::id())));
    drop(published);
    assert!(!file.exists());
}

/// An authority, and PEM files of a server's and a client's certificate.
struct Authority {
    certificate: String,
    client: Identity,
    folder: tempfile::TempDir,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let signed = |name: &str, purpose: ExtendedKeyUsagePurpose| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages.push(purpose);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = signed("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(folder.path().join("server.pem"), certificate).unwrap();
    std::fs::write(folder.path().join("server.key"), key).unwrap();
    std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
    let (certificate, key) = signed("worker-7.example", ExtendedKeyUsagePurpose::ClientAuth);
    Authority { certificate: issuer.pem(), client: Identity::from_pem(certificate, key), folder }
}

impl Authority {
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn world(&self, mutual: bool) -> World {
        let (certificate, key, ca) = (self.path("server.pem"), self.path("server.key"), self.path("ca.pem"));
        let ca = if mutual { ca.as_str() } else { "off" };
        world(&[("tls.certificate", &certificate), ("tls.key", &key), ("tls.client_ca", ca)])
    }

    async fn connect(&self, world: &World, identity: Option<Identity>) -> Result<(), String> {
        let ca = Certificate::from_pem(&self.certificate);
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        let endpoint = Channel::from_shared(format!("https://{}", world.tcp())).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
        check(channel).await.map_err(|error| error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_a_plain_client_is_refused_and_a_tls_client_is_served() {
    let authority = authority();
    let world = authority.world(false);
    authority.connect(&world, None).await.unwrap();
    let mut plain = world.connect().await;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    until_closed(&mut plain).await;
    world.until_entries("tls_failed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_client_ca_only_clients_with_a_certificate_are_served_and_their_names_are_known() {
    let authority = authority();
    let world = authority.world(true);
    authority.connect(&world, None).await.unwrap_err();
    authority.connect(&world, Some(self::authority().client)).await.unwrap_err();
    assert!(world.peers.lock().unwrap().is_empty());
    authority.connect(&world, Some(authority.client.clone())).await.unwrap();
    let peers = world.peers.lock().unwrap();
    assert_eq!(peers[0].identity.as_ref().unwrap().names, ["worker-7.example"]);
}

#[test]
fn bad_certificate_files_are_told_with_setting_and_file() {
    let one = authority();
    let other = authority();
    std::fs::write(one.folder.path().join("empty.pem"), "").unwrap();
    std::fs::write(one.folder.path().join("torn.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    let (good, key) = (one.path("server.pem"), one.path("server.key"));
    for (certificate, key, ca, needle) in [
        ("/nowhere.pem", key.as_str(), None, "tls.certificate = \"/nowhere.pem\" cannot be read"),
        (&one.path("empty.pem"), &key, None, "holds no certificate in PEM form"),
        (&one.path("torn.pem"), &key, None, "is not valid PEM"),
        (&good, &good, None, "holds no private key"),
        (&good, &other.path("server.key"), None, "the key it was made for"),
        (&good, &key, Some(one.path("empty.pem")), "tls.client_ca"),
    ] {
        let path = |text: &str| Some(PathBuf::from(text));
        let tls = Tls { certificate: path(certificate), key: path(key), client_ca: ca.map(PathBuf::from) };
        let told = tls::load(&tls).unwrap_err().to_string();
        assert!(told.contains(needle), "{told}");
    }
    assert!(tls::load(&Tls { certificate: None, key: None, client_ca: None }).unwrap().is_none());
}

#[tokio::test]
async fn stopping_closes_the_listeners_and_those_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    let config = settings(folder.path(), &[]);
    let mut sockets = Sockets::bind(&config.listen).unwrap();
    let metrics = Arc::new(Metrics::new());
    let seats = Seats::new(4, metrics.clone(), Arc::new(|_| {}));
    let stop = CancellationToken::new();
    let mut incoming = sockets.connections(&Limits::from(&config.listen), None, seats, metrics, stop.clone());
    let mut waiting = TcpStream::connect(sockets.addresses.tcp.unwrap()).await.unwrap();
    stop.cancel();
    assert!(tokio_stream::StreamExt::next(&mut incoming).await.is_none());
    until_closed(&mut waiting).await;
}

#[test]
fn every_outcome_of_a_connection_is_a_series_from_the_start() {
    let metrics = Metrics::new();
    metrics.entry(Entry::Gone);
    let text = metrics.encode();
    for outcome in ["served", "silent", "sent_away", "turned_away", "garbage", "tls_failed", "gone"] {
        assert!(text.contains(&format!("outcome=\"{outcome}\"")), "{outcome}");
    }
}
