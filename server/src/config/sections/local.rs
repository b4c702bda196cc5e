//! `[local]`: workers on this machine that share the host tier's memory.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

section! {
    /// The local path: workers on this machine map the host tier's memory and read and write blocks in place. A worker maps
    /// the arena of its tenant's domain. Without a `[domain.NAME]` there is one arena, and a worker that has attached can see
    /// the bytes of every tenant on the node: see `tenants`.
    Local at "local" {
        /// Path of the socket workers attach on. Open to the daemon's own user only (mode 0600), unless `users` or `groups`
        /// names others. At most 107 bytes.
        socket: Option<PathBuf> = Kind::PathOrOff,
            Preset::Computed { compute: |known| Value::Path(Some(inside(known, "local.sock"))), words: "<data_directory>/local.sock" },
            Bound::NONE,
            wrong "a socket somebody listens on, or a file that is no socket, stops the start; off: every block is copied over gRPC";
        /// Tenants without a `[domain.NAME]` that may attach, and that trust each other with their bytes. While others of them
        /// have spaces on the node none of them can attach, and once one has attached others cannot open spaces until a
        /// restart. Empty: whoever is the only tenant without a domain.
        tenants: Vec<String> = Kind::Names, Preset::Text(""), Bound::NONE,
            wrong "a tenant that others do not trust: its workers can read, and as writers damage, what is theirs";
        /// User ids that may attach besides the daemon's own. A domain may have a list of its own.
        users: Vec<String> = Kind::Names, Preset::Text(""), Bound::NONE,
            wrong "a user that is not trusted sees every block in host memory";
        /// Group ids whose processes may attach. A domain may have a list of its own.
        groups: Vec<String> = Kind::Names, Preset::Text(""), Bound::NONE,
            wrong "a group that is not trusted sees every block in host memory";
        /// Connections at a time. One more is turned away with a message.
        clients_max: u64 = Kind::Count, Preset::Text("4096"), Bound::between(1, 100_000),
            wrong "too low turns workers away; each one costs two file descriptors and some KiB";
        /// Bytes of host memory one process may have reserved and not committed, slots included that it gave up and may still
        /// write. All puts together are bounded by `limits.put_bytes_in_flight_max`.
        client_bytes_max: u64 = Kind::Size,
            Preset::Computed { compute: |known| Value::Size((size(known, "host.bytes") / 4).max(MIB)), words: "a quarter of host.bytes" },
            Bound::between(MIB, 64 * TIB),
            wrong "too low declines long chains; too high lets one hung worker keep that much memory from the others";
        /// The same in slots.
        client_blocks_max: u64 = Kind::Count, Preset::Text("2048"), Bound::between(1, 1_000_000),
            wrong "too low declines long chains; close to limits.pending_puts_max lets one hung worker stop all puts";
        /// How long the daemon looks for the next request before it sleeps. Saves a wake-up (5 to 50 us) per request while
        /// workers are busy; an idle daemon sleeps all the same.
        spin: Duration = Kind::Time, Preset::Text("100us"), Bound::between(0, ms(1)),
            wrong "0: requests wait for a wake-up; too long: one core is kept busy by workers that are not";
    }
}
