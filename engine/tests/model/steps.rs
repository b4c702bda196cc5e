//! What can happen to a catalog: each step calls it once and checks the answer against the model.

use std::collections::BTreeSet;

use kvtier_engine::catalog::Catalog;
use kvtier_engine::catalog::plan::*;
use kvtier_engine::place::TierKind;
use kvtier_engine::port::{LoadOutcome, Moment, Record, RemovalCause};

use super::world::*;

/// One step: what, and three numbers to choose with.
pub(crate) type Step = (u8, u16, u16, u8);

/// Kinds of steps, weighted by repetition.
const KINDS: [fn(&mut World, u16, u16, u8); 34] = [
    World::put,
    World::put,
    World::put,
    World::put,
    World::put,
    World::put,
    World::put,
    World::put,
    World::finish_part,
    World::finish_part,
    World::finish_part,
    World::finish_part,
    World::finish_part,
    World::finish_part,
    World::lookup,
    World::lookup,
    World::lease,
    World::release,
    World::pin,
    World::load,
    World::load,
    World::load,
    World::finish_load,
    World::finish_load,
    World::unhold,
    World::unhold,
    World::store,
    World::store,
    World::store,
    World::finish_store,
    World::finish_store,
    World::scrub,
    World::pass_time,
    World::rare,
];

impl World {
    pub(crate) fn step(&mut self, (kind, a, b, c): Step) {
        KINDS[usize::from(kind) % KINDS.len()](self, a, b, c);
        if self.to_fill.is_some() {
            match b % 6 {
                0 | 1 => self.fill(b, c),
                2 => self.delete(u32::from(a) % BLOCKS),
                _ => {}
            }
        }
        self.check();
    }

    fn put(&mut self, a: u16, b: u16, c: u8) {
        let asked = u32::from(a) % BLOCKS;
        // Mostly the first block of the chain that is missing, as a client would.
        let missing = chain(asked).into_iter().find(|number| !self.blocks[*number as usize].visible());
        let number = if b.is_multiple_of(5) { asked } else { missing.unwrap_or(asked) };
        let sizes = part_bytes(number);
        let part = u16::from(c) % sizes.len() as u16;
        let odd = b.is_multiple_of(16) && self.blocks[number as usize].pending.is_some();
        let plan = PutPlan {
            block: id(number),
            space: space(number),
            domain: self.domain(number),
            key: key(number),
            parent: parent(number).map(id),
            part_bytes: if odd { vec![4096; sizes.len() + 1] } else { sizes },
            part,
            deadline: self.now.after(ms(u64::from(b % 50) + 1)),
        };
        let answer = self.catalog.reserve(self.now, plan);
        let model = self.blocks[number as usize].clone();
        let known =
            |parent: u32| self.blocks[parent as usize].visible() || self.blocks[parent as usize].pending.is_some();
        let orphan = parent(number).is_some_and(|parent| !known(parent));
        match answer {
            Reserve::Duplicate => assert!(model.visible()),
            Reserve::Write(claim) => {
                assert!(!model.visible() && !orphan || model.pending.is_some());
                if let Some(pending) = model.pending {
                    assert_eq!(claim.pending, pending);
                    self.coverage.note("second part");
                }
                self.model(number).pending = Some(claim.pending);
                assert_eq!(claim.slot.device, u16::from(self.domain(number)), "a slot of another domain's arena");
                self.apply_for(number, &claim.records);
                self.writers.push(Writer { number, claim, given_up: false });
            }
            Reserve::PartTaken => {
                let pending = model.pending.expect("a part is taken from a pending put");
                assert!(self.parts.contains_key(&(pending, part)));
                self.coverage.note("part taken");
            }
            Reserve::Disagrees(field) => {
                assert!(odd && model.pending.is_some(), "{field}");
                self.coverage.note("disagrees");
            }
            Reserve::Declined(Decline::UnderWay) => {
                let pending = model.pending.expect("a part is written by a put under way");
                let writing = |writer: &Writer| (writer.claim.pending, writer.claim.part) == (pending, part);
                assert!(self.writers.iter().any(writing));
                self.coverage.note("under way");
            }
            Reserve::Declined(why) => self.declined(number, why, orphan),
        }
    }

