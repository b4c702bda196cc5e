//! What clients do: random operations, each of which may be dropped at any await.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kvtier_engine::catalog::plan::OwnerId;
use kvtier_engine::flow::Engine;
use kvtier_engine::flow::acquire::Wish;
use kvtier_engine::flow::ask::{Durability, Put, PutPart, Reserved};
use kvtier_host::Arenas;
use kvtier_identity::SpaceDigest;

use crate::executor::yield_now;
use crate::ledger::{CHAINS, DEPTH, Deletion, Ledger, Name, TENANTS, description};
use crate::seed::Seed;

/// A client and what it needs.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) engine: Engine,
    pub(crate) memory: Arc<Arenas>,
    /// The domain of each tenant.
    pub(crate) domains: [u8; TENANTS.len()],
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    pub(crate) failure: Rc<RefCell<Option<String>>>,
    pub(crate) owner: OwnerId,
}

/// One operation, chosen by the seed.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    PutChain(Name, Durability),
    ReadChain(Name, Duration, bool),
    GetKeys(Vec<Name>),
    Delete(Name),
    Prefetch(Name),
    Pin(Name, Duration),
    Acquire(Name, Wish, bool),
    Vanish,
}

impl Action {
    pub(crate) fn choose(seed: &mut Seed) -> Self {
        let name = Name { tenant: seed.below(2), chain: seed.below(CHAINS), depth: seed.below(DEPTH) };
        let pause = Duration::from_millis(1 + seed.below(2000) as u64);
        match seed.below(20) {
            0..=4 => Self::PutChain(name, Durability::Volatile),
            5..=9 => Self::PutChain(name, Durability::Durable),
            10..=13 => Self::ReadChain(name, pause, seed.chance(700)),
            14..=15 => Self::GetKeys(name.chain_to()),
            16 => Self::Delete(name),
            17 => Self::Prefetch(name),
            18 => Self::Pin(name, pause),
            _ => Self::Vanish,
        }
    }
}

impl Action {
    /// An acquisition: staged up or not, waited for or polled, released or left to its deadline.
    pub(crate) fn choose_acquire(seed: &mut Seed) -> Self {
        let name = Name { tenant: seed.below(2), chain: seed.below(CHAINS), depth: seed.below(DEPTH) };
        let lease = Duration::from_millis(1 + seed.below(2000) as u64);
        let wish = Wish { lease, stage: seed.chance(800), wait: seed.chance(600) };
        Self::Acquire(name, wish, seed.chance(600))
    }

    /// The same of one tenant.
    pub(crate) fn of_tenant(self, tenant: usize) -> Self {
        let own = |name: Name| Name { tenant, ..name };
        match self {
            Self::PutChain(name, durability) => Self::PutChain(own(name), durability),
            Self::ReadChain(name, pause, release) => Self::ReadChain(own(name), pause, release),
            Self::GetKeys(names) => Self::GetKeys(names.into_iter().map(own).collect()),
            Self::Delete(name) => Self::Delete(own(name)),
            Self::Prefetch(name) => Self::Prefetch(own(name)),
            Self::Pin(name, pause) => Self::Pin(own(name), pause),
            Self::Acquire(name, wish, release) => Self::Acquire(own(name), wish, release),
            Self::Vanish => Self::Vanish,
        }
    }
}

impl Client {
    pub(crate) async fn act(self, action: Action) {
        let result = match action {
            Action::PutChain(name, durability) => self.put_chain(name, durability).await,
            Action::ReadChain(name, lease, release) => self.read_chain(name, lease, release).await,
            Action::GetKeys(names) => self.get_keys(&names).await,
            Action::Delete(name) => self.delete(name).await,
            Action::Prefetch(name) => self.prefetch(name).await,
            Action::Pin(name, ttl) => self.pin(name, ttl).await,
            Action::Acquire(name, wish, release) => self.acquire(name, wish, release).await,
            Action::Vanish => {
                self.engine.release_owner(self.owner);
                Ok(())
            }
        };
        if let Err(problem) = result {
            self.failure.borrow_mut().get_or_insert(problem);
        }
    }

    pub(crate) async fn space(&self, name: Name) -> Option<SpaceDigest> {
        let opened = self.engine.open_space(crate::ledger::TENANTS[name.tenant], description(name.tenant)).await;
        // Refused while the journal is suspended or poisoned.
        opened.ok().map(|(space, _)| space)
    }

