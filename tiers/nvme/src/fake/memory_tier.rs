//! A tier without devices, for tests of the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::ready;
use kvtier_engine::header::HEADER_BYTES;
use kvtier_engine::place::Slot;
use kvtier_engine::port::tier::Expect;
use kvtier_engine::port::{
    BoxFuture, DeviceGeometry, DeviceHealth, DeviceState, Load, LoadOutcome, Memory, Store, StoreOutcome, Tier,
    TierError, Verify,
};

use crate::check::{check_header, reason};
use crate::layout::check_slot;

struct Stored {
    bytes: u32,
    header: [u8; HEADER_BYTES],
    payload: Bytes,
    durable: bool,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<(u16, u64), Stored>,
    poisoned: BTreeMap<u16, String>,
    sync_fails: bool,
    loads_fail: Option<String>,
    stores_fail: Option<String>,
    read_bytes: u64,
    written_bytes: u64,
}

/// Keeps blocks in maps. Every operation happens when called; its future is ready at once. Same calls, same answers.
pub struct MemoryTier {
    memory: Arc<dyn Memory>,
    geometry: Vec<DeviceGeometry>,
    state: Mutex<State>,
}

impl MemoryTier {
    /// One device per geometry.
    pub fn new(memory: Arc<dyn Memory>, geometry: Vec<DeviceGeometry>) -> Self {
        Self { memory, geometry, state: Mutex::default() }
    }

    /// What a power cut leaves: everything that was not synced is gone. Faults and poison are gone too.
    pub fn crash(&self) {
        let mut state = self.state();
        let mut slots = std::mem::take(&mut state.slots);
        slots.retain(|_, stored| stored.durable);
        *state = State { slots, ..State::default() };
    }

    /// Flips one bit of the payload (or of the header page, for `at` below a page) of the block in this slot.
    pub fn damage(&self, slot: Slot, at: u32) {
        let mut state = self.state();
        let Some(stored) = state.slots.get_mut(&(slot.device, slot.offset)) else { return };
        if let Some(byte) = stored.header.get_mut(at as usize) {
            *byte ^= 1;
        } else if let Some(at) = (at as usize).checked_sub(kvtier_engine::place::PAGE_BYTES as usize) {
            let mut payload = stored.payload.to_vec();
            payload[at] ^= 1;
            stored.payload = payload.into();
        }
    }

    /// Loads and verifications fail with this cause until it is taken away.
    pub fn fail_loads(&self, cause: Option<&str>) {
        self.state().loads_fail = cause.map(str::to_owned);
    }

    /// Stores fail with this cause until it is taken away.
    pub fn fail_stores(&self, cause: Option<&str>) {
        self.state().stores_fail = cause.map(str::to_owned);
    }

