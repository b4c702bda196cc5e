//! `grpc-tcp` and `grpc-uds`: a client on another machine, or one that may not map memory.
//!
//! Every session is a client of its own with its own connections, on its own thread. The client sums every block it gets
//! (CRC-32) before the consumer reads it: that is what its users pay too.

use bytes::Bytes;
use kvtier_client::{Client, DeclineReason, GetAnswer, PutBlock, PutOutcome, SpaceDigest, word};
use tokio::runtime::Runtime;

use super::node::Node;
use super::{Consumer, Failure, Put, PutTally, Session, Setup, Target};

/// gRPC of one daemon.
pub struct Grpc {
    node: Node,
    over: Over,
    durable: bool,
}

/// What the connection runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// TCP on the loopback interface.
    Tcp,
    /// A unix socket.
    Unix,
}

impl Grpc {
    /// Over all tiers.
    pub fn open(setup: &Setup, over: Over) -> Result<Self, Failure> {
        Ok(Self { node: Node::open(setup, true)?, over, durable: setup.durable })
    }

    fn endpoint(&self) -> Result<String, Failure> {
        let places = self.node.places();
        match self.over {
            Over::Tcp => Ok(format!("http://{}", places.tcp.as_ref().ok_or("the daemon does not listen on TCP")?)),
            Over::Unix => {
                Ok(format!("unix://{}", places.unix.as_ref().ok_or("the daemon has no unix socket")?.display()))
            }
        }
    }
}

impl Target for Grpc {
    fn name(&self) -> String {
        match self.over {
            Over::Tcp => "grpc-tcp".to_owned(),
            Over::Unix => "grpc-uds".to_owned(),
        }
    }

    fn guarantees(&self) -> String {
        let durable = if self.durable { "puts wait until synced" } else { "puts are volatile until written back" };
        format!(
            "CRC-32 of every block, kept, checked on every move between tiers and by the client; {durable}; tenants"
        )
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.node.facts()
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, Failure> {
        self.node.counters()
    }

    fn session(&self, _lane: usize) -> Result<Box<dyn Session>, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect(&self.endpoint()?))?;
        Ok(Box::new(GrpcSession { runtime, client, space: self.node.space(), durable: self.durable }))
    }

    fn settle(&self) -> Result<(), Failure> {
        self.node.settle()
    }

    fn chill(&self) -> Result<(), Failure> {
        self.node.chill()
    }
}

struct GrpcSession {
    runtime: Runtime,
    client: Client,
    space: SpaceDigest,
    durable: bool,
}

impl Session for GrpcSession {
    fn put(&mut self, parent: Option<&Bytes>, blocks: &[Put]) -> Result<PutTally, Failure> {
        let mut parent = parent.cloned();
        let mut requests = Vec::with_capacity(blocks.len());
        for Put { key, bytes } in blocks {
            let request = PutBlock::new(key.clone(), bytes.clone());
            let request = if self.durable { request.durable() } else { request };
            requests.push(match parent.replace(key.clone()) {
                Some(parent) => request.after(parent),
                None => request,
            });
        }
        let mut tally = PutTally::default();
        for outcome in self.runtime.block_on(self.client.put_many(self.space, requests))? {
            match outcome {
                PutOutcome::Stored { .. } | PutOutcome::PartAccepted => tally.stored += 1,
                PutOutcome::Duplicate | PutOutcome::Declined { reason: DeclineReason::UnderWay, .. } => {
                    tally.duplicate += 1;
                }
                PutOutcome::Declined { .. } => tally.declined += 1,
                PutOutcome::Rejected { field, value, remedy } => {
                    return Err(format!("a block was rejected: {field} is {value}: {remedy}").into());
                }
            }
        }
        Ok(tally)
    }

    fn lookup(&mut self, keys: &[Bytes]) -> Result<usize, Failure> {
        Ok(self.runtime.block_on(self.client.lookup(self.space, keys, None))?.prefix.len())
    }

    fn get(&mut self, keys: &[Bytes], consumer: &mut Consumer<'_>) -> Result<(), Failure> {
        let (client, space) = (&self.client, self.space);
        self.runtime.block_on(async move {
            let mut answers = client.get_keys(space, keys).await?;
            while let Some(answer) = answers.next().await? {
                match answer {
                    GetAnswer::Block(block) => consumer.bytes(block.index as usize, &block.bytes),
                    // What comes after a hole is read all the same, and not counted.
                    GetAnswer::Miss(missed) => {
                        consumer.missed(word::miss_reason(missed.miss.reason));
                    }
                }
            }
            Ok(())
        })
    }
}
