//! `kvtier spaces`: list, open and drop spaces.

use kvtier_client::{OpenSpace, PartSpec, RankGeometry, SpaceDescription};
use serde_json::{Value, json};

use crate::amount::{parse_block_size, show_count, show_size};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;
use crate::space::SpaceArguments;
use crate::table::{Column, draw};

/// Subcommands of `kvtier spaces`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Spaces {
    /// Every open space
    List,
    /// Open a space; nothing happens if it is open with the same description
    Open(Box<Open>),
    /// Forget a space and all its blocks
    Drop(Drop),
}

/// Arguments of `kvtier spaces open`: everything that must be equal for two blocks to be interchangeable.
#[derive(Debug, clap::Args)]
pub(crate) struct Open {
    /// Name for people, 1 to 128 bytes
    name: String,
    /// Who may read and evict these blocks
    #[arg(long)]
    tenant: String,
    /// Model name
    #[arg(long)]
    model: String,
    /// Tokens one block covers
    #[arg(long, value_name = "TOKENS")]
    tokens_per_block: u32,
    /// Size of each part of a block, in order: one size is the maximum of a block in one part, several are exact
    #[arg(long, value_name = "SIZE", value_delimiter = ',', required = true, value_parser = parse_block_size)]
    part_bytes: Vec<u32>,
    /// Fingerprint of the weights
    #[arg(long, default_value = "")]
    weights: String,
    /// Element type of the KV bytes, e.g. bf16
    #[arg(long, default_value = "")]
    dtype: String,
    /// KV quantisation scheme and scales
    #[arg(long, default_value = "")]
    kv_quantisation: String,
    /// Memory layout of a block, e.g. LBHNC
    #[arg(long, default_value = "")]
    layout: String,
    /// Ranks: tensor, pipeline, context
    #[arg(long, value_name = "T,P,C", value_delimiter = ',', num_args = 1, default_value = "1,1,1")]
    ranks: Vec<u32>,
    /// Attention backend, as far as it changes the bytes
    #[arg(long, default_value = "")]
    attention_backend: String,
    /// CPU or GPU packing, as far as it changes the bytes
    #[arg(long, default_value = "")]
    packing: String,
    /// LoRA adapter, unless the key covers it
    #[arg(long)]
    lora: Option<String>,
    /// Cache salt, unless the key covers it
    #[arg(long)]
    salt: Option<String>,
    /// How keys are computed, e.g. vllm-sha256-cbor
    #[arg(long, default_value = "")]
    key_recipe: String,
    /// Seed of the key recipe
    #[arg(long, default_value = "")]
    key_seed: String,
}

/// Arguments of `kvtier spaces drop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Drop {
    /// Space to forget, by name or digest
    name: String,
    /// Really do it: its blocks cannot be brought back
    #[arg(long)]
    yes: bool,
}

impl Spaces {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        match self {
            Self::List => list(global).await,
            Self::Open(open) => open.run(global).await,
            Self::Drop(drop) => drop.run(global).await,
        }
    }
}

async fn list(global: &GlobalArguments) -> Result<(), Failure> {
    let spaces = global.connect().await?.spaces().await?;
    if global.json {
        let spaces: Vec<Value> = spaces.iter().map(as_json).collect();
        return output::json(&json!({ "spaces": spaces }));
    }
    if spaces.is_empty() {
        return output::line("no space is open; `kvtier put` opens one for files, `kvtier spaces open` any other");
    }
    output::line(describe(&spaces))
}

fn describe(spaces: &[OpenSpace]) -> String {
    let columns = [
        Column::Text("name"),
        Column::Text("tenant"),
        Column::Text("model"),
        Column::Number("block up to"),
        Column::Number("tokens"),
        Column::Number("blocks"),
        Column::Number("bytes"),
        Column::Text("digest"),
    ];
    let rows = spaces.iter().map(|space| {
        let description = &space.description;
        vec![
            space.name.clone(),
            description.tenant.clone(),
            description.model.clone(),
            show_size(description.block_bytes_max()),
            description.tokens_per_block.to_string(),
            show_count(space.blocks),
            show_size(space.bytes),
            format!("{}…", &space.space.to_string()[..12]),
        ]
    });
    draw(&columns, rows)
}

fn as_json(space: &OpenSpace) -> Value {
    json!({
        "name": space.name,
        "space": space.space.to_string(),
        "blocks": space.blocks,
        "bytes": space.bytes,
        "description": space.description,
    })
}

impl Open {
    async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let (name, description) = self.description()?;
        let opened = global.connect().await?.open_space(&name, &description).await?;
        if global.json {
            let space = opened.space.to_string();
            return output::json(&json!({ "name": name, "space": space, "created": opened.created }));
        }
        let done = if opened.created { "opened" } else { "was open already:" };
        output::line(format!("{done} {name}\n{}", opened.space))
    }

    fn description(self) -> Result<(String, SpaceDescription), Failure> {
        let &[tensor, pipeline, context] = self.ranks.as_slice() else {
            let what = format!("--ranks has {} numbers", self.ranks.len());
            return Err(Failure::usage(what, "write three, such as 8,1,1: tensor, pipeline, context"));
        };
        let mut description = SpaceDescription {
            tenant: self.tenant,
            model: self.model,
            weights: self.weights,
            dtype: self.dtype,
            kv_quantisation: self.kv_quantisation,
            layout: self.layout,
            tokens_per_block: self.tokens_per_block,
            ranks: RankGeometry { tensor, pipeline, context },
            attention_backend: self.attention_backend,
            packing: self.packing,
            lora: self.lora,
            salt: self.salt,
            parts: self.part_bytes.into_iter().map(|bytes| PartSpec { bytes }).collect(),
            ..SpaceDescription::default()
        };
        description.key_recipe.name = self.key_recipe;
        description.key_recipe.seed = self.key_seed;
        Ok((self.name, description))
    }
}

impl Drop {
    async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let client = global.connect().await?;
        let space = SpaceArguments { space: self.name }.find(&client).await?;
        if !self.yes {
            let what =
                format!("space {} holds {} blocks, {}", space.name, show_count(space.blocks), show_size(space.bytes));
            return Err(Failure::usage(what, "add --yes to forget them all"));
        }
        let blocks = client.drop_space(space.space).await?;
        if global.json {
            return output::json(&json!({ "name": space.name, "dropped_blocks": blocks }));
        }
        output::line(format!("dropped {} and its {} blocks", space.name, show_count(blocks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_tells_spaces_apart() {
        let description = SpaceDescription::single_part("acme", "llama-3.1-8b", 16, 2 << 20);
        let space = description.digest().expect("valid");
        let digest = space.to_string();
        let listed = OpenSpace { name: "llama".into(), space, description, blocks: 12_345, bytes: 5 << 30 };
        let expected = format!(
            "\
╭───────┬────────┬──────────────┬─────────────┬────────┬────────┬───────┬───────────────╮
│ name  ┆ tenant ┆ model        ┆ block up to ┆ tokens ┆ blocks ┆ bytes ┆ digest        │
╞═══════╪════════╪══════════════╪═════════════╪════════╪════════╪═══════╪═══════════════╡
│ llama ┆ acme   ┆ llama-3.1-8b ┆       2 MiB ┆     16 ┆ 12,345 ┆ 5 GiB ┆ {}… │
╰───────┴────────┴──────────────┴─────────────┴────────┴────────┴───────┴───────────────╯",
            &digest[..12]
        );
        assert_eq!(describe(std::slice::from_ref(&listed)), expected);
        assert_eq!(as_json(&listed)["description"]["tenant"], "acme");
    }
}
