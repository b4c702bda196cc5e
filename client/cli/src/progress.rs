//! Progress bars on standard error; invisible when that is not a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over a known number of steps; `unit` names one of them.
pub(crate) fn over(steps: u64, unit: &str, quiet: bool) -> ProgressBar {
    let template =
        format!("{{spinner}} {{bar:30.cyan/blue}} {{human_pos}}/{{human_len}} {unit}  {{eta}} left  {{msg}}");
    shown(ProgressBar::with_draw_target(Some(steps), target(quiet)), &template)
}

/// A bar over bytes.
pub(crate) fn over_bytes(bytes: u64, quiet: bool) -> ProgressBar {
    let template = "{spinner} {bar:30.cyan/blue} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}";
    shown(ProgressBar::with_draw_target(Some(bytes), target(quiet)), template)
}

/// `quiet` is `--json`: whoever parses the output wants nothing else on the screen.
fn target(quiet: bool) -> ProgressDrawTarget {
    if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

fn shown(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.set_style(ProgressStyle::with_template(template).expect("the templates are constant and valid"));
    bar
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_templates_are_valid() {
        super::over(3, "requests", true).inc(1);
        super::over_bytes(3, true).inc(1);
    }
}
