//! Asking and telling the node itself: status, scrub, drain, delete.

use std::time::Duration;

use bytes::Bytes;
use tonic::Streaming;

use crate::call::Call;
use crate::lookup::{check_chain, to_vecs};
use crate::{Client, ClientError, SpaceDigest, wire};

const STATUS: Call = Call::reading("status");
const SCRUB: Call = Call::reading("scrub");
const DRAIN: Call = Call::changing("drain");
const DELETE: Call = Call::changing("delete");

/// Longest wait for a drain whose own timeout is the daemon's setting.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(600);

/// The progress of one scrub. Dropping it cancels the scrub.
#[derive(Debug)]
pub struct ScrubStream {
    client: Client,
    reports: Streaming<wire::ScrubResponse>,
    done: bool,
}

impl Client {
    /// What the node is doing: tiers, journal, index, alarms.
    pub async fn status(&self) -> Result<wire::StatusResponse, ClientError> {
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        self.answer(STATUS, deadline, wire.status(self.bounded(wire::StatusRequest {}, deadline))).await
    }

    /// Reads and verifies every persistent block now.
    pub async fn scrub(&self) -> Result<ScrubStream, ClientError> {
        let mut wire = self.wire();
        let request = self.open_ended(wire::ScrubRequest {});
        let reports = self.answer(SCRUB, self.options().stall_timeout, wire.scrub(request)).await?;
        Ok(ScrubStream { client: self.clone(), reports, done: false })
    }

    /// Stops stores, writes back what is queued and syncs. `timeout`: `None` is the daemon's own setting.
    pub async fn drain(&self, timeout: Option<Duration>) -> Result<wire::DrainResponse, ClientError> {
        let timeout_ms = timeout.map_or(0, |timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1));
        let deadline = timeout.unwrap_or(DRAIN_WAIT_MAX).saturating_add(self.options().call_timeout);
        let mut wire = self.wire();
        let request = self.bounded(wire::DrainRequest { timeout_ms }, deadline);
        self.answer(DRAIN, deadline, wire.drain(request)).await
    }

    /// Forgets blocks; how many of them were there. Their descendants are left unreachable.
    pub async fn delete(&self, space: SpaceDigest, keys: &[Bytes]) -> Result<u32, ClientError> {
        check_chain(keys)?;
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = wire::DeleteRequest { space: space.0.to_vec(), keys: to_vecs(keys) };
        Ok(self.answer(DELETE, deadline, wire.delete(self.bounded(request, deadline))).await?.deleted)
    }
}

impl ScrubStream {
    /// The next report; `None` after the one that says `done`. Waits at most the stall timeout.
    pub async fn next(&mut self) -> Result<Option<wire::ScrubResponse>, ClientError> {
        if self.done {
            return Ok(None);
        }
        let stall_timeout = self.client.options().stall_timeout;
        let report = match tokio::time::timeout(stall_timeout, self.reports.message()).await {
            Ok(Ok(report)) => report,
            Ok(Err(status)) => return Err(self.client.explain(SCRUB, stall_timeout, &status)),
            Err(_) => return Err(SCRUB.timed_out(stall_timeout)),
        };
        let report = report.ok_or_else(|| ClientError::protocol(SCRUB.name, "the stream ended before it was done"))?;
        self.done = report.done;
        Ok(Some(report))
    }
}
