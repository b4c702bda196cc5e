//! One request: look its chain up, get what is there and check every byte, put the rest, release the lease.

use std::time::Duration;

use bytes::Bytes;
use kvtier_client::{Client, ClientError, GetAnswer, Lease, Lookup, PutBlock, PutOutcome, SpaceDigest, word};

use super::tally::{GetTime, Puts, Served};
use crate::clock::Stopwatch;
use crate::pattern::Pattern;
use crate::rate::Rate;

/// Longer than any request takes; a worker that dies holds its blocks no longer than this.
const LEASE: Duration = Duration::from_secs(60);

/// What every request needs, shared by all workers.
#[derive(Debug)]
pub(super) struct Workbench {
    pub(super) client: Client,
    pub(super) space: SpaceDigest,
    pub(super) block_bytes: usize,
    pub(super) durable: bool,
    pub(super) pattern: Pattern,
    pub(super) get_rate: Rate,
    pub(super) put_rate: Rate,
}

/// A request's chain, and which of its blocks this client now has.
struct Chain {
    blocks: Vec<u64>,
    keys: Vec<Bytes>,
    had: Vec<bool>,
}

impl Workbench {
    /// Serves one request. An error means nothing was counted and it may be served again.
    pub(super) async fn serve(&self, blocks: Vec<u64>) -> Result<Served, ClientError> {
        let keys: Vec<Bytes> = blocks.iter().map(|block| Bytes::copy_from_slice(&block.to_be_bytes())).collect();
        let mut chain = Chain { had: vec![false; blocks.len()], blocks, keys };
        let mut served = Served { blocks: chain.blocks.len() as u64, ..Served::default() };

        let watch = Stopwatch::start();
        let found = self.client.lookup(self.space, &chain.keys, Some(LEASE)).await?;
        served.lookup = watch.elapsed();
        served.stop = stop_of(&found, chain.blocks.len());
        let moved = self.get_and_put(found.lease.as_ref(), &mut chain, &mut served).await;
        if let Some(lease) = found.lease {
            let released = self.client.release(lease).await;
            moved.and(released)?;
        } else {
            moved?;
        }
        Ok(served)
    }

    async fn get_and_put(
        &self,
        lease: Option<&Lease>,
        chain: &mut Chain,
        served: &mut Served,
    ) -> Result<(), ClientError> {
        if let Some(lease) = lease {
            self.get(lease, chain, served).await?;
        }
        self.put(chain, served).await
    }

    async fn get(&self, lease: &Lease, chain: &mut Chain, served: &mut Served) -> Result<(), ClientError> {
        let _running = self.get_rate.begin();
        let watch = Stopwatch::start();
        let mut answers = self.client.get_lease(lease).await?;
        let mut first_block = None;
        loop {
            match answers.next().await {
                Ok(Some(GetAnswer::Block(block))) => {
                    first_block.get_or_insert_with(|| watch.elapsed());
                    self.get_rate.add_bytes(block.bytes.len() as u64);
                    self.check(block, chain, served);
                }
                Ok(Some(GetAnswer::Miss(missed))) => {
                    *served.lost.entry(word::miss_reason(missed.miss.reason)).or_default() += 1;
                }
                Ok(None) => break,
                Err(ClientError::Corrupt { .. }) => served.verification_errors += 1,
                Err(error) => return Err(error),
            }
        }
        let all = watch.elapsed();
        served.get = first_block.map(|first_block| GetTime { first_block, all });
        served.hit_blocks = chain.had.iter().take_while(|had| **had).count() as u64;
        Ok(())
    }

    /// The client has compared the checksum; this compares every byte with what was put under that number.
    fn check(&self, block: kvtier_client::Block, chain: &mut Chain, served: &mut Served) {
        let at = block.index as usize;
        if !self.pattern.check(chain.blocks[at], &block.bytes, self.block_bytes) {
            served.verification_errors += 1;
            return;
        }
        chain.had[at] = true;
        let bytes = block.bytes.len() as u64;
        served.verified_blocks += 1;
        served.verified_bytes += bytes;
        let tier = served.tiers.entry(word::tier(block.tier as i32)).or_default();
        *tier = (tier.0 + 1, tier.1 + bytes);
    }

    async fn put(&self, chain: &Chain, served: &mut Served) -> Result<(), ClientError> {
        if chain.had.iter().all(|had| *had) {
            return Ok(());
        }
        let _running = self.put_rate.begin();
        let watch = Stopwatch::start();
        let missing = (0..chain.blocks.len()).filter(|&at| !chain.had[at]);
        let outcomes = self.client.put_many(self.space, missing.map(|at| self.block(chain, at))).await?;
        for outcome in outcomes {
            served.puts.count(outcome, self.block_bytes as u64);
        }
        self.put_rate.add_bytes(served.puts.stored_bytes);
        served.put = Some(watch.elapsed());
        Ok(())
    }

    fn block(&self, chain: &Chain, at: usize) -> PutBlock {
        let block = PutBlock::new(chain.keys[at].clone(), self.pattern.make(chain.blocks[at], self.block_bytes));
        let block = if at == 0 { block } else { block.after(chain.keys[at - 1].clone()) };
        if self.durable { block.durable() } else { block }
    }
}

fn stop_of(found: &Lookup, blocks: usize) -> Option<(String, u64)> {
    let behind = (blocks - found.prefix.len()) as u64;
    let reason = found.miss.as_ref().map_or_else(|| "unspecified".to_owned(), |miss| word::miss_reason(miss.reason));
    (behind > 0).then_some((reason, behind))
}

impl Puts {
    fn count(&mut self, outcome: PutOutcome, bytes: u64) {
        match outcome {
            PutOutcome::Stored { .. } | PutOutcome::PartAccepted => {
                self.stored += 1;
                self.stored_bytes += bytes;
            }
            PutOutcome::Duplicate => self.duplicate += 1,
            PutOutcome::Declined { reason, .. } => {
                *self.declined.entry(word::decline_reason(reason as i32)).or_default() += 1;
            }
            PutOutcome::Rejected { field, value, remedy } => {
                self.rejected += 1;
                self.rejection.get_or_insert_with(|| format!("{field} is {value}: {remedy}"));
            }
        }
    }
}
