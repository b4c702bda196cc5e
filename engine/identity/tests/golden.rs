//! Golden vectors: these bytes are on disks and in other people's routers. A change here is a format break.

use kvtier_identity::{Key, KeyRecipe, PartSpec, RankGeometry, SpaceDescription, TenantSecret};

fn golden() -> SpaceDescription {
    SpaceDescription {
        tenant: "acme".into(),
        model: "llama-3.1-8b".into(),
        weights: "sha256:00ff".into(),
        dtype: "bf16".into(),
        kv_quantisation: String::new(),
        layout: "LBHNC".into(),
        tokens_per_block: 16,
        ranks: RankGeometry { tensor: 2, pipeline: 1, context: 1 },
        attention_backend: "flash".into(),
        packing: "avx512".into(),
        lora: None,
        salt: Some("pepper".into()),
        key_recipe: KeyRecipe { name: "vllm-sha256-cbor".into(), seed: "vllm-none-hash".into() },
        parts: vec![PartSpec { bytes: 524_288 }, PartSpec { bytes: 524_288 }],
    }
}

#[test]
fn the_digest_of_a_known_description_never_changes() {
    let digest = golden().digest().expect("the golden description is valid");
    assert_eq!(digest.to_string(), "8eb1c070ad54842a46667638ed4d2b9223f863fca34044c9c09ce26ba530e5d8");
}

#[test]
fn the_block_id_of_a_known_key_never_changes() {
    let digest = golden().digest().expect("the golden description is valid");
    let secret = TenantSecret::derive(&[0x42; 32], "acme");
    let id = secret.block_id(&digest, &Key::new(b"golden key").expect("10 bytes"));
    assert_eq!(id.to_string(), "c8cfa8c8804cf7b99861f21911f0a831");
}

#[test]
fn every_field_changes_the_digest() {
    let change: Vec<fn(&mut SpaceDescription)> = vec![
        |d| d.tenant.push('x'),
        |d| d.model.push('x'),
        |d| d.weights.push('x'),
        |d| d.dtype.push('x'),
        |d| d.kv_quantisation.push('x'),
        |d| d.layout.push('x'),
        |d| d.tokens_per_block += 1,
        |d| d.ranks.tensor += 1,
        |d| d.ranks.pipeline += 1,
        |d| d.ranks.context += 1,
        |d| d.attention_backend.push('x'),
        |d| d.packing.push('x'),
        |d| d.lora = Some(String::new()),
        |d| d.salt = None,
        |d| d.key_recipe.name.push('x'),
        |d| d.key_recipe.seed.push('x'),
        |d| d.parts[0].bytes += 1,
        |d| d.parts.push(PartSpec { bytes: 1 }),
        |d| d.parts.truncate(1),
    ];
    let mut digests = vec![golden().digest().expect("valid")];
    for change in change {
        let mut description = golden();
        change(&mut description);
        digests.push(description.digest().expect("still valid"));
    }
    let all = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), all, "two descriptions that differ have one digest");
}

#[test]
fn a_bad_description_names_the_field() {
    let mut description = golden();
    description.parts[1].bytes = 0;
    let error = description.digest().expect_err("a part of 0 bytes");
    assert_eq!((error.field, error.value.as_str()), ("parts", "part 1 of 0 bytes"));
    description = golden();
    description.tenant.clear();
    assert_eq!(description.digest().expect_err("no tenant").field, "tenant");
}
