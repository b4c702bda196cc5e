//! Reading requests: every field is checked here or in the engine, and what is wrong is named by its field on the wire.

use std::time::Duration;

use kvtier_engine::catalog::plan::LeaseId;
use kvtier_engine::flow::ask::Durability;
use kvtier_identity::{
    KEY_BYTES_MAX, Key, KeyRecipe, KeyRun, PartSpec, RankGeometry, RunError, SpaceDescription, SpaceDigest,
};
use kvtier_proto::v1;

use super::answer::{BadField, hex};

/// Bytes of a lease's name on the wire.
pub(crate) const LEASE_BYTES: usize = 16;

/// A space by its digest.
pub(crate) fn space(field: &str, bytes: &[u8]) -> Result<SpaceDigest, BadField> {
    let remedy = "a space is named by the 32 bytes that OpenSpace returned";
    let digest = <[u8; 32]>::try_from(bytes).map_err(|_| BadField::new(field, counted(bytes.len()), remedy))?;
    Ok(SpaceDigest(digest))
}

/// A key.
pub(crate) fn key(field: &str, bytes: &[u8]) -> Result<Key, BadField> {
    let remedy = || format!("a key has 1 to {KEY_BYTES_MAX} bytes");
    Key::new(bytes).map_err(|error| BadField::new(field, counted(error.bytes), remedy()))
}

/// A chain of keys. Its length is checked before its keys, so that a wrong chain costs nothing.
pub(crate) fn keys<B: AsRef<[u8]>>(field: &str, chain: &[B], count_max: usize) -> Result<Vec<Key>, BadField> {
    if chain.is_empty() || chain.len() > count_max {
        let remedy = format!("a chain has 1 to {count_max} keys");
        return Err(BadField::new(field, format!("{} keys", chain.len()), remedy));
    }
    let named = |(index, bytes): (usize, &B)| {
        Key::new(bytes.as_ref()).or_else(|_| key(&format!("{field}[{index}]"), bytes.as_ref()))
    };
    chain.iter().enumerate().map(named).collect()
}

/// A chain of packed keys: all of `each` bytes, or of these lengths.
pub(crate) fn key_run<'a>(bytes: &'a [u8], each: u32, lengths: &[u32]) -> Result<KeyRun<'a>, BadField> {
    let run = match each {
        0 => KeyRun::uneven(bytes, lengths),
        each => KeyRun::even(bytes, each as usize),
    };
    match run {
        Ok(run) if run.is_empty() => Err(BadField::new("keys", "0 keys", "a chain has at least one key")),
        Ok(run) => Ok(run),
        Err(RunError::Key { index, source }) => {
            let remedy = format!("a key has 1 to {KEY_BYTES_MAX} bytes");
            Err(BadField::new(format!("keys[{index}]"), counted(source.bytes), remedy))
        }
        Err(RunError::Length { bytes }) => {
            let remedy = "give key_bytes, or in key_lengths the length of every key";
            Err(BadField::new("keys", format!("{} that the lengths do not cut into keys", counted(bytes)), remedy))
        }
    }
}

