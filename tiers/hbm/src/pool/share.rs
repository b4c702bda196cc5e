//! Pools of security domains: each has extents of its own on every GPU, so that no domain evicts, fills or waits for another.

use kvtier_engine::port::DeviceGeometry;

/// Cuts the GPUs' pools into one share per weight, in its proportion and in whole extents; the first share gets what is left.
/// For each share its part of every GPU's pool, which may have no room.
pub fn shares(pools: &[DeviceGeometry], weights: &[u64]) -> Vec<Vec<DeviceGeometry>> {
    let whole = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>().max(1);
    let mut shares = vec![Vec::with_capacity(pools.len()); weights.len()];
    for pool in pools {
        let extents = pool.bytes / pool.extent_bytes;
        let mut counts: Vec<u64> =
            weights.iter().map(|weight| (u128::from(extents) * u128::from(*weight) / whole) as u64).collect();
        let given: u64 = counts.iter().sum();
        if let Some(first) = counts.first_mut() {
            *first += extents - given;
        }
        let mut offset = pool.first_extent_offset;
        for (share, count) in shares.iter_mut().zip(counts) {
            let bytes = count * pool.extent_bytes;
            share.push(DeviceGeometry { bytes, first_extent_offset: offset, ..*pool });
            offset += bytes;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(extents: u64) -> DeviceGeometry {
        DeviceGeometry { bytes: extents << 20, extent_bytes: 1 << 20, first_extent_offset: 0 }
    }

    /// First extents and their numbers.
    fn cut(extents: &[u64], weights: &[u64]) -> Vec<Vec<(u64, u64)>> {
        let pools: Vec<_> = extents.iter().map(|extents| pool(*extents)).collect();
        let in_extents = |share: DeviceGeometry| (share.first_extent_offset >> 20, share.bytes >> 20);
        shares(&pools, weights).into_iter().map(|share| share.into_iter().map(in_extents).collect()).collect()
    }

    #[test]
    fn one_domain_has_all_of_it() {
        assert_eq!(cut(&[7, 0], &[5]), [[(0, 7), (0, 0)]]);
    }

    #[test]
    fn domains_have_what_their_weights_say_and_the_first_what_is_left() {
        assert_eq!(cut(&[10, 4], &[2, 1, 1]), [[(0, 6), (0, 2)], [(6, 2), (2, 1)], [(8, 2), (3, 1)]]);
    }

    #[test]
    fn a_share_below_an_extent_has_no_room() {
        assert_eq!(cut(&[3], &[90, 10]), [[(0, 3)], [(3, 0)]]);
        assert_eq!(cut(&[3], &[0, 0]), [[(0, 3)], [(3, 0)]], "weights of nothing");
    }
}
