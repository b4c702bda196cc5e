//! `kvtier lookup`: how much of a chain is resident, where, and why it stops.

use bytes::Bytes;
use kvtier_client::{Lookup as Answer, wire, word};
use serde_json::{Value, json};

use crate::amount::{show_count, show_percent, show_size};
use crate::chain::{Chain, ChainArguments};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::key::show_key;
use crate::output;
use crate::table::{Column, draw};

/// Arguments of `kvtier lookup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Lookup {
    #[command(flatten)]
    chain: ChainArguments,
    /// Name of a request it is for; `kvtier why` tells of it later
    #[arg(long, value_name = "REQUEST")]
    request: Option<String>,
}

impl Lookup {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        let Chain { client, space, keys } = self.chain.open(global).await?;
        let answer = client.lookup_for(self.request.as_deref(), space.space, &keys, None).await?;
        if global.json {
            output::json(&as_json(&keys, &answer))?;
        } else {
            output::line(describe(&keys, &answer))?;
        }
        match answer.prefix.is_empty() {
            true => Err(Failure::missing(
                answer.miss.map_or_else(
                    || "nothing of the chain is resident".to_owned(),
                    |miss| format!("nothing of the chain is resident: {}", explain_miss(&miss)),
                ),
                "put its blocks first",
            )),
            false => Ok(()),
        }
    }
}

/// A miss as one line: the daemon's own words, or else the reason.
pub(crate) fn explain_miss(miss: &wire::Miss) -> String {
    let reason = word::miss_reason(miss.reason).replace('_', " ");
    match miss.detail.as_str() {
        "" => reason,
        detail => detail.to_owned(),
    }
}

/// A miss as JSON.
pub(crate) fn miss_json(miss: &wire::Miss) -> Value {
    json!({
        "reason": word::miss_reason(miss.reason),
        "detail": miss.detail,
        "age_ms": miss.age_ms,
        "tier": word::tier(miss.tier),
    })
}

fn as_json(keys: &[Bytes], answer: &Answer) -> Value {
    let blocks = answer.prefix.iter().zip(keys).map(
        |(block, key)| json!({ "key": show_key(key), "tier": word::tier(block.tier as i32), "bytes": block.length }),
    );
    json!({
        "keys": keys.len(),
        "prefix_blocks": answer.prefix.len(),
        "prefix": blocks.collect::<Vec<_>>(),
        "miss": answer.miss.as_ref().map(miss_json),
    })
}

/// Runs of neighbouring blocks in one tier as one row each: a chain of thousands stays readable.
fn describe(keys: &[Bytes], answer: &Answer) -> String {
    let mut rows = Vec::new();
    let mut first = 0;
    for run in answer.prefix.chunk_by(|one, next| one.tier == next.tier) {
        let bytes: u64 = run.iter().map(|block| u64::from(block.length)).sum();
        let last = first + run.len() - 1;
        let blocks = if first == last { first.to_string() } else { format!("{first} to {last}") };
        rows.push(vec![blocks, word::tier(run[0].tier as i32), show_size(bytes), show_key(&keys[first])]);
        first = last + 1;
    }
    if let Some(miss) = &answer.miss {
        let key = keys.get(first).map(|key| show_key(key)).unwrap_or_default();
        rows.push(vec![format!("{first}"), "miss".into(), "-".into(), key]);
        rows.push(vec![String::new(), explain_miss(miss), String::new(), String::new()]);
    }
    let columns = [Column::Number("blocks"), Column::Text("where"), Column::Number("size"), Column::Text("first key")];
    let (hit, of) = (answer.prefix.len() as u64, keys.len() as u64);
    format!(
        "{}\nlongest resident prefix: {} of {} blocks ({})",
        draw(&columns, rows),
        show_count(hit),
        show_count(of),
        show_percent(hit, of)
    )
}

#[cfg(test)]
mod tests {
    use kvtier_client::{Resident, Tier};

    use super::*;

    #[test]
    fn a_chain_over_two_tiers_is_three_rows() {
        let keys: Vec<Bytes> = (0..4).map(|key| Bytes::from(vec![key])).collect();
        let resident = |tier| Resident { tier, length: 1 << 20 };
        let miss = wire::Miss {
            reason: wire::MissReason::Evicted as i32,
            detail: "evicted from nvme 12 s ago".into(),
            ..Default::default()
        };
        let prefix = vec![resident(Tier::Host), resident(Tier::Host), resident(Tier::Nvme)];
        let answer = Answer { prefix, lease: None, miss: Some(miss) };
        let expected = "\
╭────────┬────────────────────────────┬───────┬───────────╮
│ blocks ┆ where                      ┆  size ┆ first key │
╞════════╪════════════════════════════╪═══════╪═══════════╡
│ 0 to 1 ┆ host                       ┆ 2 MiB ┆ 00        │
│      2 ┆ nvme                       ┆ 1 MiB ┆ 02        │
│      3 ┆ miss                       ┆     - ┆ 03        │
│        ┆ evicted from nvme 12 s ago ┆       ┆           │
╰────────┴────────────────────────────┴───────┴───────────╯
longest resident prefix: 3 of 4 blocks (75.0 %)";
        assert_eq!(describe(&keys, &answer), expected);
        assert_eq!(as_json(&keys, &answer)["miss"]["reason"], "evicted");
        assert_eq!(as_json(&keys, &answer)["prefix"][2]["tier"], "nvme");
    }
}
