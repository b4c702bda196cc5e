//! KV bytes per token of models people run.
//!
//! layers × (K and V) × KV heads × head dimension × bytes per number; for MLA layers × (latent + rope) × bytes. The numbers
//! are those of the models' published `config.json`. With tensor parallelism of `tp` a rank holds `1/tp` of the KV heads,
//! at least one head; an MLA latent is not divided.

/// What a token costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// What it is called in a job.
    pub name: &'static str,
    /// Layers that keep KV.
    pub layers: u32,
    /// KV heads; 0: MLA.
    pub kv_heads: u32,
    /// Numbers per head; for MLA the latent and the rope part together.
    pub head_dim: u32,
    /// Bytes per number.
    pub dtype_bytes: u32,
}

const fn model(name: &'static str, layers: u32, kv_heads: u32, head_dim: u32) -> Model {
    Model { name, layers, kv_heads, head_dim, dtype_bytes: 2 }
}

/// All that have a name here.
pub const MODELS: &[Model] = &[
    model("smollm2-135m", 30, 3, 64),
    model("llama-3.2-1b", 16, 8, 64),
    model("llama-3.1-8b", 32, 8, 128),
    model("llama-3.1-70b", 80, 8, 128),
    model("llama-3.1-405b", 126, 8, 128),
    model("mistral-7b", 32, 8, 128),
    model("qwen2.5-7b", 28, 4, 128),
    model("qwen2.5-32b", 64, 8, 128),
    model("qwen3-8b", 36, 8, 128),
    model("qwen3-32b", 64, 8, 128),
    model("qwen3-coder-30b-a3b", 48, 4, 128),
    model("deepseek-v3", 61, 0, 576),
];

impl Model {
    /// Finds one by its name.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        MODELS.iter().find(|model| model.name == name).ok_or_else(|| {
            let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
            let nearest = super::keys::nearest(name, names.iter().copied());
            format!("{name:?} is no model with a known KV size; {nearest}known: {}", names.join(", "))
        })
    }

    /// Bytes of one token on one rank of `tp`.
    pub fn token_bytes(&self, tp: u32) -> u32 {
        let per_layer = match self.kv_heads {
            0 => self.head_dim,
            heads => 2 * heads.div_ceil(tp.max(1)).max(1) * self.head_dim,
        };
        self.layers * per_layer * self.dtype_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_per_token_are_those_others_publish() {
        let bytes = |name, tp| Model::named(name).expect("known").token_bytes(tp);
        assert_eq!(bytes("llama-3.1-8b", 1), 128 << 10);
        assert_eq!(bytes("llama-3.1-70b", 1), 320 << 10);
        assert_eq!(bytes("llama-3.1-70b", 8), 40 << 10);
        assert_eq!(bytes("smollm2-135m", 1), 23_040);
        assert_eq!(bytes("qwen3-coder-30b-a3b", 1), 96 << 10);
        // MLA: the latent is the same on every rank.
        assert_eq!(bytes("deepseek-v3", 8), 70_272);
    }

    #[test]
    fn more_ranks_than_heads_copy_the_heads() {
        assert_eq!(Model::named("smollm2-135m").expect("known").token_bytes(8), 30 * 2 * 64 * 2);
    }

    #[test]
    fn an_unknown_model_is_refused_with_the_nearest() {
        assert!(Model::named("llama-3.1-80b").expect_err("unknown").contains("llama-3.1-8"));
    }
}
