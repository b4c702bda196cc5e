//! Fences: a client's word that slots of an attachment it has lost are not written any more.

use kvtier_proto::v1;
use tonic::Status;

use super::session::{Leaving, Session};
use crate::service::answer::BadField;

impl Session {
    /// Frees what an attachment still holds. An attachment nobody knows holds nothing.
    pub(crate) fn fence(&self, request: &v1::FenceRequest) -> Result<v1::FenceResponse, Status> {
        let name = <[u8; 16]>::try_from(&request.attachment[..]).map_err(|_| {
            let value = format!("{} bytes long", request.attachment.len());
            BadField::new("attachment", value, "an attachment is named by the 16 bytes that Attach returned")
        })?;
        let attachment = u128::from_le_bytes(name);
        let mut freed = 0;
        // The daemon may not have noticed yet that the connection is gone.
        if let Some(lost) = self.desk.find(attachment).filter(|_| attachment != self.attachment) {
            freed += lost.count().iter().map(|(slots, _)| *slots as u32).sum::<u32>();
            lost.close(Leaving::Done);
        }
        Ok(v1::FenceResponse { freed: freed + self.desk.quarantine.fence(attachment) })
    }
}
