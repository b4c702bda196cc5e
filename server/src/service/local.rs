//! `kvtier.v1.Local` over gRPC: the methods of the raw socket, for a client that has attached there and names its attachment
//! in a header.

use std::sync::Arc;

use kvtier_proto::local::ATTACHMENT_HEADER;
use kvtier_proto::v1;
use kvtier_proto::v1::local_server::Local;
use tonic::{Code, Request, Response, Status};

use super::Service;
use super::answer::BadField;
use crate::local::session::Session;

impl Service {
    /// The attached client that a request names.
    fn session_of<T>(&self, request: &Request<T>) -> Result<Arc<Session>, Status> {
        let Some(desk) = self.node.local.get() else {
            return Err(Status::new(Code::Unimplemented, "the local path is off (local.socket)"));
        };
        let remedy = "attach on local.socket and send the attachment in 32 hexadecimal digits";
        let bad = |value: String| Status::from(BadField::new(ATTACHMENT_HEADER, value, remedy));
        let header = request.metadata().get(ATTACHMENT_HEADER).ok_or_else(|| bad("absent".to_owned()))?;
        let digits = header.to_str().ok().filter(|text| text.len() == 32 && text.is_ascii());
        let name = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        let name = name.ok_or_else(|| bad("no such number".to_owned()))?;
        // The digits are those of the bytes as Attach gave them.
        let unknown = || Status::new(Code::NotFound, "no such attachment: it has ended, or never was");
        let session = desk.find(name.swap_bytes()).ok_or_else(unknown)?;
        desk.note_request();
        Ok(session)
    }
}

#[tonic::async_trait]
impl Local for Service {
    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Result<Response<v1::ReserveResponse>, Status> {
        let (call, session) = (self.call("local_reserve"), self.session_of(&request));
        call.answer(async { session?.reserve(request.into_inner()).await }.await)
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        let (call, session) = (self.call("local_commit"), self.session_of(&request));
        call.answer(async { session?.commit(request.into_inner()).await }.await)
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        let (call, session) = (self.call("local_abort"), self.session_of(&request));
        call.answer(session.map(|session| session.abort(request.get_ref())))
    }

    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Result<Response<v1::AcquireResponse>, Status> {
        let (call, session) = (self.call("local_acquire"), self.session_of(&request));
        call.answer(async { session?.acquire(request.into_inner()).await }.await)
    }

    async fn poll(&self, request: Request<v1::PollRequest>) -> Result<Response<v1::AcquireResponse>, Status> {
        let (call, session) = (self.call("local_poll"), self.session_of(&request));
        call.answer(async { session?.poll(request.into_inner()).await }.await)
    }

    async fn release_leases(
        &self,
        request: Request<v1::ReleaseLeasesRequest>,
    ) -> Result<Response<v1::ReleaseLeasesResponse>, Status> {
        let (call, session) = (self.call("local_release"), self.session_of(&request));
        call.answer(session.and_then(|session| session.release(request.get_ref())))
    }

    async fn fence(&self, request: Request<v1::FenceRequest>) -> Result<Response<v1::FenceResponse>, Status> {
        let (call, session) = (self.call("local_fence"), self.session_of(&request));
        call.answer(session.and_then(|session| session.fence(request.get_ref())))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let (call, session) = (self.call("local_report"), self.session_of(&request));
        call.answer(session.and_then(|session| session.report(request.get_ref())))
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyResponse>, Status> {
        let (call, session) = (self.call("local_why"), self.session_of(&request));
        call.answer(session.and_then(|session| session.why(request.get_ref())))
    }

    async fn import_gpu_memory(
        &self,
        request: Request<v1::ImportGpuMemoryRequest>,
    ) -> Result<Response<v1::ImportGpuMemoryResponse>, Status> {
        let (call, session) = (self.call("local_import_gpu_memory"), self.session_of(&request));
        call.answer(async { session?.import_gpu_memory(request.into_inner()).await }.await)
    }

    async fn release_gpu_memory(
        &self,
        request: Request<v1::ReleaseGpuMemoryRequest>,
    ) -> Result<Response<v1::ReleaseGpuMemoryResponse>, Status> {
        let (call, session) = (self.call("local_release_gpu_memory"), self.session_of(&request));
        call.answer(async { session?.release_gpu_memory(request.into_inner()).await }.await)
    }

    async fn load(&self, request: Request<v1::LoadRequest>) -> Result<Response<v1::LoadResponse>, Status> {
        let (call, session) = (self.call("local_load"), self.session_of(&request));
        call.answer(async { session?.load(request.into_inner()).await }.await)
    }

    async fn wait_load(&self, request: Request<v1::WaitLoadRequest>) -> Result<Response<v1::WaitLoadResponse>, Status> {
        let (call, session) = (self.call("local_wait_load"), self.session_of(&request));
        call.answer(async { session?.wait_load(request.into_inner()).await }.await)
    }

    async fn save(&self, request: Request<v1::SaveRequest>) -> Result<Response<v1::SaveResponse>, Status> {
        let (call, session) = (self.call("local_save"), self.session_of(&request));
        call.answer(async { session?.save(request.into_inner()).await }.await)
    }
}
