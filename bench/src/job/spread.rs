//! Distributions: sizes of blocks, lengths of chains, popularity of chains. Each is a function of a seed or of a number, so
//! a run can be repeated and nothing needs to be kept.

use crate::pattern::mix;

use super::amount::{parse_bytes, show_bytes};

/// Largest block a space can have.
const BLOCK_BYTES_MAX: u64 = 64 << 20;

/// Random numbers of a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of a seed, apart from those of the same seed with another salt.
    pub fn new(seed: u64, salt: u64) -> Self {
        Self(mix(seed ^ mix(salt)))
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in [0, 1).
    pub fn fraction(&mut self) -> f64 {
        unit(self.roll())
    }

    /// A whole number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(end)) >> 64) as u64
    }
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Block sizes with their shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Bytes, and per cent of the blocks; the shares add up to 100.
    split: Vec<(u32, f64)>,
}

impl Sizes {
    /// One size.
    pub fn of(bytes: u32) -> Self {
        Self { split: vec![(bytes, 100.0)] }
    }

    /// `bs`: one size.
    pub fn parse_one(text: &str) -> Result<Self, String> {
        match parse_bytes(text)? {
            bytes if bytes <= BLOCK_BYTES_MAX => Ok(Self::of(bytes as u32)),
            _ => Err(format!("a block of {text}; 64 MiB is the largest")),
        }
    }

    /// `bssplit`: `size/percent:size/percent`; those without a percentage share what is left.
    pub fn parse_split(text: &str) -> Result<Self, String> {
        let mut split = Vec::new();
        for part in text.split(':') {
            let (size, share) = part.split_once('/').unwrap_or((part, ""));
            let Self { split: one } = Self::parse_one(size.trim())?;
            let share = match share.trim() {
                "" => None,
                share => match share.parse::<f64>() {
                    Ok(share) if (0.0..=100.0).contains(&share) => Some(share),
                    _ => return Err(format!("{share:?} is no percentage; write bssplit=256k/25:1m/75")),
                },
            };
            split.push((one[0].0, share));
        }
        let given: f64 = split.iter().filter_map(|(_, share)| *share).sum();
        let open = split.iter().filter(|(_, share)| share.is_none()).count();
        if given > 100.001 || (open == 0 && given < 99.999) {
            return Err(format!("the shares of {text:?} add up to {given} %, not to 100"));
        }
        let each = (100.0 - given).max(0.0) / open.max(1) as f64;
        Ok(Self { split: split.into_iter().map(|(size, share)| (size, share.unwrap_or(each))).collect() })
    }

    /// The size, if there is one only.
    pub fn only(&self) -> Option<u32> {
        (self.split.len() == 1).then(|| self.split[0].0)
    }

    /// As it is written.
    pub fn show(&self) -> String {
        match self.only() {
            Some(size) => show_bytes(u64::from(size)),
            None => {
                let part = |(size, share): &(u32, f64)| format!("{}/{share}", show_bytes(u64::from(*size)));
                self.split.iter().map(part).collect::<Vec<_>>().join(":")
            }
        }
    }

    /// The size of a block: always the same for one number.
    pub fn of_block(&self, number: u64) -> u32 {
        let mut left = unit(mix(number ^ 0x5153)) * 100.0;
        for (size, share) in &self.split {
            left -= share;
            if left < 0.0 {
                return *size;
            }
        }
        self.split[self.split.len() - 1].0
    }

    /// The largest.
    pub fn largest(&self) -> u32 {
        self.split.iter().map(|(size, _)| *size).max().unwrap_or(1)
    }

    /// The average.
    pub fn mean(&self) -> f64 {
        self.split.iter().map(|(size, share)| f64::from(*size) * share / 100.0).sum()
    }
}

/// How long chains are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ChainLengths {
    /// All the same.
    Fixed(u32),
    /// Each length between two, both included, as often as another.
    Uniform(u32, u32),
    /// Many short and few long ones, of this mean.
    Geometric(u32),
}

