//! Opening, listing and dropping spaces.
//!
//! A space's number is `epoch << 12 | counter`, so that it is never reused on a node although dropped spaces leave no
//! trace in the index. Crash while dropping: the log says `SpaceDropped`; blocks that were not removed yet name a
//! space that does not exist, and recovery removes them.

use std::collections::BTreeMap;

use kvtier_identity::{BlockId, Key, SpaceDescription, SpaceDigest, TenantSecret};

use super::ask::SpaceSummary;
use super::error::EngineError;
use super::put::ROOM_PATIENCE;
use super::{Core, Engine};
use crate::port::{Record, SpaceRecord};

const NUMBERS_PER_EPOCH: u32 = 1 << 12;
const NAME_BYTES_MAX: usize = 128;
/// Blocks removed under one hold of the core while a space is dropped.
const DROP_STEP_COUNT: usize = 1024;

/// A space in RAM.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) record: SpaceRecord,
    /// Which host arena its blocks go to: its tenant's, by today's settings.
    pub(crate) domain: u8,
    secret: TenantSecret,
    /// Position of its `SpaceOpened`; 0 if the index knew it at the start.
    logged_seq: u64,
}

impl Space {
    pub(crate) fn block_id(&self, key: &Key) -> BlockId {
        self.secret.block_id(&self.record.digest, key)
    }

    /// The same for a key whose length was checked elsewhere.
    pub(crate) fn block_id_of(&self, key: &[u8]) -> BlockId {
        self.secret.block_id_of(&self.record.digest, key)
    }
}

/// Every space of the node, and the names of those dropped in this epoch, for subscribers that lag.
#[derive(Debug)]
pub(crate) struct SpaceTable {
    root_secret: [u8; 32],
    host_domains: BTreeMap<String, u8>,
    epoch: u64,
    opened: u32,
    open: BTreeMap<SpaceDigest, Space>,
    names: BTreeMap<String, SpaceDigest>,
    digests: BTreeMap<u32, SpaceDigest>,
}

impl SpaceTable {
    pub(crate) fn new(root_secret: [u8; 32], host_domains: BTreeMap<String, u8>, epoch: u64) -> Self {
        Self {
            root_secret,
            host_domains,
            epoch,
            opened: 0,
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            digests: BTreeMap::new(),
        }
    }

    pub(crate) fn insert(&mut self, record: SpaceRecord, logged_seq: u64) {
        let domain = self.host_domains.get(&record.description.tenant).copied().unwrap_or(0);
        let secret = TenantSecret::derive(&self.root_secret, &record.description.tenant);
        self.names.insert(record.name.clone(), record.digest);
        self.digests.insert(record.number, record.digest);
        self.open.insert(record.digest, Space { record, domain, secret, logged_seq });
    }

    /// The space was logged again.
    pub(crate) fn note_logged(&mut self, digest: &SpaceDigest, seq: u64) {
        if let Some(space) = self.open.get_mut(digest) {
            space.logged_seq = seq;
        }
    }

    pub(crate) fn find(&self, digest: &SpaceDigest) -> Result<&Space, EngineError> {
        self.open.get(digest).ok_or_else(|| EngineError::NotFound {
            what: "space",
            name: digest.to_string(),
            remedy: "open it with its description first",
        })
    }

    /// Digest of a space that is or was open in this epoch.
    pub(crate) fn digest(&self, number: u32) -> Option<SpaceDigest> {
        self.digests.get(&number).copied()
    }