    fn declined(&mut self, number: u32, why: Decline, orphan: bool) {
        match why {
            Decline::ParentUnknown => assert!(orphan),
            Decline::Busy => assert_eq!(self.catalog.count().pending, 5),
            Decline::HostFull => {
                let idle = self.writers.is_empty() && self.blocks.iter().all(|model| model.pending.is_none());
                let held = self.catalog.count().held_blocks > 0;
                assert!(held || !idle || parent(number).is_some() || self.to_fill.is_some(), "nothing is in the way");
            }
            why => panic!("declined: {why:?}"),
        }
        self.coverage.note(why.name());
        let now = self.now;
        self.model(number).missing = Some((MissReason::Declined(why), None, now));
    }

    fn finish_part(&mut self, a: u16, _b: u16, c: u8) {
        if self.writers.is_empty() {
            return;
        }
        let Writer { number, claim, given_up } = self.writers.remove(usize::from(a) % self.writers.len());
        let crc = (!c.is_multiple_of(8)).then(|| self.fresh());
        match self.catalog.finish_part(self.now, &claim, crc, combine) {
            PartOutcome::Incomplete => {
                assert!(!given_up);
                if let Some(crc) = crc {
                    self.parts.insert((claim.pending, claim.part), crc);
                }
            }
            PartOutcome::GivenUp => {
                if given_up {
                    self.coverage.note("writer outlived its put");
                } else {
                    assert_eq!(crc, None);
                    self.model(number).pending = None;
                    self.coverage.note("writer gave up");
                }
            }
            PartOutcome::Visible { index, record, crc: whole, admit } => {
                assert!(!given_up);
                self.parts.insert((claim.pending, claim.part), crc.expect("the last part was written"));
                let crc_of = |part: u16| self.parts[&(claim.pending, part)];
                let sizes = part_bytes(number);
                let expected = (1..sizes.len() as u16)
                    .fold(crc_of(0), |whole, part| combine(whole, crc_of(part), u64::from(sizes[usize::from(part)])));
                assert_eq!(whole, expected);
                self.write_host(claim.slot, whole);
                self.expect_stored_host(number, &record);
                let model = self.model(number);
                (model.host, model.pending, model.index) = (Some(whole), None, Some(index));
                if admit && c.is_multiple_of(2) {
                    self.begin_store(number);
                }
            }
        }
    }

    fn expect_stored_host(&self, number: u32, record: &Record) {
        let (block, parent) = (id(number), parent(number).map(id));
        let expected =
            Record::StoredHost { block, space: space(number), key: key(number), parent, length: length(number) };
        assert_eq!(*record, expected);
    }

    fn lookup(&mut self, a: u16, _b: u16, c: u8) {
        let chain = chain(u32::from(a) % BLOCKS);
        let mut found = Vec::new();
        let count = self.catalog.lookup(&chain.iter().map(|number| id(*number)).collect::<Vec<_>>(), &mut found);
        let expected = chain.iter().take_while(|number| self.blocks[**number as usize].visible()).count();
        assert_eq!((count, found.len()), (expected, expected), "the longest resident prefix");
        for (number, found) in chain.iter().zip(&found) {
            let model = &self.blocks[*number as usize];
            let tier = if model.host.is_some() { TierKind::Host } else { TierKind::Nvme };
            assert_eq!((Some(found.index), found.tier, found.length), (model.index, tier, length(*number)));
        }
        if c.is_multiple_of(3) {
            let admitted = self.catalog.take_admitted(4);
            assert!(admitted.iter().all(|(at, block)| self.blocks[number(*block) as usize].index == Some(*at)));
            for (_, block) in admitted {
                self.coverage.note("admitted by a hit");
                self.begin_store(number(block));
            }
        }
    }

