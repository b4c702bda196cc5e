//! `[listen]` and `[tls]`: who may reach the daemon, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

section! {
    /// Where the daemon listens. Without TLS it listens only on this machine, unless `insecure` says otherwise.
    Listen at "listen" {
        /// Address of gRPC over TCP. Port 0 takes a free port, which the log names.
        tcp: Option<SocketAddr> = Kind::AddressOrOff, Preset::Text("127.0.0.1:7070"), Bound::NONE,
            wrong "an address that others can reach is refused without TLS or insecure = true; a taken port stops the start";
        /// Path of the unix socket for gRPC, open to the daemon's own user only (mode 0600). At most 107 bytes.
        unix: Option<PathBuf> = Kind::PathOrOff,
            Preset::Computed { compute: |known| Value::Path(Some(inside(known, "kvtierd.sock"))), words: "<data_directory>/kvtierd.sock" },
            Bound::NONE,
            wrong "a socket somebody listens on, or a file that is no socket, stops the start";
        /// Address of HTTP for /metrics, /healthz and /readyz.
        http: Option<SocketAddr> = Kind::AddressOrOff, Preset::Text("127.0.0.1:7071"), Bound::NONE,
            wrong "when off, nothing can scrape metrics or ask for readiness";
        /// Allow addresses that others can reach without TLS: every byte and every tenant is then open to that network.
        insecure: bool = Kind::Flag, Preset::Text("false"), Bound::NONE,
            wrong "true on an untrusted network gives everybody's KV blocks away";
        /// Connections served at a time, TCP and unix socket together. One more is turned away with a message.
        connections_max: u64 = Kind::Count, Preset::Text("4096"), Bound::between(1, 1_000_000),
            wrong "too low turns workers away; too high lets clients use up memory and file descriptors";
        /// Connections that may be open without having spoken yet, per listener. When there are more, the one that
        /// has been silent longest is closed, so silent clients cannot keep others out.
        waiting_max: u64 = Kind::Count, Preset::Text("1024"), Bound::between(16, 100_000),
            wrong "too low closes slow clients during a rush; each one costs a file descriptor and about 1 KiB";
        /// How long a new connection may take to finish its TLS handshake and say its first words.
        handshake_timeout: Duration = Kind::Time, Preset::Text("10s"), Bound::between(ms(100), seconds(300)),
            wrong "too short turns clients on slow links away; too long keeps silent ones around";
        /// How often an idle connection is asked whether it still lives.
        keepalive_interval: Duration = Kind::Time, Preset::Text("20s"), Bound::between(seconds(1), seconds(3600)),
            wrong "too long keeps the leases of a machine that has vanished; too short is noise on the network";
        /// How long it may take to answer before it is closed and its leases are released.
        keepalive_timeout: Duration = Kind::Time, Preset::Text("10s"), Bound::between(ms(100), seconds(600)),
            wrong "too short cuts workers off that pause for a moment";
    }
}

section! {
    /// TLS for TCP and HTTP listeners. Read once at start. All off: no TLS.
    Tls at "tls" {
        /// PEM file with the server's certificate chain, leaf first.
        certificate: Option<PathBuf> = Kind::PathOrOff, Preset::Text("off"), Bound::NONE,
            wrong "a file that cannot be read or holds no certificate stops the start";
        /// PEM file with the certificate's private key (PKCS#8, PKCS#1 or SEC1).
        key: Option<PathBuf> = Kind::PathOrOff, Preset::Text("off"), Bound::NONE,
            wrong "a key of another certificate stops the start";
        /// PEM file with the certificate authorities that sign clients' certificates. When set, gRPC clients over TCP
        /// must show one (mTLS); HTTP clients and the unix socket need none.
        client_ca: Option<PathBuf> = Kind::PathOrOff, Preset::Text("off"), Bound::NONE,
            wrong "when off, anybody who reaches the port is served";
    }
}
