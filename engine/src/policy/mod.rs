//! Which block goes first when room is needed, and which block is worth a write.
