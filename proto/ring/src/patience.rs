//! Whether to look for what is about to come, or to sleep at once.

/// Most turns without a look.
const REST_MAX: u32 = 64;

/// Looking costs a core and saves a wake-up; it is worth it while the other end answers or asks again at once. One look in
/// vain may be the machine's doing: an interrupted partner. After a second one in a row the next turn is slept through,
/// after another the next two, and so on up to 64; one that paid ends that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// Turns to sleep through.
    rest: u32,
    /// What one more look in vain will cost, in turns.
    penalty: u32,
}

impl Patience {
    /// Whether to look this time.
    pub fn takes_turn(&mut self) -> bool {
        let rested = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        rested
    }

    /// Whether it would look, had it a turn now.
    pub fn is_rested(&self) -> bool {
        self.rest == 0
    }

    /// It has looked, and slept in the end.
    pub fn looked_in_vain(&mut self) {
        self.rest = self.penalty;
        self.penalty = (self.penalty * 2).clamp(1, REST_MAX);
    }

    /// It has looked, and something came.
    pub fn was_rewarded(&mut self) {
        self.penalty = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns_until_a_look(patience: &mut Patience) -> u32 {
        (0..).find(|_| patience.takes_turn()).expect("it looks again some time")
    }

    #[test]
    fn looks_in_vain_become_rare_and_one_that_pays_brings_them_back() {
        let mut patience = Patience::default();
        let mut rests = Vec::new();
        for _ in 0..9 {
            rests.push(turns_until_a_look(&mut patience));
            patience.looked_in_vain();
        }
        assert_eq!(rests, [0, 0, 1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(turns_until_a_look(&mut patience), 64);
        patience.was_rewarded();
        assert_eq!(turns_until_a_look(&mut patience), 0);
        patience.looked_in_vain();
        assert_eq!(turns_until_a_look(&mut patience), 0, "once may be the machine's doing");
        patience.looked_in_vain();
        assert_eq!(turns_until_a_look(&mut patience), 1);
    }
}
