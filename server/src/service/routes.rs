//! Every gRPC service of the daemon behind one router: `kvtier.v1`, health and reflection.

use std::sync::Arc;

use kvtier_engine::port::Spawn;
use kvtier_proto::v1::kv_tier_server::KvTierServer;
use kvtier_proto::v1::local_server::LocalServer;
use kvtier_proto::{DESCRIPTORS, tuning};
use tonic::service::Routes;

use super::Service;
use super::readiness::Readiness;

/// Builds the router. Health follows `readiness` on a task of `spawn`.
pub fn routes(service: Service, readiness: &Arc<Readiness>, spawn: &Arc<dyn Spawn>) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    spawn.spawn("health", Box::pin(readiness.report(reporter)));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were built with this binary");
    let local = LocalServer::new(service.clone()).max_decoding_message_size(tuning::MESSAGE_BYTES_MAX);
    let kvtier = KvTierServer::new(service)
        .max_decoding_message_size(tuning::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(tuning::MESSAGE_BYTES_MAX);
    Routes::new(kvtier).add_service(local).add_service(health).add_service(reflection)
}