impl ChainLengths {
    /// `16`, `4-64` or `geometric:16`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no chain length; write 16, 4-64 or geometric:16");
        let count = |text: &str| text.trim().parse::<u32>().ok().filter(|count| *count > 0).ok_or_else(wrong);
        if let Some(mean) = text.strip_prefix("geometric:") {
            return Ok(Self::Geometric(count(mean)?));
        }
        match text.split_once('-') {
            None => Ok(Self::Fixed(count(text)?)),
            Some((from, to)) => match (count(from)?, count(to)?) {
                (from, to) if from <= to => Ok(Self::Uniform(from, to)),
                _ => Err(wrong()),
            },
        }
    }

    /// As it is written.
    pub fn show(&self) -> String {
        match self {
            Self::Fixed(count) => count.to_string(),
            Self::Uniform(from, to) => format!("{from}-{to}"),
            Self::Geometric(mean) => format!("geometric:{mean}"),
        }
    }

    /// The length of a chain: always the same for one number.
    pub fn of_chain(&self, chain: u64) -> u32 {
        let fraction = unit(mix(chain ^ 0xc4a1));
        match *self {
            Self::Fixed(count) => count,
            Self::Uniform(from, to) => from + (fraction * f64::from(to - from + 1)) as u32,
            Self::Geometric(1) => 1,
            Self::Geometric(mean) => {
                // The quantile function of a geometric distribution that begins at 1.
                let length = ((1.0 - fraction).ln() / (1.0 - 1.0 / f64::from(mean)).ln()).ceil();
                (length as u32).clamp(1, self.longest())
            }
        }
    }

    /// The longest there can be.
    pub fn longest(&self) -> u32 {
        match *self {
            Self::Fixed(count) => count,
            Self::Uniform(_, to) => to,
            // One chain in three million would be longer.
            Self::Geometric(mean) => mean.saturating_mul(15),
        }
    }

    /// The average.
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Fixed(count) | Self::Geometric(count) => f64::from(count),
            Self::Uniform(from, to) => f64::midpoint(f64::from(from), f64::from(to)),
        }
    }
}

/// How often which chain is asked for; fio's `random_distribution`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Popularity {
    /// All as often.
    Random,
    /// The chain of rank k is asked for with weight 1/k^theta.
    Zipf(f64),
}

impl Popularity {
    /// `random` or `zipf:theta`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no distribution; write random or zipf:0.99");
        match text.split_once(':') {
            None if text == "random" => Ok(Self::Random),
            Some(("zipf", theta)) => match theta.trim().parse::<f64>() {
                Ok(theta) if (0.01..=10.0).contains(&theta) => Ok(Self::Zipf(theta)),
                _ => Err(format!("{theta:?} is no theta of a zipf distribution; 0.01 to 10 are allowed")),
            },
            _ => Err(wrong()),
        }
    }

    /// As it is written.
    pub fn show(&self) -> String {
        match self {
            Self::Random => "random".into(),
            Self::Zipf(theta) => format!("zipf:{theta}"),
        }
    }
}

/// Chooses chains 0..count.
#[derive(Debug, Clone)]
pub struct Choice {
    count: u64,
    zipf: Option<Zipf>,
}

impl Choice {
    /// Of `count` chains, at least 1.
    pub fn new(popularity: Popularity, count: u64) -> Self {
        let zipf = match popularity {
            Popularity::Random => None,
            Popularity::Zipf(theta) => Some(Zipf::new(theta, count)),
        };
        Self { count, zipf }
    }

    /// The next one. Popular ranks are spread over the set, so that neighbours are not alike.
    pub fn choose(&self, dice: &mut Dice) -> u64 {
        match &self.zipf {
            None => dice.below(self.count),
            Some(zipf) => scatter(zipf.rank(dice) - 1, self.count),
        }
    }
}