    fn prefix(&mut self, a: u16) -> Vec<BlockIndex> {
        let chain: Vec<_> = chain(u32::from(a) % BLOCKS).into_iter().map(id).collect();
        let mut found = Vec::new();
        self.catalog.lookup(&chain, &mut found);
        found.iter().map(|found| found.index).collect()
    }

    fn lease(&mut self, a: u16, b: u16, c: u8) {
        let blocks = self.prefix(a);
        let (lease, owner) = (LeaseId(u128::from(self.fresh())), OwnerId(u128::from(c % 3)));
        let deadline = self.now.after(ms(u64::from(b % 80)));
        match self.catalog.lease(self.now, lease, owner, &blocks, deadline) {
            Ok(()) => _ = self.leases.insert(lease, Lease { owner, deadline, blocks }),
            Err(error) => {
                assert_eq!((error, self.leases.len()), (LeaseError::TooMany, 6));
                self.coverage.note("too many leases");
            }
        }
    }

    fn release(&mut self, a: u16, b: u16, c: u8) {
        let owner = OwnerId(u128::from(c % 3));
        if b.is_multiple_of(16) {
            let records = self.catalog.release_owner(owner);
            self.apply(&records);
            let gone: Vec<_> =
                self.leases.iter().filter(|(_, lease)| lease.owner == owner).map(|(id, _)| *id).collect();
            gone.into_iter().for_each(|lease| self.end_lease(lease));
            return;
        }
        let id = LeaseId(u128::from(a) % (u128::from(self.next) + 2));
        let id = if b.is_multiple_of(2) { self.leases.keys().next().copied().unwrap_or(id) } else { id };
        let leased = self.catalog.leased(self.now, id, owner).map(<[_]>::to_vec);
        match self.leases.get(&id) {
            Some(lease) if lease.owner == owner && lease.deadline > self.now => {
                assert_eq!(leased, Ok(lease.blocks.clone()))
            }
            Some(lease) if lease.owner == owner => assert_eq!(leased, Err(LeaseError::Ended)),
            Some(_) => assert_eq!(leased, Err(LeaseError::Foreign)),
            None => assert!(leased.is_err()),
        }
        match self.catalog.release(self.now, id, owner) {
            Ok(records) => {
                self.apply(&records);
                assert_eq!(self.leases[&id].owner, owner);
                self.end_lease(id);
            }
            Err(LeaseError::Foreign) => self.coverage.note("foreign lease"),
            Err(LeaseError::Ended) => {
                assert_eq!(self.ended.get(&id), Some(&owner));
                self.coverage.note("ended lease");
            }
            Err(LeaseError::Unknown) => self.coverage.note("unknown lease"),
            Err(LeaseError::TooMany) => unreachable!("releasing needs no room"),
        }
    }

    fn end_lease(&mut self, id: LeaseId) {
        let lease = self.leases.remove(&id).expect("the lease was open");
        self.ended.insert(id, lease.owner);
    }

    fn pin(&mut self, a: u16, b: u16, c: u8) {
        let space = u32::from(c) % SPACES;
        let name = format!("pin {}", b % 3);
        let pin = (space, name.clone());
        if b.is_multiple_of(5) {
            let ended = self.catalog.unpin(space, &name);
            assert_eq!(ended.is_some(), self.pins.remove(&pin).is_some());
            return;
        }
        if b.is_multiple_of(7) {
            return self.pin_also(pin, a);
        }
        let blocks = self.prefix(a);
        let bytes: u64 = blocks.iter().map(|index| self.length_at(*index)).sum();
        let used = self.pins.iter().filter(|(other, _)| other.0 == space && **other != pin).map(|(_, pin)| pin.2).sum();
        let (deadline, max) = (self.now.after(ms(u64::from(b % 70))), 60_000);
        match self.catalog.pin(self.now, space, &name, &blocks, deadline, max) {
            Ok(pinned) => {
                assert_eq!(pinned, bytes);
                self.pins.insert(pin, (deadline, blocks, bytes));
                self.coverage.note("pinned");
            }
            Err(PinError::Quota { asked, used: pinned, max: bound }) => {
                assert_eq!((asked, pinned, bound), (bytes, used, max));
                assert!(asked + used > max);
                self.coverage.note("pin over quota");
            }
            Err(PinError::TooMany) => {
                assert_eq!(self.pins.len(), 3);
                self.coverage.note("too many pins");
            }
        }
    }

