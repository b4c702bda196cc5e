//! Many silent clients, and clients that speak something else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kvtier_tests::{World, wire};

use crate::works;

/// More than the daemon's and the test's usual limit of open files would allow in one process: they are raised first.
const CROWD: usize = 10_000;

#[tokio::test]
async fn ten_thousand_silent_connections_keep_nobody_from_working() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
        .expect("a limit may be raised to its maximum");
    let mut world = World::new().await;
    let address = world.daemon.endpoints().tcp.expect("it listens on TCP");
    let mut crowd = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        // Those that have been silent longest are closed in favour of new ones: what counts is that nobody hangs.
        match TcpStream::connect_timeout(&address, Duration::from_secs(10)) {
            Ok(stream) => crowd.push(stream),
            Err(error) => panic!("connection {number} was not even accepted: {error}"),
        }
        if number % 2500 == 0 {
            works(&mut world, &format!("among {number}")).await;
        }
    }
    works(&mut world, "among all of them").await;
    let mut late = wire::Wire::tcp(world.daemon.endpoints()).await;
    late.status_until("a late client's status", |status| status.state == "serving").await;
    drop(crowd);
    works(&mut world, "after them").await;
}

#[tokio::test]
async fn garbage_on_the_port_closes_that_connection_and_no_other() {
    let mut world = World::new().await;
    let address = world.daemon.endpoints().tcp.expect("it listens on TCP");
    let noise = kvtier_tests::block::payload(b"noise", 1 << 16);
    let samples: [&[u8]; 5] = [
        &noise,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0",
    ];
    for sample in samples {
        let mut stream = TcpStream::connect(address).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
        // The daemon may close before all of it is sent.
        let _ = stream.write_all(sample);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        works(&mut world, &format!("after {} bytes of garbage", sample.len())).await;
    }
}