/// A lease by its name.
pub(crate) fn lease(bytes: &[u8]) -> Result<LeaseId, BadField> {
    let name = <[u8; LEASE_BYTES]>::try_from(bytes).map_err(|_| {
        let value = if bytes.len() < LEASE_BYTES {
            format!("{} (0x{})", counted(bytes.len()), hex(bytes))
        } else {
            counted(bytes.len())
        };
        BadField::new("lease", value, "a lease is named by the 16 bytes that Lookup returned")
    })?;
    Ok(LeaseId(u128::from_le_bytes(name)))
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(ms: impl Into<u64>) -> Duration {
    Duration::from_millis(ms.into())
}

/// When to acknowledge a put.
pub(crate) fn durability(number: i32) -> Result<Durability, BadField> {
    match v1::Durability::try_from(number) {
        Ok(v1::Durability::Unspecified | v1::Durability::Volatile) => Ok(Durability::Volatile),
        Ok(v1::Durability::Durable) => Ok(Durability::Durable),
        Err(_) => Err(BadField::new("durability", number, "use DURABILITY_VOLATILE (1) or DURABILITY_DURABLE (2)")),
    }
}

/// A space's description; the identity crate checks its fields.
pub(crate) fn description(wire: Option<v1::SpaceDescription>) -> Result<SpaceDescription, BadField> {
    let wire = wire.ok_or_else(|| BadField::new("description", "absent", "say what the blocks of this space are"))?;
    let ranks = wire.ranks.map_or_else(RankGeometry::default, |ranks| RankGeometry {
        tensor: ranks.tensor,
        pipeline: ranks.pipeline,
        context: ranks.context,
    });
    let key_recipe = wire.key_recipe.unwrap_or_default();
    Ok(SpaceDescription {
        tenant: wire.tenant,
        model: wire.model,
        weights: wire.weights,
        dtype: wire.dtype,
        kv_quantisation: wire.kv_quantisation,
        layout: wire.layout,
        tokens_per_block: wire.tokens_per_block,
        ranks,
        attention_backend: wire.attention_backend,
        packing: wire.packing,
        lora: wire.lora,
        salt: wire.salt,
        key_recipe: KeyRecipe { name: key_recipe.name, seed: key_recipe.seed },
        parts: wire.part_bytes.into_iter().map(|bytes| PartSpec { bytes }).collect(),
    })
}

/// The same on its way back.
pub(crate) fn wire_description(description: SpaceDescription) -> v1::SpaceDescription {
    let RankGeometry { tensor, pipeline, context } = description.ranks;
    v1::SpaceDescription {
        tenant: description.tenant,
        model: description.model,
        weights: description.weights,
        dtype: description.dtype,
        kv_quantisation: description.kv_quantisation,
        layout: description.layout,
        tokens_per_block: description.tokens_per_block,
        ranks: Some(v1::RankGeometry { tensor, pipeline, context }),
        attention_backend: description.attention_backend,
        packing: description.packing,
        lora: description.lora,
        salt: description.salt,
        key_recipe: Some(v1::KeyRecipe { name: description.key_recipe.name, seed: description.key_recipe.seed }),
        part_bytes: description.parts.into_iter().map(|part| part.bytes).collect(),
    }
}

fn counted(bytes: usize) -> String {
    format!("{bytes} bytes long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_place_in_the_chain() {
        let bad = keys("keys", &[vec![1; 3], vec![1; 65]], 10).unwrap_err();
        assert_eq!(bad, BadField::new("keys[1]", "65 bytes long", "a key has 1 to 64 bytes"));
    }

    #[test]
    fn a_chain_has_at_least_one_key_and_no_more_than_the_bound() {
        for count in [0, 4] {
            let bad = keys("keys.keys", &vec![vec![1; 3]; count], 3).unwrap_err();
            assert_eq!((bad.field.as_str(), bad.value), ("keys.keys", format!("{count} keys")));
        }
        assert_eq!(keys("keys", &vec![vec![1; 3]; 3], 3).map(|keys| keys.len()), Ok(3));
    }

    #[test]
    fn a_lease_goes_out_as_it_comes_in() {
        let id = LeaseId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        assert_eq!(lease(&id.0.to_le_bytes()), Ok(id));
        assert!(lease(&[1, 2]).unwrap_err().value.contains("0x0102"));
    }

    #[test]
    fn a_description_goes_out_as_it_came_in() {
        let description = SpaceDescription {
            lora: Some("adapter".into()),
            ranks: RankGeometry { tensor: 8, pipeline: 2, context: 1 },
            key_recipe: KeyRecipe { name: "vllm-sha256-cbor".into(), seed: "0".into() },
            parts: vec![PartSpec { bytes: 4096 }, PartSpec { bytes: 1 }],
            ..SpaceDescription::single_part("acme", "llama", 16, 1)
        };
        let back = super::description(Some(wire_description(description.clone()))).unwrap();
        assert_eq!(back, description);
        assert_eq!(back.digest(), description.digest());
    }

    #[test]
    fn ranks_that_are_not_told_are_one_of_each() {
        let wire = v1::SpaceDescription { part_bytes: vec![1], ..v1::SpaceDescription::default() };
        assert_eq!(super::description(Some(wire)).unwrap().ranks, RankGeometry::default());
    }
}