    fn pin_also(&mut self, name: (u32, String), a: u16) {
        let Some(block) = self.prefix(a).pop() else { return };
        let (asked, max) = (self.length_at(block), 60_000);
        let used: u64 = self.pins.iter().filter(|(other, _)| other.0 == name.0).map(|(_, pin)| pin.2).sum();
        let added = self.catalog.pin_also(name.0, &name.1, block, max);
        match self.pins.get_mut(&name) {
            None => assert_eq!(added, Ok(false)),
            Some(_) if asked + used > max => assert_eq!(added, Err(PinError::Quota { asked, used, max })),
            Some((_, blocks, bytes)) => {
                assert_eq!(added, Ok(true));
                blocks.push(block);
                *bytes += asked;
                self.coverage.note("added to a pin");
            }
        }
    }

    fn length_at(&self, index: BlockIndex) -> u64 {
        let number = self.blocks.iter().position(|model| model.index == Some(index)).expect("a visible block");
        u64::from(length(number as u32))
    }

    fn load(&mut self, a: u16, b: u16, _c: u8) {
        let number = u32::from(a) % BLOCKS;
        let model = self.blocks[number as usize].clone();
        let plan = match model.index {
            Some(index) if b.is_multiple_of(2) => self.catalog.begin_load(self.now, index),
            _ => self.catalog.begin_load_block(self.now, id(number)),
        };
        match plan {
            LoadPlan::Resident(copy) => {
                let tag = model.host.expect("a host copy");
                assert_eq!((copy.length, copy.crc, Some(copy.index)), (length(number), tag, model.index));
                self.readers.push(Reader { copy, tag });
            }
            LoadPlan::InFlight => assert!(model.loading),
            LoadPlan::Load { index, from, into, expect, records } => {
                assert!(!model.loading && model.host.is_none());
                let tag = model.nvme.expect("an NVMe copy");
                let entry = &self.index[&number];
                assert_eq!((expect.block, expect.length, expect.crc), (id(number), length(number), tag));
                assert_eq!((expect.generation, from), (entry.generation, entry.slot));
                self.loads.push(Flight { index, number, from, to: into, tag, entry: None, doomed: false });
                // Room is made before the load owns its slot; the host copies of its ancestors may have to go for it.
                assert_eq!(into.device, u16::from(self.domain(number)), "a slot of another domain's arena");
                self.apply_for(number, &records);
                self.model(number).loading = true;
            }
            LoadPlan::Miss(miss) if miss.reason == MissReason::Throttled => {
                assert!(model.visible());
                self.coverage.note("load throttled");
            }
            LoadPlan::Miss(_) => assert!(!model.visible()),
        }
    }

