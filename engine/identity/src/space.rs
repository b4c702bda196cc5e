//! A space: everything that must be equal for two blocks with one key to be interchangeable.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::canonical::Canonical;

/// The most parts one block may have (local ranks × KV-cache groups).
pub const PARTS_MAX: usize = 64;
/// The largest block in bytes, all parts together.
pub const BLOCK_BYTES_MAX: u32 = 64 << 20;
/// The longest text field in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// BLAKE3 of a description's canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpaceDigest(pub [u8; 32]);

/// How the engine computes keys from tokens, so that a router can do it too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyRecipe {
    /// Name of the recipe, e.g. `vllm-sha256-cbor`. Empty: opaque, nobody but the engine can compute keys.
    pub name: String,
    /// Seed of the root hash, if the recipe has one.
    pub seed: String,
}

/// How the model is cut over processes. All default to 1 of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankGeometry {
    /// Tensor-parallel ranks.
    pub tensor: u32,
    /// Pipeline-parallel ranks.
    pub pipeline: u32,
    /// Decode-context-parallel ranks.
    pub context: u32,
}

impl Default for RankGeometry {
    fn default() -> Self {
        Self { tensor: 1, pipeline: 1, context: 1 }
    }
}

/// One independently written part of every block of the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSpec {
    /// Size in bytes. In a space of one part it is the maximum; in a space of several it is exact.
    pub bytes: u32,
}

/// The description a client opens a space with. Its digest is the space's name for ever.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpaceDescription {
    /// Who may read and evict these blocks.
    pub tenant: String,
    /// Model name, for people.
    pub model: String,
    /// Fingerprint of the weights. Two fine-tunes under one model name must differ here.
    pub weights: String,
    /// Element type of the KV bytes, e.g. `bf16`.
    pub dtype: String,
    /// KV quantisation scheme and scales, empty when none.
    pub kv_quantisation: String,
    /// Memory layout of a block's bytes, e.g. `LBHNC`.
    pub layout: String,
    /// Tokens one block covers.
    pub tokens_per_block: u32,
    /// Rank geometry.
    pub ranks: RankGeometry,
    /// Attention backend, as far as it changes the bytes.
    pub attention_backend: String,
    /// CPU ISA or GPU packing, as far as it changes the bytes.
    pub packing: String,
    /// LoRA adapter, unless the engine's key covers it.
    pub lora: Option<String>,
    /// Cache salt, unless the engine's key covers it.
    pub salt: Option<String>,
    /// How keys are computed.
    pub key_recipe: KeyRecipe,
    /// The parts of every block, in their order in the slot.
    pub parts: Vec<PartSpec>,
}

/// What is wrong with a description: the field, the value, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("space field {field} is {value}: {rule}")]
pub struct SpaceError {
    /// The field's name as on the wire.
    pub field: &'static str,
    /// The value as given, shortened.
    pub value: String,
    /// What is allowed.
    pub rule: &'static str,
}

impl SpaceDescription {
    /// A description with one part and nothing but the required fields.
    pub fn single_part(tenant: &str, model: &str, tokens_per_block: u32, block_bytes_max: u32) -> Self {
        Self {
            tenant: tenant.into(),
            model: model.into(),
            tokens_per_block,
            parts: vec![PartSpec { bytes: block_bytes_max }],
            ..Self::default()
        }
    }

    /// Size in bytes of the largest block: all parts together.
    pub fn block_bytes_max(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.bytes)).sum()
    }

    /// Checks every field; the first problem is returned.
    pub fn validate(&self) -> Result<(), SpaceError> {
        let texts = [
            ("tenant", self.tenant.as_str(), true),
            ("model", &self.model, true),
            ("weights", &self.weights, false),
            ("dtype", &self.dtype, false),
            ("kv_quantisation", &self.kv_quantisation, false),
            ("layout", &self.layout, false),
            ("attention_backend", &self.attention_backend, false),
            ("packing", &self.packing, false),
            ("lora", self.lora.as_deref().unwrap_or(""), false),
            ("salt", self.salt.as_deref().unwrap_or(""), false),
            ("key_recipe.name", &self.key_recipe.name, false),
            ("key_recipe.seed", &self.key_recipe.seed, false),
        ];
        for (field, value, required) in texts {
            check_text(field, value, required)?;
        }
        self.validate_numbers()
    }

    fn validate_numbers(&self) -> Result<(), SpaceError> {
        let error = |field, value: String, rule| Err(SpaceError { field, value, rule });
        if self.tokens_per_block == 0 {
            return error("tokens_per_block", "0".into(), "a block covers at least one token");
        }
        if [self.ranks.tensor, self.ranks.pipeline, self.ranks.context].contains(&0) {
            return error("ranks", format!("{:?}", self.ranks), "every rank count is at least 1");
        }
        if self.parts.is_empty() || self.parts.len() > PARTS_MAX {
            return error("parts", self.parts.len().to_string(), "a block has 1 to 64 parts");
        }
        if let Some(index) = self.parts.iter().position(|part| part.bytes == 0) {
            return error("parts", format!("part {index} of 0 bytes"), "a part has at least one byte");
        }
        if self.block_bytes_max() > u64::from(BLOCK_BYTES_MAX) {
            return error("parts", format!("{} bytes in all", self.block_bytes_max()), "a block has at most 64 MiB");
        }
        Ok(())
    }

    /// The bytes the digest is taken over; `docs/FORMAT.md` draws them.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut canonical = Canonical::new(b"kvtier space v1\0");
        let parts: Vec<u8> = self.parts.iter().flat_map(|part| part.bytes.to_le_bytes()).collect();
        canonical
            .text(1, &self.tenant)
            .text(2, &self.model)
            .text(3, &self.weights)
            .text(4, &self.dtype)
            .text(5, &self.kv_quantisation)
            .text(6, &self.layout)
            .number(7, self.tokens_per_block)
            .number(8, self.ranks.tensor)
            .number(9, self.ranks.pipeline)
            .number(10, self.ranks.context)
            .text(11, &self.attention_backend)
            .text(12, &self.packing)
            .optional_text(13, self.lora.as_deref())
            .optional_text(14, self.salt.as_deref())
            .text(15, &self.key_recipe.name)
            .text(16, &self.key_recipe.seed)
            .bytes(17, &parts);
        canonical.finish()
    }

    /// Validates and digests.
    pub fn digest(&self) -> Result<SpaceDigest, SpaceError> {
        self.validate()?;
        Ok(SpaceDigest(blake3::hash(&self.canonical_bytes()).into()))
    }
}

fn check_text(field: &'static str, value: &str, required: bool) -> Result<(), SpaceError> {
    if required && value.is_empty() {
        return Err(SpaceError { field, value: "empty".into(), rule: "it must be set" });
    }
    if value.len() > TEXT_BYTES_MAX {
        let value = format!("{} bytes long", value.len());
        return Err(SpaceError { field, value, rule: "text fields have at most 1024 bytes" });
    }
    if value.chars().any(char::is_control) {
        return Err(SpaceError { field, value: format!("{value:?}"), rule: "control characters are not allowed" });
    }
    Ok(())
}

impl fmt::Debug for SpaceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "space:{self}")
    }
}

impl fmt::Display for SpaceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
