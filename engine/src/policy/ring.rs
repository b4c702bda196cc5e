//! Doubly linked rings over block indexes: what eviction orders are made of.
//!
//! One link per block; the first nodes are the rings' heads, so that unlinking needs no look at the ring. `front` is the
//! hot end. Four bits of each link are the policy's to use (its *tag*), which bounds indexes to 2^28 blocks.

use super::slab::Slab;

const NODE_BITS: u32 = 28;
const NODE_MASK: u32 = (1 << NODE_BITS) - 1;
const UNLINKED: u32 = NODE_MASK;

#[derive(Debug, Clone, Copy)]
struct Link {
    /// Towards the hot end; the tag is in the high bits.
    hotter: u32,
    /// Towards the cold end.
    colder: u32,
}

/// `heads` rings that share one link per block.
#[derive(Debug)]
pub(super) struct Rings {
    links: Slab<Link>,
    heads: u32,
}

impl Rings {
    pub(super) fn new(heads: u32) -> Self {
        let mut links = Slab::new(Link { hotter: UNLINKED, colder: UNLINKED });
        links.reach(heads);
        for head in 0..heads {
            links[head] = Link { hotter: head, colder: head };
        }
        Self { links, heads }
    }

    /// Whether the block is in any ring.
    pub(super) fn contains(&self, index: u32) -> bool {
        let node = self.node(index);
        node < self.links.capacity() && self.links[node].hotter & NODE_MASK != UNLINKED
    }

    /// Puts an unlinked block at the hot end.
    pub(super) fn push_front(&mut self, head: u32, index: u32) {
        self.link(head, index);
    }

    /// Puts an unlinked block at the cold end.
    pub(super) fn push_back(&mut self, head: u32, index: u32) {
        let above = self.links[head].hotter & NODE_MASK;
        self.link(above, index);
    }

    /// Puts an unlinked block just colder than `above`.
    pub(super) fn insert_below(&mut self, above: u32, index: u32) {
        debug_assert!(self.contains(above), "block {above} is in no ring");
        self.link(self.node(above), index);
    }

    /// How many blocks at the start of `run` follow each other in one ring, hot to cold, all with `tag`; at least 1.
    pub(super) fn consecutive(&self, run: &[u32], tag: u8) -> usize {
        let follows = |pair: &[u32]| {
            self.links[self.node(pair[0])].colder == self.node(pair[1])
                && self.tag(pair[0]) == tag
                && self.tag(pair[1]) == tag
        };
        1 + run.windows(2).take_while(|pair| follows(pair)).count()
    }

    /// Moves consecutive blocks to just below `above`, or to the hot end of `head`.
    pub(super) fn move_below(&mut self, above: Option<u32>, head: u32, first: u32, last: u32) {
        let above = above.map_or(head, |above| self.node(above));
        let (first, last) = (self.node(first), self.node(last));
        if self.links[above].colder == first {
            return;
        }
        let hotter = self.links[first].hotter & NODE_MASK;
        let colder = self.links[last].colder;
        assert!(hotter != UNLINKED && colder != UNLINKED, "a block that moves is in a ring");
        self.links[hotter].colder = colder;
        self.set_hotter(colder, hotter);
        let below = self.links[above].colder;
        self.links[above].colder = first;
        self.set_hotter(first, above);
        self.links[last].colder = below;
        self.set_hotter(below, last);
    }

    fn link(&mut self, above: u32, index: u32) {
        let node = self.node(index);
        self.links.reach(node + 1);
        debug_assert!(!self.contains(index), "block {index} is in a ring already");
        let below = self.links[above].colder;
        self.links[above].colder = node;
        let tag = self.links[node].hotter & !NODE_MASK;
        self.links[node] = Link { hotter: tag | above, colder: below };
        self.set_hotter(below, node);
    }

    /// Takes a block out of its ring; the tag stays.
    pub(super) fn unlink(&mut self, index: u32) {
        let node = self.node(index);
        let link = self.links[node];
        let hotter = link.hotter & NODE_MASK;
        assert!(hotter != UNLINKED, "block {index} is in no ring");
        self.links[hotter].colder = link.colder;
        self.set_hotter(link.colder, hotter);
        self.links[node] = Link { hotter: link.hotter | UNLINKED, colder: UNLINKED };
    }

    fn set_hotter(&mut self, node: u32, hotter: u32) {
        let link = &mut self.links[node];
        link.hotter = (link.hotter & !NODE_MASK) | hotter;
    }

    /// The coldest block of a ring.
    pub(super) fn back(&self, head: u32) -> Option<u32> {
        self.block(self.links[head].hotter & NODE_MASK)
    }

    /// The next block towards the hot end.
    pub(super) fn hotter(&self, index: u32) -> Option<u32> {
        self.block(self.links[self.node(index)].hotter & NODE_MASK)
    }

    /// A ring's blocks, coldest first.
    pub(super) fn blocks(&self, head: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(self.back(head), |index| self.hotter(*index))
    }

    /// The policy's four bits.
    pub(super) fn tag(&self, index: u32) -> u8 {
        (self.links[self.node(index)].hotter >> NODE_BITS) as u8
    }

    /// Sets the policy's four bits.
    pub(super) fn set_tag(&mut self, index: u32, tag: u8) {
        debug_assert!(tag < 16);
        let node = self.node(index);
        self.links.reach(node + 1);
        let link = &mut self.links[node];
        link.hotter = (link.hotter & NODE_MASK) | u32::from(tag) << NODE_BITS;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.links.bytes()
    }

    fn node(&self, index: u32) -> u32 {
        let node = index + self.heads;
        debug_assert!(node < UNLINKED, "more than 2^28 blocks");
        node
    }

    fn block(&self, node: u32) -> Option<u32> {
        node.checked_sub(self.heads)
    }
}
