//! The event log: at once the commit log of durable blocks and the stream that subscribers read.
//!
//! Implements the engine's `Journal` port over the `Folder` port. It is *not* the index, does not know what a record
//! means, does not lock its folder against a second process, and never decides that a block is durable: it says when a
//! record is.
//!
//! Reading order: [`settings`], [`codec`], [`frame`], [`segment`] (the format, bottom up); `survey` (torn or damaged?);
//! `state` (what is known, no I/O); [`writer`] and `rollover` (what is done); [`journal`] (the handle); [`fsck`] and [`replay()`](replay::replay) (a log nobody has open).
//!
//! # The pieces
//!
//! ```text
//!   any thread                          |   the writer's thread, or the simulator's executor
//!                                       |
//!   append -> numbers, queue  ----------+--> Writer: one group at a time: encode, write, sync
//!   durable, grown <- waiters <---------+---   report: durable_seq, recent window, waiters
//!   read -> recent window, or request --+--> Reader: frames of old segments, checksums verified
//!                                       |
//!            State, behind one mutex    |    Folder, LogFile
//! ```
//!
//! Who owns memory: a queued record belongs to the queue, then to the group in flight, then to the recent window, whose
//! oldest runs are dropped when it is over its bound. The queue has a soft bound (`ready` says `Busy`) and a hard one,
//! twice that; past it the journal drops the queue and begins a new epoch, because it can neither block nor take back.
//!
//! # Epochs and numbers
//!
//! An epoch is an incarnation of the log without holes. A new one begins at every opening and after every gap (disk full,
//! log full, queue overflow), always in a new segment, always with a `Reset` record (INV-6). At an opening the numbers
//! skip ahead by 2^20 beyond the highest one seen in any name, header or frame: fewer numbers than that can have been
//! given out and lost, so none is ever used twice.
//!
//! # Format
//!
//! A folder of segments `NNNNNNNNNNNNNNNNNNNN.wal`, named by the sequence number of their first record in 20 decimal
//! digits. All integers little endian. CRC32 is the IEEE polynomial (crc32fast).
//!
//! ```text
//! segment  = header (80 bytes), frames
//!
//!      0        4     6     8                16               24                               40
//!      +--------+-----+-----+----------------+----------------+--------------------------------+
//!      | "KVWL" | ver |  0  | first seq      | epoch          | log id (16 bytes)              |
//!      +--------+-----+-----+----------------+----------------+--------------------------------+
//!      40               48               56               64                       76       80
//!      +----------------+----------------+----------------+------------------------+--------+
//!      | previous first | previous last  | created unix ms| 0 (12 bytes)           | crc    |
//!      +----------------+----------------+----------------+------------------------+--------+
//!
//!      ver             1
//!      epoch           of every record in the segment
//!      log id          random, the same in every segment of a log
//!      previous first  first seq of the segment before, 0 if there was none
//!      previous last   last durable seq before this segment, 0 if there was none
//!      crc             CRC32 of bytes 0..76
//!
//! frame    = header (28 bytes), payload
//!
//!      0        4        8                16               24       28
//!      +--------+--------+----------------+----------------+--------+----------------------+
//!      | length | crc    | seq            | group seq      | count  | payload              |
//!      +--------+--------+----------------+----------------+--------+----------------------+
//!
//!      length          bytes of the payload, 1 to 1,081,344
//!      crc             CRC32, started from the segment header's crc, of bytes 0..4 and 8..28+length
//!      seq             of the first record; the next frame has seq + count
//!      group seq       seq of the first record of the group; everything before it was synced when this was written
//!      count           records in the payload; 0 in the mark that a clean shutdown leaves
//!
//! payload  = version byte 1, then `count` records in bincode 2 (standard configuration: little endian, varint)
//!
//!      record          variant (varint), fields in order
//!        0 Reset         epoch, reason
//!        1 SpaceOpened   number, name, digest (32 bytes), description
//!        2 SpaceDropped  space, digest (32 bytes)
//!        3 StoredHost    block (u128), space, key (length, bytes), parent (0 or 1, u128), length
//!        4 StoredNvme    block, space, key, parent, length, crc, generation, slot (device, offset, bytes)
//!        5 Removed       block, space, tier (0 hbm 1 host 2 nvme 3 archive), cause
//!                        (0 evicted 1 corrupt 2 deleted 3 space dropped 4 tier down)
//!        6 Quarantined   slot
//!      varint          0..=250 one byte; 251 + u16, 252 + u32, 253 + u64, 254 + u128; a string is its length, then UTF-8
//! ```
//!
//! # Torn or damaged
//!
//! Unsound bytes (cut short, out of bounds, bad checksum, wrong number) at the end of the last segment are what a crash
//! leaves: they are cut off and counted. They are damage, and the log does not open, when something proves that
//! the records there had been durable: a sound frame behind them whose `group seq` is larger than theirs, a later segment,
//! or the index covering them. A sound frame behind them of the *same* group proves nothing: the disk may write
//! the pages of one unsynced group in any order. A file of at most 80 bytes without a sound header was
//! never begun: if it had been, the next segment would name it.
//!
//! # Example
//!
//! ```
//! use kvtier_engine::port::{Journal, Record};
//! use kvtier_wal::memory::MemoryJournal;
//!
//! let journal = MemoryJournal::new();
//! let position = journal.append(vec![Record::SpaceDropped { space: 1, digest: kvtier_identity::SpaceDigest([0; 32]) }]);
//! assert_eq!(position.map(|position| position.seq), Ok(2), "the reset record is the first");
//! ```
#![forbid(unsafe_code)]

pub mod codec;
pub mod conformance;
pub mod error;
pub mod folder;
pub mod frame;
pub mod fsck;
pub mod journal;
pub mod memory;
pub mod open;
pub mod replay;
pub mod segment;
pub mod settings;
pub mod thread;
pub mod writer;

mod failure;
mod lost;
mod pace;
mod reader;
mod recent;
mod rollover;
mod scan;
mod shared;
mod signal;
mod state;
mod survey;
mod table;
mod waiters;
mod window;

pub use error::{Damage, WalError};
pub use folder::{BlockingFolder, UringFolder};
pub use journal::Wal;
pub use memory::MemoryJournal;
pub use open::Recovered;
pub use replay::replay;
pub use settings::Settings;
pub use thread::{Mode, WalThread, spawn_writer_thread};
pub use writer::Writer;