    fn finish_load(&mut self, a: u16, b: u16, c: u8) {
        if self.loads.is_empty() {
            return;
        }
        let Flight { index, number, from, to, tag, doomed, .. } = self.loads.remove(usize::from(a) % self.loads.len());
        let outcome = match c % 8 {
            0 => LoadOutcome::Corrupt("bit flipped by the test"),
            1 => LoadOutcome::Failed(kvtier_engine::port::TierError::Busy),
            _ => LoadOutcome::Verified,
        };
        let verified = outcome == LoadOutcome::Verified;
        assert!(self.bad.contains(&from) || self.nvme_reads(from, tag), "a slot changed under a load (INV-8)");
        self.write_host(to, tag);
        let known_key = (!b.is_multiple_of(2)).then(|| key(number));
        let done = self.catalog.finish_load(self.now, index, &outcome, known_key.clone());
        self.coverage.note(match (&outcome, doomed) {
            (_, true) => "load of a doomed block ended",
            (LoadOutcome::Verified, _) => "load verified",
            (LoadOutcome::Corrupt(_), _) => "load corrupt",
            (LoadOutcome::Failed(_), _) => "load failed",
        });
        if !doomed {
            self.model(number).loading = false;
        }
        if verified && !doomed {
            self.model(number).host = Some(tag);
            let copy = done.copy.expect("a verified copy is handed out");
            assert_eq!((copy.slot, copy.crc), (to, tag));
            self.readers.push(Reader { copy, tag });
            match known_key {
                Some(_) => self.expect_stored_host(number, &done.records[0]),
                None => assert!(done.records.is_empty()),
            }
        } else {
            assert_eq!(done.copy, None);
            self.apply(&done.records);
            assert!(!matches!(outcome, LoadOutcome::Corrupt(_)) || self.bad.contains(&from));
        }
    }

    fn unhold(&mut self, a: u16, _b: u16, _c: u8) {
        if self.readers.is_empty() {
            return;
        }
        let reader = self.readers.remove(usize::from(a) % self.readers.len());
        assert!(self.host_reads(reader.copy.slot, reader.tag), "a reader sees other bytes (INV-1)");
        let records = self.catalog.unhold(reader.copy.index);
        self.apply(&records);
    }

    fn store(&mut self, a: u16, b: u16, _c: u8) {
        let volatile = |number: &u32| {
            let model = &self.blocks[*number as usize];
            model.host.is_some() && model.nvme.is_none()
        };
        let volatile: Vec<u32> = (0..BLOCKS).filter(volatile).collect();
        match volatile.get(usize::from(a) % volatile.len().max(1)) {
            Some(number) if !b.is_multiple_of(4) => self.begin_store(*number),
            _ => self.begin_store(u32::from(a) % BLOCKS),
        }
    }

    fn begin_store(&mut self, number: u32) {
        let model = self.blocks[number as usize].clone();
        let index = model.index.unwrap_or(BlockIndex(number));
        match self.catalog.begin_store(self.now, index, id(number)) {
            StorePlan::Gone => assert!(!model.visible()),
            StorePlan::Durable => assert!(model.nvme.is_some()),
            StorePlan::InFlight => assert!(model.storing),
            StorePlan::Store { index, from, to, block, entry, records } => {
                let tag = model.host.expect("a host copy");
                assert!(model.nvme.is_none() && !model.storing && self.to_fill.is_none());
                assert_eq!((block, entry.crc, entry.slot, entry.generation >> 40), (id(number), tag, to, self.epoch));
                assert_eq!((entry.parent, &entry.key), (parent(number).map(id), &key(number)));
                self.model(number).storing = true;
                self.stores.push(Flight { index, number, from, to, tag, entry: Some(entry), doomed: false });
                self.apply_for(number, &records);
            }
            StorePlan::Declined(why) => {
                assert!(matches!(why, Decline::NvmeFull | Decline::Recovering | Decline::NotAdmitted), "{why:?}");
                assert_eq!(why == Decline::Recovering, self.to_fill.is_some());
                self.coverage.note(why.name());
            }
        }
    }

