//! Opening, listing and dropping spaces.

use kvtier_proto::v1;
use tonic::Status;

use super::{Node, answer, ask};

pub(crate) async fn open(node: &Node, request: v1::OpenSpaceRequest) -> Result<v1::OpenSpaceResponse, Status> {
    let description = ask::description(request.description)?;
    if let Some(desk) = node.local.get() {
        desk.open_space(&description.tenant)?;
    }
    let (digest, created) = node.engine.open_space(&request.name, description).await.map_err(answer::status)?;
    Ok(v1::OpenSpaceResponse { space: digest.0.to_vec(), created })
}

pub(crate) fn list(node: &Node) -> v1::ListSpacesResponse {
    let spaces = node.engine.spaces().into_iter().map(|space| v1::Space {
        name: space.name,
        space: space.digest.0.to_vec(),
        description: Some(ask::wire_description(space.description)),
        blocks: space.blocks,
        bytes: space.bytes,
    });
    v1::ListSpacesResponse { spaces: spaces.collect() }
}

pub(crate) async fn forget(node: &Node, request: v1::DropSpaceRequest) -> Result<v1::DropSpaceResponse, Status> {
    let space = ask::space("space", &request.space)?;
    let blocks = node.engine.drop_space(&space).await.map_err(answer::status)?;
    Ok(v1::DropSpaceResponse { blocks })
}