    /// The open space with this number.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Space> {
        self.open.get(self.digests.get(&number)?).filter(|space| space.record.number == number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Space> {
        self.open.values()
    }

    fn remove(&mut self, digest: &SpaceDigest) -> Option<SpaceRecord> {
        let space = self.open.remove(digest)?;
        self.names.remove(&space.record.name);
        Some(space.record)
    }

    fn next_number(&mut self) -> Result<u32, EngineError> {
        if self.opened + 1 >= NUMBERS_PER_EPOCH {
            return Err(EngineError::Exhausted {
                what: "the space table",
                detail: format!("{} spaces were opened since the start", self.opened),
                retry: std::time::Duration::from_secs(60),
            });
        }
        self.opened += 1;
        let epoch = u32::try_from(self.epoch & 0xf_ffff).expect("20 bits");
        Ok(epoch << 12 | self.opened)
    }
}

impl Engine {
    /// Opens a space or finds it; true if it was created. Durable when it returns.
    pub async fn open_space(
        &self,
        name: &str,
        description: SpaceDescription,
    ) -> Result<(SpaceDigest, bool), EngineError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(EngineError::invalid(
                "name",
                format!("{} bytes long", name.len()),
                "a name has 1 to 128 bytes",
            ));
        }
        let digest =
            description.digest().map_err(|error| EngineError::invalid(error.field, error.value, error.rule))?;
        let (sequence, created) = {
            let mut core = self.shared.lock();
            match core.spaces.open.get(&digest) {
                Some(space) => (space.logged_seq, false),
                None => (self.create_space(&mut core, name, digest, description)?, true),
            }
        };
        // Somebody else's opening may not be durable yet, or have been lost: then it is logged again after the gap.
        if sequence > 0 {
            let durable = self.shared.ports.journal.durable(sequence).await;
            durable.map_err(|error| EngineError::unavailable("the journal", error))?;
        }
        Ok((digest, created))
    }

    /// Returns the position of its record.
    fn create_space(
        &self,
        core: &mut Core,
        name: &str,
        digest: SpaceDigest,
        description: SpaceDescription,
    ) -> Result<u64, EngineError> {
        if let Some(other) = core.spaces.names.get(name) {
            return Err(EngineError::Conflict(format!(
                "space name {name} belongs to {other}, this description is {digest}: choose another name or drop that space"
            )));
        }
        let record = SpaceRecord { number: core.spaces.next_number()?, name: name.into(), digest, description };
        let appended = self.shared.append(core, vec![Record::SpaceOpened(Box::new(record.clone()))]);
        let position = appended.map_err(|refused| EngineError::unavailable("the journal", refused))?;
        let block_bytes = u32::try_from(record.description.block_bytes_max()).expect("a block has at most 64 MiB");
        core.catalog.register_size(block_bytes);
        core.spaces.insert(record, position.seq);
        Ok(position.seq)
    }

    /// Every open space.
    pub fn spaces(&self) -> Vec<SpaceSummary> {
        let core = self.shared.lock();
        let summary = |space: &Space| {
            let (blocks, bytes) = core.catalog.count_of_space(space.record.number);
            SpaceSummary {
                name: space.record.name.clone(),
                digest: space.record.digest,
                description: space.record.description.clone(),
                blocks,
                bytes,
            }
        };
        core.spaces.iter().map(summary).collect()
    }

    /// Whose space it is.
    pub fn tenant_of(&self, digest: &SpaceDigest) -> Result<String, EngineError> {
        let core = self.shared.lock();
        Ok(core.spaces.find(digest)?.record.description.tenant.clone())
    }

    /// Forgets a space and all its blocks; returns how many there were. Durable when it returns.
    pub async fn drop_space(&self, digest: &SpaceDigest) -> Result<u64, EngineError> {
        self.shared.lock().spaces.find(digest)?;
        self.shared.filled_before(self.shared.now().after(ROOM_PATIENCE)).await;
        self.refuse_while_filling("dropping a space")?;
        let number = {
            let mut core = self.shared.lock();
            core.spaces.find(digest)?;
            self.shared.ports.journal.ready().map_err(|refused| EngineError::unavailable("the journal", refused))?;
            let record = core.spaces.remove(digest).expect("found above, under the same lock");
            self.shared.journal(&mut core, vec![Record::SpaceDropped { space: record.number, digest: *digest }]);
            record.number
        };
        let (mut cursor, mut blocks) = (0, 0);
        loop {
            let mut core = self.shared.lock();
            let (records, done) = core.catalog.drop_space_step(self.shared.now(), number, DROP_STEP_COUNT, &mut cursor);
            blocks += removed_blocks(&records);
            self.shared.journal(&mut core, records);
            if done {
                break;
            }
        }
        let newest = self.shared.ports.journal.status().appended_seq;
        self.shared
            .ports
            .journal
            .durable(newest)
            .await
            .map_err(|error| EngineError::unavailable("the journal", error))?;
        Ok(blocks)
    }

    pub(crate) fn refuse_while_filling(&self, doing: &str) -> Result<(), EngineError> {
        let core = self.shared.lock();
        if core.filling {
            return Err(EngineError::unavailable("the index", format!("{doing} waits until recovery is complete")));
        }
        Ok(())
    }
}

/// Distinct blocks among removal records (a block may leave two tiers).
fn removed_blocks(records: &[Record]) -> u64 {
    let blocks: std::collections::BTreeSet<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Removed { block, .. } => Some(*block),
            _ => None,
        })
        .collect();
    blocks.len() as u64
}