    fn finish_store(&mut self, a: u16, _b: u16, c: u8) {
        if self.stores.is_empty() {
            return;
        }
        let Flight { index, number, from, to, tag, doomed, entry } =
            self.stores.remove(usize::from(a) % self.stores.len());
        assert!(self.host_reads(from, tag), "a slot changed under a store (INV-8)");
        self.write_nvme(to, tag);
        assert_eq!(self.catalog.is_doomed(index), doomed);
        let stored = !c.is_multiple_of(8);
        self.catalog.finish_store(self.now, index, stored);
        if doomed {
            self.coverage.note("store of a doomed block ended");
            return;
        }
        self.coverage.note(if stored { "stored" } else { "store failed" });
        let model = self.model(number);
        model.storing = false;
        if stored {
            model.nvme = Some(tag);
            self.index.insert(number, entry.expect("a store has an entry"));
        }
    }

    fn scrub(&mut self, a: u16, _b: u16, c: u8) {
        if let Some((index, number)) = self.scrubs.pop() {
            if c.is_multiple_of(4) {
                let records = self.catalog.quarantine(self.now, index);
                let healthy = self.blocks[number as usize].host.is_some();
                self.apply(&records);
                if !records.is_empty() {
                    self.coverage.note(if healthy { "quarantined beside a host copy" } else { "quarantined" });
                }
            }
            let records = self.catalog.unhold(index);
            self.apply(&records);
            return;
        }
        let mut cursor = self.scrub_cursor;
        for (index, verify) in self.catalog.scrub_next(&mut cursor, usize::from(a % 4) + 1) {
            let number = number(verify.expect.block);
            assert_eq!(self.index[&number].slot, verify.at);
            assert!(self.nvme_reads(verify.at, verify.expect.crc));
            self.scrubs.push((index, number));
        }
        self.scrub_cursor = cursor;
    }

    fn pass_time(&mut self, a: u16, _b: u16, _c: u8) {
        self.now = self.now.after(ms(u64::from(a % 40)));
        let expired = self.catalog.expire(self.now);
        self.apply(&expired.records);
        let now = self.now;
        let late: Vec<_> = self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect();
        assert_eq!(expired.leases as usize, late.len());
        late.into_iter().for_each(|lease| self.end_lease(lease));
        let pins = self.pins.len();
        self.pins.retain(|_, pin| pin.0 > now);
        assert_eq!(expired.pins as usize, pins - self.pins.len());
        for (what, count) in [("lease expired", expired.leases), ("pin expired", expired.pins)] {
            (0..count).for_each(|_| self.coverage.note(what));
        }
        let mut given_up = 0;
        for number in 0..BLOCKS {
            let miss = self.catalog.miss(now, id(number));
            if self.blocks[number as usize].pending.is_some() && miss.reason != MissReason::Incomplete {
                self.forget_put(number);
                given_up += 1;
            }
        }
        assert_eq!(expired.pending, given_up);
        assert!(self.catalog.next_deadline().is_none_or(|next| next > now));
    }

    fn forget_put(&mut self, number: u32) {
        let pending = self.model(number).pending.take();
        self.writers.iter_mut().filter(|writer| Some(writer.claim.pending) == pending).for_each(|w| w.given_up = true);
        self.coverage.note("put given up");
    }

    fn rare(&mut self, a: u16, b: u16, c: u8) {
        match c % 8 {
            0 | 1 => self.restart(b),
            2 if b.is_multiple_of(4) => self.drop_space(u32::from(a) % SPACES, usize::from(b % 7) + 1),
            3 => self.snapshot(usize::from(b % 7) + 1),
            _ => self.delete(u32::from(a) % BLOCKS),
        }
    }

    fn delete(&mut self, number: u32) {
        let before = self.blocks[number as usize].clone();
        let removed = self.catalog.delete(self.now, id(number));
        assert_eq!(removed.is_some(), before.visible() || before.pending.is_some());
        let records = removed.unwrap_or_default();
        if before.pending.is_some() {
            assert!(records.is_empty());
            self.forget_put(number);
        } else {
            let copies = [before.host.is_some(), before.nvme.is_some(), before.storing];
            assert_eq!(records.len(), copies.into_iter().map(usize::from).sum::<usize>());
            self.apply(&records);
        }
    }

