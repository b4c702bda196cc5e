//! Finding blocks and keeping them: lookup, prefetch, leases, pins, delete.

use kvtier_proto::v1;
use tonic::Status;

use super::answer::BadField;
use super::client::Client;
use super::{Node, answer, ask};
use crate::requests;

pub(crate) async fn lookup(
    node: &Node,
    client: &Client,
    request: v1::LookupRequest,
) -> Result<v1::LookupResponse, Status> {
    let space = ask::space("space", &request.space)?;
    let keys = ask::keys("keys", &request.keys, node.limits.chain_keys_max)?;
    let lease = request.lease_ms.map(ask::milliseconds);
    let name = requests::name_of(&request.request)?;
    let found = node.engine.lookup(&space, &keys, lease, client.owner()).await;
    if let Some(name) = name
        && let Ok(tenant) = node.engine.tenant_of(&space)
    {
        node.requests.note(&tenant, name, requests::looked_up(space, keys.len(), &found));
    }
    let found = found.map_err(answer::status)?;
    let prefix = found
        .prefix
        .iter()
        .map(|block| v1::ResidentBlock { tier: answer::tier(block.tier).into(), length: block.length });
    Ok(v1::LookupResponse {
        prefix: prefix.collect(),
        lease: found.lease.map_or_else(Vec::new, |lease| lease.id.0.to_le_bytes().to_vec()),
        lease_deadline_unix_ms: found.lease.map_or(0, |lease| lease.deadline_unix_ms),
        miss: found.miss.as_ref().map(answer::miss),
    })
}

/// A client's side of a request.
pub(crate) fn report(node: &Node, request: v1::ReportRequest) -> Result<v1::ReportResponse, Status> {
    let (space, name, what) = requests::report_of(request)?;
    let tenant = node.engine.tenant_of(&space).map_err(answer::status)?;
    node.requests.note(&tenant, &name, what);
    Ok(v1::ReportResponse {})
}

/// What is remembered of a request.
pub(crate) fn why(node: &Node, request: &v1::WhyRequest) -> Result<v1::WhyResponse, Status> {
    let absent = |field| BadField::new(field, "absent", "name the request and the tenant whose it is");
    let name = requests::name_of(&request.request)?.ok_or_else(|| absent("request"))?;
    if request.tenant.is_empty() {
        return Err(absent("tenant").into());
    }
    Ok(node.requests.why(&request.tenant, name))
}

pub(crate) async fn prefetch(node: &Node, request: v1::PrefetchRequest) -> Result<v1::PrefetchResponse, Status> {
    let space = ask::space("space", &request.space)?;
    let keys = ask::keys("keys", &request.keys, node.limits.chain_keys_max)?;
    let started = node.engine.prefetch(&space, &keys).await.map_err(answer::status)?;
    Ok(v1::PrefetchResponse { resident: started.resident, started: started.started, refused: started.refused })
}

pub(crate) async fn pin(node: &Node, request: v1::PinRequest) -> Result<v1::PinResponse, Status> {
    let space = ask::space("space", &request.space)?;
    let keys = ask::keys("keys", &request.keys, node.limits.chain_keys_max)?;
    let ttl = ask::milliseconds(request.ttl_ms);
    let pinned = node.engine.pin(&space, &request.name, &keys, ttl).await.map_err(answer::status)?;
    if let Some(desk) = node.local.get() {
        desk.pin_hot(&space, &request.name, &keys, pinned.deadline_unix_ms).await;
    }
    Ok(v1::PinResponse { blocks: pinned.blocks, bytes: pinned.bytes, deadline_unix_ms: pinned.deadline_unix_ms })
}

pub(crate) fn unpin(node: &Node, request: &v1::UnpinRequest) -> Result<v1::UnpinResponse, Status> {
    let space = ask::space("space", &request.space)?;
    let existed = node.engine.unpin(&space, &request.name).map_err(answer::status)?;
    if let (Some(desk), Ok(number)) = (node.local.get(), node.engine.space_number(&space)) {
        desk.gpus.unwish(number, &request.name);
    }
    Ok(v1::UnpinResponse { existed })
}

pub(crate) fn release(
    node: &Node,
    client: &Client,
    request: &v1::ReleaseRequest,
) -> Result<v1::ReleaseResponse, Status> {
    let lease = ask::lease(&request.lease)?;
    let released = node.engine.release(lease, client.owner());
    released.map_err(|error| answer::status_about_lease(error, lease))?;
    Ok(v1::ReleaseResponse {})
}

pub(crate) async fn delete(node: &Node, request: v1::DeleteRequest) -> Result<v1::DeleteResponse, Status> {
    let space = ask::space("space", &request.space)?;
    let keys = ask::keys("keys", &request.keys, node.limits.chain_keys_max)?;
    let deleted = node.engine.delete(&space, &keys).await.map_err(answer::status)?;
    Ok(v1::DeleteResponse { deleted })
}
