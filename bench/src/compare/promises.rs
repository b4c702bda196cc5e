//! What each contestant guarantees, from its own documents and sources, as run here. A rate means nothing without it.

/// Markdown. vLLM's file system tier stands for files: a file per block, no more.
pub(super) const TABLE: &str = "\
| promise | kvtier | Redis 7 | Mooncake store 0.3 | a file per block |
|---|---|---|---|---|
| a wrong byte is never handed over | CRC-32 of every block, checked on every move between tiers and by remote clients; a reader in place can ask | no checksum of values | off by default | no checksum |
| a put that was acknowledged survives a power failure | when it was put durably: bytes, then journal, then answer | with `appendfsync always` | no; SSD offload is asynchronous | with fsync of file and folder |
| what is left after a crash | whatever was durable, found again in under a second; host memory is lost | the log, replayed as a whole | memory is lost with its process | every file, also half written ones under another name |
| memory or disk cannot overflow | hard bounds on both, checked at reservation; refusal is an answer | `maxmemory`; the log grows until it is rewritten | segment size; evicts at a watermark | no bound, no eviction |
| who is evicted | never a block before its descendants; leased blocks not at all | single keys, by sampling | objects by lease and soft pin | nobody |
| the longest resident prefix is one question | yes, with a lease on it | no: one question per key | no: one answer per key | no: one look per file |
| tenants | blocks are named by a key of the tenant's; memory is mapped only by tenants that trust each other (`local.tenants`) | users and key patterns by setting | optional name spaces and quotas | permissions |
| authentication, encryption | TLS and mTLS over TCP, peer credentials on the local socket | password, TLS | none | the file system's |
| events that others can follow | durable, numbered, replayed after a gap | key space notifications, lost when nobody listens | ZMQ publisher, optional | none |
| more than one node | no: one daemon per node | replication, cluster | yes: any node's memory over RDMA or TCP | a shared file system |";