    fn drop_space(&mut self, dropped: u32, count_max: usize) {
        let mut cursor = 0;
        loop {
            let (records, done) = self.catalog.drop_space_step(self.now, dropped, count_max, &mut cursor);
            let expected = |record: &Record| matches!(record, Record::Removed { space, cause: RemovalCause::SpaceDropped, .. } if *space == dropped);
            assert!(records.iter().all(expected));
            self.apply(&records);
            if done {
                break;
            }
        }
        for number in (0..BLOCKS).filter(|number| space(*number) == dropped) {
            assert!(!self.blocks[number as usize].visible());
            if self.blocks[number as usize].pending.is_some() {
                self.forget_put(number);
            }
        }
        self.coverage.note("space dropped");
    }

    fn snapshot(&mut self, count_max: usize) {
        let (mut cursor, mut seen) = (0, BTreeSet::new());
        while cursor != u32::MAX {
            for block in self.catalog.snapshot_next(&mut cursor, count_max) {
                let number = number(block.block);
                let model = &self.blocks[number as usize];
                assert_eq!((block.host, block.nvme), (model.host.is_some(), model.nvme.is_some()));
                assert_eq!((block.parent, block.length), (parent(number).map(id), length(number)));
                assert!(block.key.is_none_or(|known| known == key(number)));
                assert!(seen.insert(number), "a snapshot shows a block once");
            }
        }
        assert_eq!(seen.len() as u64, self.catalog.count().blocks);
    }

    /// The daemon dies: all that is left is what was durable, and it comes back in any order.
    fn restart(&mut self, seed: u16) {
        self.epoch += 1;
        let mut left: Vec<u32> = self.index.keys().copied().collect();
        left.sort_by_key(|number| id(*number + u32::from(seed) * 64).0);
        self.catalog = Catalog::new(settings(self.policy, self.admission, self.domains, self.epoch));
        self.catalog.begin_fill(&self.bad);
        self.blocks = vec![Model::default(); BLOCKS as usize];
        (self.now, self.scrub_cursor) = (Moment(ms(1)), 0);
        self.writers.clear();
        self.parts.clear();
        self.readers.clear();
        self.loads.clear();
        self.stores.clear();
        self.scrubs.clear();
        self.leases.clear();
        self.ended.clear();
        self.pins.clear();
        self.removed_in_fill.clear();
        self.host.clear();
        self.to_fill = Some(left);
        self.coverage.note("restart");
    }

    fn fill(&mut self, b: u16, c: u8) {
        let left = self.to_fill.as_mut().expect("the world is recovering");
        let Some(number) = left.pop() else {
            if !self.catalog.finish_fill_step(usize::from(b % 5) + 1) {
                return;
            }
            self.to_fill = None;
            self.removed_in_fill.clear();
            return;
        };
        if c.is_multiple_of(8) {
            left.insert(usize::from(b) % (left.len() + 1), number);
        }
        let Some(entry) = self.index.get(&number).cloned() else {
            return;
        };
        let model = self.blocks[number as usize].clone();
        match self.catalog.fill(id(number), &entry, self.domain(number)) {
            Fill::Known => assert!(model.nvme.is_some()),
            Fill::Conflict(problem) => {
                let removed = self.removed_in_fill.contains(&number);
                assert!(removed || model.host.is_some_and(|tag| tag != entry.crc), "{problem}");
                self.index.remove(&number);
                self.coverage.note(if removed { "fill of a removed block" } else { "fill conflict" });
            }
            Fill::Added(index) => {
                assert!(model.nvme.is_none() && !self.removed_in_fill.contains(&number));
                if model.pending.is_some() {
                    self.forget_put(number);
                    self.coverage.note("filled over a pending put");
                }
                let model = self.model(number);
                (model.nvme, model.index) = (Some(entry.crc), Some(index));
                self.coverage.note("filled");
            }
        }
    }
}
