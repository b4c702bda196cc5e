//! `kvtier.identity`: a space's description, digested as the daemon does it.

use kvtier_client::{PartSpec, RankGeometry, SpaceDescription};
use kvtier_identity::KeyRecipe;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::invalid;

/// The attributes of `kvtier.SpaceDescription`.
#[derive(FromPyObject)]
pub(crate) struct Described {
    tenant: String,
    model: String,
    tokens_per_block: u32,
    part_bytes: Vec<u32>,
    weights: String,
    dtype: String,
    kv_quantisation: String,
    layout: String,
    tensor_ranks: u32,
    pipeline_ranks: u32,
    context_ranks: u32,
    attention_backend: String,
    packing: String,
    lora: Option<String>,
    salt: Option<String>,
    key_recipe: String,
    key_seed: String,
}

impl From<Described> for SpaceDescription {
    fn from(given: Described) -> Self {
        Self {
            tenant: given.tenant,
            model: given.model,
            weights: given.weights,
            dtype: given.dtype,
            kv_quantisation: given.kv_quantisation,
            layout: given.layout,
            tokens_per_block: given.tokens_per_block,
            ranks: RankGeometry {
                tensor: given.tensor_ranks,
                pipeline: given.pipeline_ranks,
                context: given.context_ranks,
            },
            attention_backend: given.attention_backend,
            packing: given.packing,
            lora: given.lora,
            salt: given.salt,
            key_recipe: KeyRecipe { name: given.key_recipe, seed: given.key_seed },
            parts: given.part_bytes.into_iter().map(|bytes| PartSpec { bytes }).collect(),
        }
    }
}

/// The fields of `kvtier.SpaceDescription` for a description that came from the daemon.
pub(crate) fn to_python<'py>(py: Python<'py>, description: &SpaceDescription) -> PyResult<Bound<'py, PyAny>> {
    let fields = pyo3::types::PyDict::new(py);
    let parts: Vec<u32> = description.parts.iter().map(|part| part.bytes).collect();
    fields.set_item("tenant", &description.tenant)?;
    fields.set_item("model", &description.model)?;
    fields.set_item("tokens_per_block", description.tokens_per_block)?;
    fields.set_item("part_bytes", pyo3::types::PyTuple::new(py, parts)?)?;
    fields.set_item("weights", &description.weights)?;
    fields.set_item("dtype", &description.dtype)?;
    fields.set_item("kv_quantisation", &description.kv_quantisation)?;
    fields.set_item("layout", &description.layout)?;
    fields.set_item("tensor_ranks", description.ranks.tensor)?;
    fields.set_item("pipeline_ranks", description.ranks.pipeline)?;
    fields.set_item("context_ranks", description.ranks.context)?;
    fields.set_item("attention_backend", &description.attention_backend)?;
    fields.set_item("packing", &description.packing)?;
    fields.set_item("lora", &description.lora)?;
    fields.set_item("salt", &description.salt)?;
    fields.set_item("key_recipe", &description.key_recipe.name)?;
    fields.set_item("key_seed", &description.key_recipe.seed)?;
    py.import("kvtier.identity")?.getattr("SpaceDescription")?.call((), Some(&fields))
}

/// The digest that names a description's space, 32 bytes. No daemon is asked.
#[pyfunction]
pub(crate) fn space_digest<'py>(py: Python<'py>, description: Described) -> PyResult<Bound<'py, PyBytes>> {
    let digest = SpaceDescription::from(description).digest();
    let digest = digest.map_err(|error| invalid(error.field, error.value, error.rule))?;
    Ok(PyBytes::new(py, &digest.0))
}
