//! Opening, listing and dropping spaces.

use kvtier_identity::{KeyRecipe, PartSpec, RankGeometry, SpaceDescription, SpaceDigest};

use crate::call::Call;
use crate::{Client, ClientError, wire};

const OPEN: Call = Call::changing("open_space");
const LIST: Call = Call::reading("list_spaces");
const DROP: Call = Call::changing("drop_space");

/// The answer to opening a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedSpace {
    /// How every other call names the space.
    pub space: SpaceDigest,
    /// Whether it was made just now.
    pub created: bool,
}

/// A space that is open on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSpace {
    /// The name for people.
    pub name: String,
    /// How every call names it.
    pub space: SpaceDigest,
    /// What it was opened with.
    pub description: SpaceDescription,
    /// Resident blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Client {
    /// Opens or finds a space. Idempotent for equal descriptions; another description under one name is a `Conflict`.
    pub async fn open_space(&self, name: &str, description: &SpaceDescription) -> Result<OpenedSpace, ClientError> {
        let digest =
            description.digest().map_err(|error| ClientError::invalid(error.field, error.value, error.rule))?;
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = wire::OpenSpaceRequest { name: name.to_owned(), description: Some(to_wire(description)) };
        let response = self.answer(OPEN, deadline, wire.open_space(self.bounded(request, deadline))).await?;
        let space = read_digest(OPEN, &response.space)?;
        if space != digest {
            let detail = format!("the daemon names the space {space}, its description digests to {digest}");
            return Err(ClientError::protocol(OPEN.name, detail));
        }
        Ok(OpenedSpace { space, created: response.created })
    }

    /// Every space that is open on the node.
    pub async fn spaces(&self) -> Result<Vec<OpenSpace>, ClientError> {
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = self.bounded(wire::ListSpacesRequest {}, deadline);
        let response = self.answer(LIST, deadline, wire.list_spaces(request)).await?;
        response.spaces.into_iter().map(read_space).collect()
    }

    /// Forgets a space and all its blocks; how many there were.
    pub async fn drop_space(&self, space: SpaceDigest) -> Result<u64, ClientError> {
        let (mut wire, deadline) = (self.wire(), self.options().call_timeout);
        let request = self.bounded(wire::DropSpaceRequest { space: space.0.to_vec() }, deadline);
        Ok(self.answer(DROP, deadline, wire.drop_space(request)).await?.blocks)
    }
}

fn read_space(space: wire::Space) -> Result<OpenSpace, ClientError> {
    Ok(OpenSpace {
        space: read_digest(LIST, &space.space)?,
        name: space.name,
        description: from_wire(space.description.unwrap_or_default()),
        blocks: space.blocks,
        bytes: space.bytes,
    })
}

fn read_digest(call: Call, bytes: &[u8]) -> Result<SpaceDigest, ClientError> {
    let digest = bytes
        .try_into()
        .map_err(|_| ClientError::protocol(call.name, format!("a space of {} bytes instead of 32", bytes.len())))?;
    Ok(SpaceDigest(digest))
}

/// The description as it stands on the wire.
pub fn to_wire(description: &SpaceDescription) -> wire::SpaceDescription {
    let RankGeometry { tensor, pipeline, context } = description.ranks;
    let KeyRecipe { name, seed } = description.key_recipe.clone();
    wire::SpaceDescription {
        tenant: description.tenant.clone(),
        model: description.model.clone(),
        weights: description.weights.clone(),
        dtype: description.dtype.clone(),
        kv_quantisation: description.kv_quantisation.clone(),
        layout: description.layout.clone(),
        tokens_per_block: description.tokens_per_block,
        ranks: Some(wire::RankGeometry { tensor, pipeline, context }),
        attention_backend: description.attention_backend.clone(),
        packing: description.packing.clone(),
        lora: description.lora.clone(),
        salt: description.salt.clone(),
        key_recipe: Some(wire::KeyRecipe { name, seed }),
        part_bytes: description.parts.iter().map(|part| part.bytes).collect(),
    }
}

/// The inverse of [`to_wire`]. Absent ranks are 1 of 1, an absent key recipe is opaque.
pub fn from_wire(description: wire::SpaceDescription) -> SpaceDescription {
    let ranks = description.ranks.map_or_else(RankGeometry::default, |ranks| RankGeometry {
        tensor: ranks.tensor,
        pipeline: ranks.pipeline,
        context: ranks.context,
    });
    let recipe = description.key_recipe.unwrap_or_default();
    SpaceDescription {
        tenant: description.tenant,
        model: description.model,
        weights: description.weights,
        dtype: description.dtype,
        kv_quantisation: description.kv_quantisation,
        layout: description.layout,
        tokens_per_block: description.tokens_per_block,
        ranks,
        attention_backend: description.attention_backend,
        packing: description.packing,
        lora: description.lora,
        salt: description.salt,
        key_recipe: KeyRecipe { name: recipe.name, seed: recipe.seed },
        parts: description.part_bytes.into_iter().map(|bytes| PartSpec { bytes }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_keeps_its_digest_over_the_wire() {
        let description = SpaceDescription {
            weights: "w".into(),
            dtype: "bf16".into(),
            kv_quantisation: "fp8".into(),
            layout: "LBHNC".into(),
            ranks: RankGeometry { tensor: 2, pipeline: 3, context: 4 },
            attention_backend: "flash".into(),
            packing: "avx512".into(),
            lora: Some("l".into()),
            salt: Some(String::new()),
            key_recipe: KeyRecipe { name: "vllm-sha256-cbor".into(), seed: "s".into() },
            parts: vec![PartSpec { bytes: 1 }, PartSpec { bytes: 2 }],
            ..SpaceDescription::single_part("t", "m", 16, 1)
        };
        assert_eq!(from_wire(to_wire(&description)), description);
    }

    #[test]
    fn a_digest_of_another_length_is_refused() {
        assert!(matches!(read_digest(OPEN, &[1; 31]), Err(ClientError::Protocol { .. })));
    }
}
