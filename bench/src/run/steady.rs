//! Whether a run was steady: a figure over a run that was still warming up, or that collapsed half-way, is no figure.
//!
//! The measured time is cut into [`PARTS`] equal parts. The run was steady if a straight line through their throughputs
//! rises or falls by at most [`DRIFT_PERCENT_MAX`] of their mean over the whole time, and their standard deviation is at
//! most [`SPREAD_PERCENT_MAX`] of it.

use serde::Serialize;

use super::tally::Window;

/// Parts that are compared.
pub const PARTS: usize = 10;
/// Drift that is steady.
pub const DRIFT_PERCENT_MAX: f64 = 10.0;
/// Spread that is steady.
pub const SPREAD_PERCENT_MAX: f64 = 20.0;

/// What was found.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Steadiness {
    /// `None`: too short to say.
    pub is_steady: Option<bool>,
    /// By how much of the mean the line rises over the run; negative: it falls.
    pub drift_percent: f64,
    /// Standard deviation over the mean.
    pub spread_percent: f64,
    /// The same in words.
    pub verdict: String,
}

/// Looks at the windows of a run; the last one, which is not full, does not count.
pub fn judge(windows: &[Window]) -> Steadiness {
    let whole = &windows[..windows.len().saturating_sub(1)];
    let each = whole.len() / PARTS;
    if each == 0 {
        let verdict = format!("too short to say: fewer than {PARTS} windows of 100 ms");
        return Steadiness { is_steady: None, drift_percent: 0.0, spread_percent: 0.0, verdict };
    }
    let moved = |window: &Window| (window.read_bytes + window.write_bytes) as f64;
    // Lookups move nothing.
    let by_bytes = whole.iter().any(|window| moved(window) > 0.0);
    let amount = |window: &Window| if by_bytes { moved(window) } else { window.requests as f64 };
    let parts: Vec<f64> = whole.chunks_exact(each).map(|part| part.iter().map(amount).sum()).collect();
    of_parts(&parts)
}

fn of_parts(parts: &[f64]) -> Steadiness {
    let count = parts.len() as f64;
    let mean = parts.iter().sum::<f64>() / count;
    let middle = (count - 1.0) / 2.0;
    let offsets = || parts.iter().enumerate().map(|(at, part)| (at as f64 - middle, part - mean));
    let slope = offsets().map(|(x, y)| x * y).sum::<f64>() / offsets().map(|(x, _)| x * x).sum::<f64>();
    let deviation = (offsets().map(|(_, y)| y * y).sum::<f64>() / count).sqrt();
    let (drift_percent, spread_percent) = (slope * (count - 1.0) / mean * 100.0, deviation / mean * 100.0);
    let steady = drift_percent.abs() <= DRIFT_PERCENT_MAX && spread_percent <= SPREAD_PERCENT_MAX;
    let verdict = match steady {
        true => format!("steady: drift {drift_percent:+.1} %, spread {spread_percent:.1} %"),
        false => format!(
            "not steady: drift {drift_percent:+.1} % (at most {DRIFT_PERCENT_MAX} %), spread {spread_percent:.1} % (at most \
             {SPREAD_PERCENT_MAX} %); run longer, or with a longer ramp_time, on a quiet machine"
        ),
    };
    Steadiness { is_steady: Some(steady), drift_percent, spread_percent, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(amount: impl Fn(usize) -> u64) -> Vec<Window> {
        (0..101).map(|at| Window { read_bytes: amount(at), ..Window::default() }).collect()
    }

    #[test]
    fn an_even_run_is_steady_and_a_warming_one_is_not() {
        assert_eq!(judge(&windows(|at| 1000 + at as u64 % 7)).is_steady, Some(true));
        let warming = judge(&windows(|at| 500 + 10 * at as u64));
        assert_eq!(warming.is_steady, Some(false));
        assert!((warming.drift_percent - 90.0).abs() < 5.0, "{warming:?}");
    }

    #[test]
    fn a_run_that_stops_and_goes_is_not_steady() {
        let stop_and_go = judge(&windows(|at| if at / 10 % 2 == 0 { 1000 } else { 100 }));
        assert_eq!(stop_and_go.is_steady, Some(false));
        assert!(stop_and_go.spread_percent > 50.0);
    }

    #[test]
    fn a_short_run_says_nothing() {
        assert_eq!(judge(&windows(|_| 1)[..9]).is_steady, None);
        assert_eq!(judge(&[]).is_steady, None);
    }
}
