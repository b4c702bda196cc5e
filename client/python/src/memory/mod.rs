//! Addresses for Python: the buffer protocol, DLPack, and copies between many buffers and a chain in one call. The only
//! unsafe code of the crate.
//!
//! Safety rests on [`Lent`]: an address, a length, and what keeps both true. Whoever holds a view holds a `Lent`,
//! directly (DLPack) or through the Python object that made it (buffers). A block's `Lent` keeps the acquired chain, and
//! with it the mapping, alive; a slot's keeps its reservation, which can be neither committed nor given up meanwhile.
//! Readers may see bytes change once their lease has ended (`still_valid` tells), as with any file that is mapped; no
//! length, pointer or enum is ever read from them. Lengths and offsets that callers give are checked before the first
//! byte moves, and copies run without the GIL between addresses that both sides' owners keep alive.
#![allow(unsafe_code)]

mod block;
mod copy;
mod dlpack;
mod lent;
mod plan;
mod rows;
mod slot;

pub(crate) use block::Block;
pub(crate) use copy::{Segments, Way, borrow_all, gather, move_segments, scatter};
pub(crate) use lent::Lent;
pub(crate) use plan::Plan;
pub(crate) use rows::Rows;
pub(crate) use slot::Slot;
