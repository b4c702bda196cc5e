//! Who a request comes from: leases belong to clients, and a client is gone when its last connection is.
//!
//! A client that names itself in `x-kvtier-client` is one owner over all its connections (a gRPC channel reconnects,
//! and some clients open several); one that does not is its connection. Each connection remembers the owners it carried,
//! and drops them when it closes: the last one out releases the owner's leases (INV-4).
//!
//! A request holds its owner, too, so that a lease granted while the connection closes is still released: whoever is
//! last, connection or request, does it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use kvtier_engine::catalog::plan::OwnerId;
use kvtier_engine::flow::Engine;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::answer::BadField;
use crate::listen::Peer;

/// The name under which a client's leases are filed.
pub const CLIENT_HEADER: &str = "x-kvtier-client";
/// Longest client name in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Most client names on one connection.
const OWNERS_PER_CONNECTION_MAX: usize = 1024;

/// Every owner that has a connection or a request.
pub struct ClientTable {
    engine: Engine,
    owners: Mutex<BTreeMap<OwnerId, u64>>,
}

/// The owners one connection carries; held by its [`crate::listen::ConnectionLife`].
#[derive(Default)]
struct Carried(Mutex<BTreeMap<OwnerId, Client>>);

/// A client as a request sees it. Holding it keeps the client's leases.
#[derive(Clone)]
pub(crate) struct Client(Arc<Membership>);

struct Membership {
    owner: OwnerId,
    table: Weak<ClientTable>,
}

impl ClientTable {
    /// A table for `engine`'s clients.
    pub fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self { engine, owners: Mutex::default() })
    }

    /// Owners that have a connection or a request now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<OwnerId, u64>> {
        self.owners.lock().expect("nobody panics while counting clients")
    }

    fn join(self: &Arc<Self>, owner: OwnerId) -> Client {
        *self.lock().entry(owner).or_default() += 1;
        Client(Arc::new(Membership { owner, table: Arc::downgrade(self) }))
    }

    /// Under the lock, so that an owner who comes back meanwhile keeps what it leases from now on.
    fn leave(&self, owner: OwnerId) {
        let mut owners = self.lock();
        let count = owners.get_mut(&owner).expect("who leaves has joined");
        *count -= 1;
        if *count == 0 {
            owners.remove(&owner);
            self.engine.release_owner(owner);
        }
    }

    /// The client a request comes from.
    pub(crate) fn client_of<T>(self: &Arc<Self>, request: &Request<T>) -> Result<Client, BadField> {
        let peer = request.extensions().get::<Peer>();
        let certificate = peer.and_then(|peer| peer.identity.as_deref()).map(|identity| &identity.certificate[..]);
        let connection = peer.map_or(0, |peer| peer.id.0).to_le_bytes();
        let owner = match name_of(request.metadata())? {
            Some(name) => owner_of(&[b"name", name, certificate.unwrap_or_default()]),
            None => owner_of(&[b"connection", &connection]),
        };
        match peer.and_then(|peer| peer.life.held(Carried::default)) {
            Some(carried) => carried.carry(self, owner),
            // A request without a connection, as tests make them: its owner ends with it.
            None => Ok(self.join(owner)),
        }
    }
}

impl Carried {
    fn carry(&self, table: &Arc<ClientTable>, owner: OwnerId) -> Result<Client, BadField> {
        let mut clients = self.0.lock().expect("nobody panics while noting a client");
        if let Some(client) = clients.get(&owner) {
            return Ok(client.clone());
        }
        if clients.len() >= OWNERS_PER_CONNECTION_MAX {
            let remedy = format!("a connection carries at most {OWNERS_PER_CONNECTION_MAX} names: use another connection");
            return Err(BadField::new(CLIENT_HEADER, format!("name number {}", clients.len() + 1), remedy));
        }
        let client = table.join(owner);
        clients.insert(owner, client.clone());
        Ok(client)
    }
}

impl Client {
    /// Who owns this client's leases.
    pub(crate) fn owner(&self) -> OwnerId {
        self.0.owner
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.leave(self.owner);
        }
    }
}

fn name_of(metadata: &MetadataMap) -> Result<Option<&[u8]>, BadField> {
    let Some(value) = metadata.get(CLIENT_HEADER) else { return Ok(None) };
    let name = value.as_encoded_bytes();
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let remedy = format!("a client's name has 1 to {NAME_BYTES_MAX} bytes");
        return Err(BadField::new(CLIENT_HEADER, format!("{} bytes long", name.len()), remedy));
    }
    Ok(Some(name))
}

/// A named client with a certificate is another than one of the same name with another certificate.
fn owner_of(words: &[&[u8]]) -> OwnerId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"kvtier client v1\0");
    for word in words {
        hasher.update(&(word.len() as u64).to_le_bytes()).update(word);
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    OwnerId(u128::from_le_bytes(id))
}
