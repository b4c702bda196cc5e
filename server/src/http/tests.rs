use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::*;
use crate::config::machine::Here;
use crate::config::{Config, FlagValue, Sources};

struct World {
    at: std::net::SocketAddr,
    readiness: watch::Sender<Readiness>,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

fn world(handshake_timeout: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let flag =
        |path: &str, text: &str| FlagValue { flag: path.to_owned(), path: path.to_owned(), text: text.to_owned() };
    let flags = vec![
        flag("data_directory", folder.path().to_str().unwrap()),
        flag("listen.tcp", "127.0.0.1:0"),
        flag("listen.http", "127.0.0.1:0"),
        flag("listen.handshake_timeout", handshake_timeout),
        flag("nvme.enabled", "false"),
    ];
    let config = Config::load(&Sources { flags, ..Sources::default() }, false, &Here).unwrap();
    let mut sockets = Sockets::bind(&config.listen).unwrap();
    let at = sockets.addresses.http.unwrap();
    let (readiness, watched) = watch::channel(Readiness::NotReady("recovering".to_owned()));
    let pages = Pages { metrics: Arc::new(Metrics::new()), readiness: watched };
    let mut tasks = JoinSet::new();
    let limits = Limits::from(&config.listen);
    tasks.spawn(async move { serve(&mut sockets, limits, None, pages, CancellationToken::new()).await });
    World { at, readiness, _folder: folder, _tasks: tasks }
}

impl World {
    async fn say(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        read.expect("the daemon closes").unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_node_and_says_why_not() {
    let world = world("5s");
    let told = world.get("/readyz").await;
    assert!(told.starts_with("HTTP/1.1 503") && told.ends_with("recovering\n"), "{told}");
    world.readiness.send_replace(Readiness::Ready);
    assert!(world.get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(world.get("/metrics").await.contains("\nkvtier_ready 1\n"));
    world.readiness.send_replace(Readiness::NotReady("draining".to_owned()));
    assert!(world.get("/readyz").await.ends_with("draining\n"));
    assert!(world.get("/healthz").await.starts_with("HTTP/1.1 200"), "a draining process lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_openmetrics_and_the_first_page_lists_the_others() {
    let world = world("5s");
    let told = world.get("/metrics").await;
    assert!(told.contains("content-type: application/openmetrics-text; version=1.0.0"), "{told}");
    assert!(told.ends_with("# EOF\n"));
    let told = world.get("/").await;
    assert!(["/metrics", "/healthz", "/readyz"].iter().all(|page| told.contains(page)), "{told}");
    assert!(world.get("/nothing").await.starts_with("HTTP/1.1 404"));
    assert!(
        world.say("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.starts_with("HTTP/1.1 405")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_garbage_and_an_endless_head_are_closed() {
    let world = world("200ms");
    world.say("GET / HTTP/1.1\r\nHost:").await;
    assert!(!world.say("\u{1}\u{2}garbage\r\n\r\n").await.contains("200"));
    let endless = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
    assert!(world.say(&endless).await.contains("431"));
    assert!(world.get("/healthz").await.contains("200"));
}
