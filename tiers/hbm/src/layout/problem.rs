//! What may be wrong with a layout that another process describes.

use super::KvLayout;

/// One thing that is wrong: the field, its value, what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct LayoutProblem {
    /// Name of the field.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Largest count of a dimension; keeps every product below inside 64 bits.
const COUNT_MAX: u32 = 1 << 16;
/// Largest block: a slot with its header page is counted in 32 bits.
const BLOCK_BYTES_MAX: u64 = 1 << 30;
/// Largest stride and offset: more than any GPU has.
const REACH_MAX: u64 = 1 << 46;

impl KvLayout {
    /// Checks everything against the imported memories' sizes and returns *all* problems. A layout that passes cannot make a
    /// device touch a byte outside them, whatever block numbers below `block_count` are asked for.
    pub fn validate(&self, memory_bytes: &[u64]) -> Result<(), Vec<LayoutProblem>> {
        let mut problems = Vec::new();
        let mut refuse = |field, message: String| problems.push(LayoutProblem { field, message });
        self.check_counts(&mut refuse);
        if problems.is_empty() {
            let mut refuse = |field, message: String| problems.push(LayoutProblem { field, message });
            self.check_strides(&mut refuse);
            self.check_reach(memory_bytes, &mut refuse);
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn check_counts(&self, refuse: &mut dyn FnMut(&'static str, String)) {
        let surfaces = self.surfaces.len();
        if !(1..=Self::SURFACES_MAX).contains(&surfaces) {
            refuse("surfaces", format!("there are {surfaces}; describe 1 to {}", Self::SURFACES_MAX));
        }
        if !(1..=2).contains(&self.surfaces_per_layer) {
            let found = self.surfaces_per_layer;
            refuse("surfaces_per_layer", format!("{found} is neither 1 nor 2 (K and V in separate tensors)"));
        } else if !surfaces.is_multiple_of(self.surfaces_per_layer as usize) {
            refuse("surfaces", format!("{surfaces} is not a multiple of {}", self.surfaces_per_layer));
        }
        if !(1..=2).contains(&self.planes) {
            refuse("planes", format!("{} is neither 1 nor 2 (K and V in one tensor)", self.planes));
        }
        for (field, count) in [("tokens", self.tokens), ("heads", self.heads), ("head_elements", self.head_elements)] {
            if !(1..=COUNT_MAX).contains(&count) {
                refuse(field, format!("{count} is not between 1 and {COUNT_MAX}"));
            }
        }
        if ![1, 2, 4].contains(&self.element_bytes) {
            refuse("element_bytes", format!("{} is none of 1, 2 and 4", self.element_bytes));
        }
        if !(1..=u64::from(u32::MAX)).contains(&self.block_count) {
            refuse("block_count", format!("{} is not between 1 and {}", self.block_count, u32::MAX));
        }
        for (field, stride) in self.strides() {
            if stride > REACH_MAX {
                refuse(field, format!("{stride} is more than {REACH_MAX}"));
            }
        }
    }

    fn strides(&self) -> [(&'static str, u64); 4] {
        [
            ("block_stride", self.block_stride),
            ("plane_stride", self.plane_stride),
            ("token_stride", self.token_stride),
            ("head_stride", self.head_stride),
        ]
    }

    /// Nothing overlaps: ordered by stride, each dimension steps over all of those inside it.
    fn check_strides(&self, refuse: &mut dyn FnMut(&'static str, String)) {
        let wide = |count: u32| u64::from(count);
        let counts = [self.block_count, wide(self.planes), wide(self.tokens), wide(self.heads)];
        let mut dimensions: Vec<_> = self.strides().into_iter().zip(counts).filter(|(_, count)| *count > 1).collect();
        dimensions.sort_by_key(|((_, stride), _)| *stride);
        let mut inside = u128::from(self.head_bytes());
        for ((field, stride), count) in dimensions {
            if u128::from(stride) < inside {
                refuse(field, format!("{stride} steps into bytes of its neighbour; at least {inside} would not"));
            } else if !stride.is_multiple_of(u64::from(self.element_bytes)) {
                refuse(field, format!("{stride} is not a multiple of element_bytes, {}", self.element_bytes));
            }
            inside = inside.max(u128::from(stride) * u128::from(count));
        }
        if self.surface_bytes().saturating_mul(self.surfaces.len() as u64) > BLOCK_BYTES_MAX {
            refuse("surfaces", format!("a block of {} bytes is more than {BLOCK_BYTES_MAX}", self.block_bytes()));
        }
    }

    fn check_reach(&self, memory_bytes: &[u64], refuse: &mut dyn FnMut(&'static str, String)) {
        let Some(reach) = self.surface_reach().filter(|reach| *reach <= REACH_MAX) else {
            return refuse("block_count", format!("{} blocks reach further than any memory", self.block_count));
        };
        for (number, surface) in self.surfaces.iter().enumerate() {
            let Some(bytes) = memory_bytes.get(surface.memory as usize) else {
                let (memory, count) = (surface.memory, memory_bytes.len());
                refuse("surfaces", format!("surface {number} names memory {memory}, and {count} were given"));
                continue;
            };
            if surface.offset > REACH_MAX || surface.offset + reach > *bytes {
                let (from, memory) = (surface.offset, surface.memory);
                refuse(
                    "surfaces",
                    format!("surface {number} reaches from {from} over {reach} bytes, memory {memory} has {bytes}"),
                );
            }
            if !surface.offset.is_multiple_of(u64::from(self.element_bytes)) {
                let offset = surface.offset;
                refuse("surfaces", format!("surface {number} begins at {offset}, which is inside an element"));
            }
        }
    }
}
