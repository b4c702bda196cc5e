//! What a check works with.

use std::sync::Arc;

use kvtier_engine::header::SlotHeader;
use kvtier_engine::place::{PAGE_BYTES, Slot, slot_bytes};
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{Load, LoadOutcome, Memory, Store, StoreOutcome, Tier, Verify};
use kvtier_identity::{BlockId, Key, SpaceDigest};

/// A tier and its surroundings.
pub struct World {
    /// The tier.
    pub tier: Arc<dyn Tier>,
    /// The host memory that its slots lie in.
    pub memory: Arc<dyn Memory>,
    /// Flips one bit of what the devices hold: of the byte `at` bytes behind the slot's beginning.
    pub damage: Box<dyn Fn(Slot, u32) + Send + Sync>,
}

/// Payload bytes of a block, different for each seed.
pub(crate) fn payload(seed: u64, length: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

/// A header for a payload.
pub(crate) fn header(seed: u64, generation: u64, payload: &[u8]) -> SlotHeader {
    SlotHeader {
        block: BlockId(u128::from(seed) << 64 | 7),
        space: SpaceDigest([seed as u8; 32]),
        key: Key::new(&seed.to_le_bytes()).expect("eight bytes are a key"),
        parent: seed.checked_sub(1).map(|before| BlockId(u128::from(before) << 64 | 7)),
        length: u32::try_from(payload.len()).expect("test payloads are small"),
        crc: crc32fast::hash(payload),
        generation,
    }
}

/// What the index would say of a block with this header.
pub(crate) fn expect(header: &SlotHeader) -> Expect {
    Expect { block: header.block, length: header.length, crc: header.crc, generation: header.generation }
}

impl World {
    /// The `number`th slot for a payload of `length` bytes in the `extent`th extent of a device.
    pub(crate) fn device_slot(&self, device: u16, extent: u64, number: u64, length: u32) -> Slot {
        let geometry = self.tier.geometry()[usize::from(device)];
        let bytes = slot_bytes(length);
        assert!((number + 1) * u64::from(bytes) <= geometry.extent_bytes, "the check fits an extent");
        assert!((extent + 1) * geometry.extent_bytes <= geometry.bytes, "the check fits the device");
        let offset = geometry.first_extent_offset + extent * geometry.extent_bytes + number * u64::from(bytes);
        Slot { device, offset, bytes }
    }

    /// The `number`th host slot for a payload of `length` bytes; numbers of one length lie side by side.
    pub(crate) fn host_slot(&self, number: u64, length: u32) -> Slot {
        let geometry = self.memory.geometry()[0];
        let bytes = slot_bytes(length);
        let at = number * u64::from(bytes);
        assert!(at + u64::from(bytes) <= geometry.bytes, "the check fits the host memory");
        Slot { device: 0, offset: geometry.first_extent_offset + at, bytes }
    }

    /// Puts a payload into a host slot and plans its store.
    pub(crate) fn plan(&self, seed: u64, generation: u64, length: u32, from: Slot, to: Slot) -> Store {
        let bytes = payload(seed, length);
        self.memory.write(from, 0, &bytes);
        Store { from, to, header: header(seed, generation, &bytes) }
    }

    pub(crate) async fn store(&self, store: Store) -> StoreOutcome {
        self.tier.store(vec![store]).await.pop().expect("one outcome per store")
    }

    pub(crate) async fn load(&self, from: Slot, into: Slot, expect: Expect) -> LoadOutcome {
        self.tier.load(vec![Load { from, into, expect }]).await.pop().expect("one outcome per load")
    }

    pub(crate) async fn verify(&self, at: Slot, expect: Expect) -> LoadOutcome {
        self.tier.verify(vec![Verify { at, expect }]).await.pop().expect("one outcome per verification")
    }

    /// Stores a block and asserts that it was written.
    pub(crate) async fn put(&self, seed: u64, length: u32, to: Slot) -> SlotHeader {
        let store = self.plan(seed, 1, length, self.host_slot(0, length), to);
        let header = store.header.clone();
        assert_eq!(self.store(store).await, StoreOutcome::Written, "block {seed} of {length} bytes");
        header
    }

    /// Payload bytes of a host slot.
    pub(crate) fn seen(&self, slot: Slot, length: u32) -> Vec<u8> {
        self.memory.view(slot, 0, length, Box::new(())).to_vec()
    }

    /// Fills a host slot with bytes that are no block's.
    pub(crate) fn soil(&self, slot: Slot) {
        self.memory.write_header(slot, &[0xa5; PAGE_BYTES as usize]);
        self.memory.write(slot, 0, &vec![0xa5; slot.payload_bytes_max() as usize]);
    }
}
