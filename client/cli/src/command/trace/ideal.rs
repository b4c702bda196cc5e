//! What no cache can beat: the hits of one that starts empty, is never full and never forgets.

use std::collections::HashSet;

use super::file::Request;

/// Hits of the longest known prefix, summed over requests served one after another.
pub(super) fn hit_blocks(requests: &[Request]) -> u64 {
    let mut known = HashSet::new();
    let mut hits = 0;
    for request in requests {
        hits += request.blocks().take_while(|block| known.contains(block)).count() as u64;
        known.extend(request.blocks());
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(blocks: &[u64]) -> Request {
        let runs: Vec<(u64, u32)> = blocks.iter().map(|&block| (block, 1)).collect();
        serde_json::from_value(serde_json::json!({ "t": 0, "s": -1, "h": runs })).expect("valid")
    }

    #[test]
    fn only_the_prefix_counts() {
        assert_eq!(hit_blocks(&[request(&[1, 2, 3]), request(&[1, 2, 9]), request(&[8, 2, 3])]), 2);
    }

    #[test]
    fn the_published_figure_of_a_trace_is_reproduced() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/traces/mooncake_conv_dev.rjsonl.zst");
        let trace = super::super::file::TraceFile::read(path.as_ref(), None).expect("reads");
        let blocks: usize = trace.requests.iter().map(|request| request.blocks().count()).sum();
        let percent = hit_blocks(&trace.requests) as f64 * 100.0 / blocks as f64;
        assert!((percent - 34.0).abs() < 0.05, "bench/traces/README.md says 34.0 %, this is {percent:.2} %");
    }
}
