//! Acquiring chains, asking again, and letting go.

use kvtier_engine::flow::acquire::{Acquired, Wish};
use kvtier_proto::v1;
use tonic::{Code, Status};

use super::session::Session;
use crate::requests;
use crate::service::answer::{self, BadField};
use crate::service::ask;

/// Chains longer than this are worked on off the thread that answers everybody: about 0.5 ms.
const TURN_KEYS: usize = 4096;

impl Session {
    /// Leases the longest resident prefix and says where it is.
    pub(crate) async fn acquire(&self, request: v1::AcquireRequest) -> Result<v1::AcquireResponse, Status> {
        let space = self.space(&request.space)?;
        let keys = ask::key_run(&request.keys, request.key_bytes, &request.key_lengths)?;
        let stage = stages(request.min_tier)?;
        if keys.len() > TURN_KEYS {
            tokio::task::yield_now().await;
        }
        let lease = ask::milliseconds(request.lease_ms);
        let wish = Wish { lease, stage, wait: !request.poll };
        let name = requests::name_of(&request.request)?;
        let acquired = self.desk.engine.acquire(&space, &keys, wish, self.owner).await;
        if let Some(name) = name {
            self.desk.request_log.note(&self.tenant, name, requests::acquired(space, keys.len(), &acquired));
        }
        self.release_if_closed();
        Ok(placed(acquired.map_err(answer::status)?))
    }

    /// Where the blocks of a lease are by now.
    pub(crate) async fn poll(&self, request: v1::PollRequest) -> Result<v1::AcquireResponse, Status> {
        let lease = ask::lease(&request.lease)?;
        let acquired = self.desk.engine.acquired(lease, self.owner, request.wait).await;
        let acquired = acquired.map_err(|error| answer::status_about_lease(error, lease))?;
        Ok(v1::AcquireResponse { lease: request.lease, ..placed(acquired) })
    }

    /// The client's side of a request.
    pub(crate) fn report(&self, request: &v1::ReportRequest) -> Result<v1::ReportResponse, Status> {
        let (_, name, what) = requests::report_of(request.clone())?;
        self.space(&request.space)?;
        self.desk.request_log.note(&self.tenant, &name, what);
        Ok(v1::ReportResponse {})
    }

    /// What is remembered of one of the tenant's requests.
    pub(crate) fn why(&self, request: &v1::WhyRequest) -> Result<v1::WhyResponse, Status> {
        if !request.tenant.is_empty() && request.tenant != self.tenant {
            let told = format!("requests of another tenant than this attachment's, {:?}", self.tenant);
            return Err(Status::new(Code::PermissionDenied, told));
        }
        let absent = || BadField::new("request", "absent", "name the request");
        let name = requests::name_of(&request.request)?.ok_or_else(absent)?;
        Ok(self.desk.request_log.why(&self.tenant, name))
    }

    /// Ends leases. One that has ended by itself is no error.
    pub(crate) fn release(&self, request: &v1::ReleaseLeasesRequest) -> Result<v1::ReleaseLeasesResponse, Status> {
        let mut released = 0;
        for lease in &request.leases {
            released += u32::from(self.desk.engine.release(ask::lease(lease)?, self.owner).is_ok());
        }
        Ok(v1::ReleaseLeasesResponse { released })
    }
}

/// Whether blocks are to be brought up.
fn stages(min_tier: i32) -> Result<bool, BadField> {
    match v1::Tier::try_from(min_tier) {
        Ok(v1::Tier::Unspecified | v1::Tier::Host) => Ok(true),
        Ok(v1::Tier::Nvme) => Ok(false),
        _ => Err(BadField::new("min_tier", min_tier, "use TIER_HOST (2) or TIER_NVME (3)")),
    }
}

fn placed(acquired: Acquired) -> v1::AcquireResponse {
    let Acquired { lease, loading, blocks, miss, .. } = acquired;
    let first = blocks.first().map_or(0, |block| block.length);
    let uniform = blocks.iter().all(|block| block.length == first);
    v1::AcquireResponse {
        lease: lease.map_or_else(Vec::new, |lease| lease.id.0.to_le_bytes().to_vec()),
        lease_deadline_unix_ms: lease.map_or(0, |lease| lease.deadline_unix_ms),
        loading,
        offsets: blocks.iter().map(|block| block.offset.unwrap_or(0)).collect(),
        length: if uniform { first } else { 0 },
        lengths: if uniform { Vec::new() } else { blocks.iter().map(|block| block.length).collect() },
        crc32: blocks.iter().map(|block| block.crc).collect(),
        generations: blocks.iter().map(|block| block.generation).collect(),
        miss: miss.as_ref().map(answer::miss),
    }
}