    /// The next sync fails and poisons its devices.
    pub fn fail_next_sync(&self) {
        self.state().sync_fails = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_one(&self, state: &mut State, store: &Store) -> StoreOutcome {
        let failed = |cause: String| StoreOutcome::Failed(TierError::Io(cause));
        let (to, length) = (store.to, store.header.length);
        let Some(geometry) = self.geometry.get(usize::from(to.device)) else {
            return failed(reason::NO_DEVICE.into());
        };
        if let Some(cause) = state.poisoned.get(&to.device) {
            return StoreOutcome::Failed(TierError::Poisoned { device: to.device, cause: cause.clone() });
        }
        if let Some(cause) = &state.stores_fail {
            return failed(cause.clone());
        }
        if let Err(why) = check_slot(geometry, to, length) {
            return failed(why.into());
        }
        if self.memory.checksum(store.from, 0, length) != store.header.crc {
            return StoreOutcome::Corrupt(reason::HOST_PAYLOAD);
        }
        state.overwrite(to);
        let header = store.header.encode(crc32fast::hash);
        self.memory.write_header(store.from, &header);
        let payload = Bytes::copy_from_slice(&self.memory.view(store.from, 0, length, Box::new(())));
        state.written_bytes += u64::from(to.transfer_bytes(length));
        state.slots.insert((to.device, to.offset), Stored { bytes: to.bytes, header, payload, durable: false });
        StoreOutcome::Written
    }

    fn read_one(&self, state: &mut State, at: Slot, expect: &Expect, into: Option<Slot>) -> LoadOutcome {
        let Some(geometry) = self.geometry.get(usize::from(at.device)) else {
            return LoadOutcome::Corrupt(reason::NO_DEVICE);
        };
        if let Some(cause) = &state.loads_fail {
            return LoadOutcome::Failed(TierError::Io(cause.clone()));
        }
        if let Err(why) = check_slot(geometry, at, expect.length) {
            return LoadOutcome::Corrupt(why);
        }
        state.read_bytes += u64::from(at.transfer_bytes(expect.length));
        let Some(stored) = state.slots.get(&(at.device, at.offset)) else {
            return LoadOutcome::Corrupt(reason::NO_HEADER);
        };
        if let Err(why) = check_header(&stored.header, expect) {
            return LoadOutcome::Corrupt(why);
        }
        if let Some(into) = into {
            self.memory.write_header(into, &stored.header);
            self.memory.write(into, 0, &stored.payload);
        }
        if crc32fast::hash(&stored.payload) == expect.crc {
            LoadOutcome::Verified
        } else {
            LoadOutcome::Corrupt(reason::PAYLOAD)
        }
    }
}

impl State {
    /// A device has no slots: a write destroys whatever it overlaps.
    fn overwrite(&mut self, to: Slot) {
        let end = to.offset + u64::from(to.bytes);
        self.slots.retain(|&(device, offset), stored| {
            device != to.device || offset >= end || offset + u64::from(stored.bytes) <= to.offset
        });
    }
}

impl Tier for MemoryTier {
    fn geometry(&self) -> Vec<DeviceGeometry> {
        self.geometry.clone()
    }

    fn store(&self, batch: Vec<Store>) -> BoxFuture<Vec<StoreOutcome>> {
        let mut state = self.state();
        let outcomes: Vec<_> = batch.iter().map(|store| self.store_one(&mut state, store)).collect();
        Box::pin(ready(outcomes))
    }

    fn load(&self, batch: Vec<Load>) -> BoxFuture<Vec<LoadOutcome>> {
        let mut state = self.state();
        let read = |load: &Load| self.read_one(&mut state, load.from, &load.expect, Some(load.into));
        let outcomes: Vec<_> = batch.iter().map(read).collect();
        Box::pin(ready(outcomes))
    }

    fn sync(&self, devices: Vec<u16>) -> BoxFuture<Result<(), TierError>> {
        let mut state = self.state();
        let fails = std::mem::take(&mut state.sync_fails);
        let mut answer = Ok(());
        for device in devices {
            if usize::from(device) >= self.geometry.len() {
                answer = answer.and(Err(TierError::Io(format!("device {device} does not exist"))));
                continue;
            }
            if fails {
                state.poisoned.insert(device, "a sync failed".into());
            }
            if let Some(cause) = state.poisoned.get(&device) {
                answer = answer.and(Err(TierError::Poisoned { device, cause: cause.clone() }));
                continue;
            }
            state.slots.iter_mut().filter(|(key, _)| key.0 == device).for_each(|(_, stored)| stored.durable = true);
        }
        Box::pin(ready(answer))
    }

    fn verify(&self, batch: Vec<Verify>) -> BoxFuture<Vec<LoadOutcome>> {
        let mut state = self.state();
        let read = |verify: &Verify| self.read_one(&mut state, verify.at, &verify.expect, None);
        let outcomes: Vec<_> = batch.iter().map(read).collect();
        Box::pin(ready(outcomes))
    }

    fn health(&self) -> Vec<DeviceHealth> {
        let state = self.state();
        let health = |device: u16| {
            let poisoned = state.poisoned.get(&device);
            DeviceHealth {
                state: if poisoned.is_some() { DeviceState::Poisoned } else { DeviceState::Up },
                detail: poisoned.map_or("memory".into(), |cause| format!("memory; poisoned: {cause}")),
                in_flight_count: 0,
                queued_count: 0,
                read_bytes: state.read_bytes,
                written_bytes: state.written_bytes,
            }
        };
        (0..self.geometry.len() as u16).map(health).collect()
    }
}
