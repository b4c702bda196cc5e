//! Contestants run in turns, in one process, on one machine: the only comparison this harness prints.
//!
//! Every round runs every contestant once, starting with another one each time, so that drift of the machine hits all of
//! them. The figure of a contestant is its median; spread is shown, never hidden.

use std::error::Error;

use serde::Serialize;

/// Fewest rounds whose median may be printed.
pub const ROUNDS_MIN: usize = 5;

/// One measured run: the figure, in the contest's unit.
pub type Run<'a> = Box<dyn FnMut() -> Result<f64, Box<dyn Error>> + 'a>;

/// Who runs against whom.
pub struct Contest<'a> {
    title: String,
    unit: &'static str,
    entries: Vec<(String, Run<'a>)>,
}

/// What came out, first entry first.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// What was measured.
    pub title: String,
    /// Unit of all figures; more is better, except of costs.
    pub unit: &'static str,
    /// One per contestant.
    pub rows: Vec<Row>,
    /// Rounds behind every median. Private, so that a standing is made here only: by turns.
    rounds: usize,
}

/// One contestant's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Who.
    pub name: String,
    /// Median over the rounds.
    pub median: f64,
    /// Smallest figure.
    pub min: f64,
    /// Largest figure.
    pub max: f64,
    /// Every figure in the order it was measured.
    pub values: Vec<f64>,
}

impl<'a> Contest<'a> {
    /// A contest without contestants.
    pub fn new(title: impl Into<String>, unit: &'static str) -> Self {
        Self { title: title.into(), unit, entries: Vec::new() }
    }

    /// Adds a contestant; ratios are given against the second one and later ones.
    pub fn entry(mut self, name: impl Into<String>, run: impl FnMut() -> Result<f64, Box<dyn Error>> + 'a) -> Self {
        self.entries.push((name.into(), Box::new(run)));
        self
    }

    /// Runs all rounds. One warm-up round is measured by nobody.
    pub fn run(mut self, rounds: usize) -> Result<Standing, Box<dyn Error>> {
        if rounds < ROUNDS_MIN {
            return Err(format!("{rounds} rounds: a median needs at least {ROUNDS_MIN}").into());
        }
        for (name, run) in &mut self.entries {
            run().map_err(|error| format!("{name}, warm-up: {error}"))?;
        }
        let mut values = vec![Vec::with_capacity(rounds); self.entries.len()];
        for round in 0..rounds {
            for turn in 0..self.entries.len() {
                let at = (round + turn) % self.entries.len();
                let (name, run) = &mut self.entries[at];
                values[at].push(run().map_err(|error| format!("{name}, round {round}: {error}"))?);
            }
        }
        let names = self.entries.into_iter().map(|(name, _)| name);
        let rows = names.zip(values).map(|(name, values)| Row::of(name, values)).collect();
        Ok(Standing { title: self.title, unit: self.unit, rows, rounds })
    }
}

impl Row {
    /// The figures of one contestant, of at least one round.
    pub fn of(name: String, values: Vec<f64>) -> Self {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        Self { name, median, min, max, values }
    }
}

impl Standing {
    /// What it cost, measured in the same rounds as a contest: rows of figures of which less is better.
    pub fn of_costs(title: impl Into<String>, unit: &'static str, rows: Vec<Row>) -> Self {
        let rounds = rows.iter().map(|row| row.values.len()).min().unwrap_or(0);
        Self { title: title.into(), unit, rows, rounds }
    }

    /// Whether this may be printed: every median has enough rounds, and all have as many as the others, as turns make it.
    pub fn check(&self) -> Result<(), String> {
        let even = self.rows.iter().all(|row| row.values.len() == self.rounds);
        match even && self.rounds >= ROUNDS_MIN {
            true => Ok(()),
            false => Err(format!(
                "{}: not printed, because it was not measured in turns: a comparison has the same {ROUNDS_MIN} or more rounds \
                 of everybody",
                self.title
            )),
        }
    }

    /// Median of the first contestant over the median of the named one.
    pub fn ratio(&self, rival: &str) -> Option<f64> {
        Some(self.rows.first()?.median / self.median(rival)?)
    }

    /// Median of the named one.
    pub fn median(&self, name: &str) -> Option<f64> {
        Some(self.rows.iter().find(|row| row.name == name)?.median)
    }

    /// Markdown rows: title, contestant, median, spread, ratio of the first contestant to this one.
    pub fn markdown(&self) -> String {
        let ours = self.rows.first().map_or(0.0, |row| row.median);
        let mut out = String::new();
        for (place, row) in self.rows.iter().enumerate() {
            let title = if place == 0 { self.title.as_str() } else { "" };
            let ratio = if place == 0 { String::new() } else { format!("{:.2}", ours / row.median) };
            let (name, unit) = (&row.name, self.unit);
            out +=
                &format!("| {title} | {name} | {:.2} {unit} | {:.2}–{:.2} | {ratio} |\n", row.median, row.min, row.max);
        }
        out
    }
}

/// Head of the table [`Standing::markdown`] fills.
pub const MARKDOWN_HEAD: &str = "| what | who | median | min–max | first ÷ this |\n|---|---|--:|--:|--:|\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contest_takes_turns_and_reports_medians() {
        let order = std::cell::RefCell::new(Vec::new());
        let run = |name: &'static str, figure: f64| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(figure)
            }
        };
        let standing =
            Contest::new("x", "GB/s").entry("a", run("a", 2.0)).entry("b", run("b", 4.0)).run(5).expect("5 rounds");
        assert_eq!(standing.ratio("b"), Some(0.5));
        assert_eq!(order.borrow()[2..6], ["a", "b", "b", "a"], "the second round starts with the other one");
    }

    #[test]
    fn fewer_than_five_rounds_are_refused() {
        let refused = Contest::new("x", "GB/s").entry("a", || Ok(1.0)).run(4);
        assert!(refused.expect_err("4 rounds").to_string().contains("at least 5"));
    }

    #[test]
    fn what_was_not_measured_in_turns_is_not_printed() {
        let row = |name: &str, rounds: usize| Row::of(name.into(), vec![1.0; rounds]);
        let check = |rows| Standing::of_costs("x", "ms", rows).check();
        assert!(check(vec![row("a", 1), row("b", 1)]).expect_err("single runs").contains("measured in turns"));
        assert!(check(vec![row("a", 5), row("b", 6)]).is_err());
        assert_eq!(check(vec![row("a", 5), row("b", 5)]), Ok(()));
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert!((Row::of("a".into(), vec![4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < f64::EPSILON);
    }
}