/// A permutation of 0..count: a step that has no divisor in common with it.
fn scatter(rank: u64, count: u64) -> u64 {
    let mut step = (count as f64 * 0.618_033_988_749_894_9) as u64 | 1;
    while gcd(step, count) != 1 {
        step += 2;
    }
    (u128::from(rank) * u128::from(step) % u128::from(count)) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Zipf by rejection-inversion (Hörmann and Derflinger 1996): exact, and as fast for a billion ranks as for ten.
#[derive(Debug, Clone)]
struct Zipf {
    theta: f64,
    count: f64,
    low: f64,
    high: f64,
    shortcut: f64,
}

impl Zipf {
    fn new(theta: f64, count: u64) -> Self {
        let count = count as f64;
        let mut zipf = Self { theta, count, low: 0.0, high: 0.0, shortcut: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(count + 0.5);
        zipf.shortcut = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// A rank from 1 on.
    fn rank(&self, dice: &mut Dice) -> u64 {
        loop {
            let at = self.high + dice.fraction() * (self.low - self.high);
            let x = self.inverse(at);
            let rank = x.round().clamp(1.0, self.count);
            if rank - x <= self.shortcut || at >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// The integral of the weight; ln for theta 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let power = (1.0 - self.theta) * log;
        if power.abs() < 1e-8 { log * (1.0 + power / 2.0) } else { power.exp_m1() / (1.0 - self.theta) }
    }

    fn inverse(&self, y: f64) -> f64 {
        let power = (y * (1.0 - self.theta)).max(-1.0);
        if power.abs() < 1e-8 { (y * (1.0 - power / 2.0)).exp() } else { (power.ln_1p() / (1.0 - self.theta)).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pearson's statistic against expected shares, per degree of freedom: about 1 when they agree.
    fn disagreement(counts: &[u64], shares: &[f64]) -> f64 {
        let total: u64 = counts.iter().sum();
        let terms = counts.iter().zip(shares).map(|(count, share)| {
            let expected = share * total as f64;
            (*count as f64 - expected).powi(2) / expected
        });
        terms.sum::<f64>() / (counts.len() - 1) as f64
    }

    #[test]
    fn ranks_follow_the_law_of_zipf() {
        for theta in [0.5, 0.99, 1.0, 1.2, 2.0] {
            let zipf = Zipf::new(theta, 50);
            let mut dice = Dice::new(7, 0);
            let mut counts = [0; 50];
            for _ in 0..200_000 {
                counts[zipf.rank(&mut dice) as usize - 1] += 1;
            }
            let weights: Vec<f64> = (1..=50).map(|rank| f64::from(rank).powf(-theta)).collect();
            let sum: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            let off = disagreement(&counts, &shares);
            assert!(off < 1.7, "theta {theta}: {off}");
            // A check that cannot fail would be none: another theta is told apart.
            let other: Vec<f64> = (1..=50).map(|rank| f64::from(rank).powf(-theta - 0.05)).collect();
            let sum: f64 = other.iter().sum();
            assert!(disagreement(&counts, &other.iter().map(|weight| weight / sum).collect::<Vec<_>>()) > 3.0);
        }
    }

    #[test]
    fn every_chain_is_chosen_and_popular_ones_are_spread() {
        for count in [1, 2, 3, 10, 97, 100] {
            let mut seen: Vec<u64> = (0..count).map(|rank| scatter(rank, count)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sizes_come_in_their_shares() {
        let sizes = Sizes::parse_split("4k/10:64k/60:1m").expect("a split");
        let mut counts = [0; 3];
        for number in 0..100_000 {
            counts
                [[4 << 10, 64 << 10, 1 << 20].iter().position(|size| *size == sizes.of_block(number)).expect("one")] +=
                1;
        }
        assert!(disagreement(&counts, &[0.1, 0.6, 0.3]) < 4.0, "{counts:?}");
        assert_eq!(sizes.largest(), 1 << 20);
        assert_eq!(sizes.of_block(3), sizes.of_block(3));
        for text in ["4k/50", "4k/60:8k/50", "4k/x", "0/100", "65m/100", ""] {
            assert!(Sizes::parse_split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn chain_lengths_have_their_mean_and_bounds() {
        for text in ["16", "4-64", "geometric:16"] {
            let lengths = ChainLengths::parse(text).expect("lengths");
            let all: Vec<u32> = (0..100_000).map(|chain| lengths.of_chain(chain)).collect();
            let mean = all.iter().map(|length| f64::from(*length)).sum::<f64>() / all.len() as f64;
            assert!((mean / lengths.mean() - 1.0).abs() < 0.02, "{text}: {mean}");
            assert!(all.iter().all(|length| (1..=lengths.longest()).contains(length)), "{text}");
            assert_eq!(lengths.show(), text);
        }
        for text in ["0", "5-4", "-", "geometric:0", "x"] {
            assert!(ChainLengths::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn geometric_lengths_follow_their_formula() {
        let lengths = ChainLengths::Geometric(4);
        let mut counts = [0; 8];
        for chain in 0..100_000_u64 {
            let length = lengths.of_chain(chain) as usize;
            counts[length.min(8) - 1] += 1;
        }
        let mut shares: Vec<f64> = (0..7).map(|k| 0.25 * 0.75_f64.powi(k)).collect();
        shares.push(0.75_f64.powi(7));
        assert!(disagreement(&counts, &shares) < 3.0, "{counts:?}");
    }
}