    pub(crate) async fn put_chain(&self, last: Name, durability: Durability) -> Result<(), String> {
        let Some(space) = self.space(last).await else { return Ok(()) };
        for name in last.chain_to() {
            self.put(space, name, durability).await?;
        }
        Ok(())
    }

    async fn put(&self, space: SpaceDigest, name: Name, durability: Durability) -> Result<(), String> {
        let bytes = name.bytes();
        let before = self.ledger.borrow().deletions_of(name);
        let part = PutPart {
            space,
            key: name.key(),
            parent: name.parent().map(Name::key),
            part: 0,
            length: bytes.len() as u64,
            durability,
        };
        let durable = match self.engine.reserve(&part).await {
            Ok(Reserved::Write(mut writer)) => {
                let (first, second) = bytes.split_at(bytes.len() / 3);
                writer.write(first).map_err(|error| error.to_string())?;
                yield_now().await;
                writer.write(second).map_err(|error| error.to_string())?;
                yield_now().await;
                match writer.finish(Some(crc32fast::hash(&bytes))).map_err(|error| error.to_string())? {
                    Put::Stored { durable, .. } => durable,
                    Put::PartAccepted => return Err("a block of one part is complete with it".into()),
                    Put::Declined(_) => {
                        self.ledger.borrow_mut().seen.declined += 1;
                        return Ok(());
                    }
                }
            }
            Ok(Reserved::Duplicate(durable)) => durable,
            Ok(Reserved::Declined(_)) => {
                self.ledger.borrow_mut().seen.declined += 1;
                return Ok(());
            }
            // The part is being written by another client, or the index cannot tell.
            Err(_) => return Ok(()),
        };
        self.ledger.borrow_mut().seen.stored += 1;
        if let Some(durable) = durable
            && durable.0.await.is_ok()
        {
            self.ledger.borrow_mut().promise(name, before);
        }
        Ok(())
    }

    async fn read_chain(&self, last: Name, lease: Duration, release: bool) -> Result<(), String> {
        let Some(space) = self.space(last).await else { return Ok(()) };
        let names = last.chain_to();
        let keys: Vec<_> = names.iter().map(|name| name.key()).collect();
        let Ok(found) = self.engine.lookup(&space, &keys, Some(lease), self.owner).await else { return Ok(()) };
        let Some(lease) = found.lease else { return Ok(()) };
        yield_now().await;
        // The lease may have ended meanwhile: that is an answer, too.
        let Ok(mut reader) = self.engine.get_lease(lease.id, self.owner, 0, 0) else { return Ok(()) };
        for name in &names[..found.prefix.len()] {
            let got = reader.next().await.ok_or("a reader ended early")?;
            self.ledger.borrow_mut().check_got(*name, &got)?;
            yield_now().await;
        }
        if release {
            self.engine.release(lease.id, self.owner).ok();
        }
        Ok(())
    }

    pub(crate) async fn get_keys(&self, names: &[Name]) -> Result<(), String> {
        let Some(space) = self.space(names[0]).await else { return Ok(()) };
        let keys: Vec<_> = names.iter().map(|name| name.key()).collect();
        let Ok(mut reader) = self.engine.get_keys(&space, &keys, 0, 0).await else { return Ok(()) };
        for name in names {
            let got = reader.next().await.ok_or("a reader ended early")?;
            self.ledger.borrow_mut().check_got(*name, &got)?;
        }
        Ok(())
    }

    async fn delete(&self, name: Name) -> Result<(), String> {
        let Some(space) = self.space(name).await else { return Ok(()) };
        let _under_way = Deletion::begin(&self.ledger, name);
        // A deletion that could not be journaled is an error the client sees.
        self.engine.delete(&space, &[name.key()]).await.ok();
        Ok(())
    }

    async fn prefetch(&self, name: Name) -> Result<(), String> {
        let Some(space) = self.space(name).await else { return Ok(()) };
        let keys: Vec<_> = name.chain_to().iter().map(|name| name.key()).collect();
        self.engine.prefetch(&space, &keys).await.ok();
        Ok(())
    }

    async fn pin(&self, name: Name, ttl: Duration) -> Result<(), String> {
        let Some(space) = self.space(name).await else { return Ok(()) };
        let keys: Vec<_> = name.chain_to().iter().map(|name| name.key()).collect();
        let pin = format!("pin-{}", name.chain);
        if self.engine.pin(&space, &pin, &keys, ttl).await.is_ok() && name.depth.is_multiple_of(2) {
            yield_now().await;
            self.engine.unpin(&space, &pin).ok();
        }
        Ok(())
    }
}
