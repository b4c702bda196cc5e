//! Line plots as SVG: drawn here, so that a report needs nothing from anywhere.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 24.0;
const RIGHT: f64 = 20.0;
/// Colours that people who see fewer of them can tell apart (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Points from left to right, in axis units.
    pub points: Vec<(f64, f64)>,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it shows, with its unit.
    pub title: String,
    /// Where the plot begins and ends, in axis units.
    pub range: (f64, f64),
    /// Marks: where, and what stands there.
    pub marks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to `max`, with about five marks.
    pub fn linear(title: impl Into<String>, max: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let rough = max / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= rough).unwrap_or(rough);
        let marks = (0..=5).map(|mark| f64::from(mark) * step).filter(|mark| *mark <= max * 1.001);
        Self { title: title.into(), range: (0.0, max), marks: marks.map(|mark| (mark, short(mark))).collect() }
    }

    /// Powers of ten, of values that are given as logarithms.
    pub fn logarithmic(title: impl Into<String>, from: f64, to: f64) -> Self {
        let (from, to) = (from.floor(), to.ceil().max(from.floor() + 1.0));
        let marks = (from as i32..=to as i32).map(|power| (f64::from(power), short(10_f64.powi(power))));
        Self { title: title.into(), range: (from, to), marks: marks.collect() }
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() { "0".to_owned() } else { text.to_owned() }
}

/// A plot as an `<svg>` element.
pub fn svg(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let across = |value: f64| LEFT + (value - x.range.0) / (x.range.1 - x.range.0) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - (value - y.range.0) / (y.range.1 - y.range.0) * (HEIGHT - BOTTOM - TOP);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(title));
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, name) in &x.marks {
        let at = across(*value);
        push(
            &mut out,
            format_args!("<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>"),
        );
        push(
            &mut out,
            format_args!("<text x=\"{at:.1}\" y=\"{:.1}\" class=\"x\">{}</text>\n", bottom + 16.0, escape(name)),
        );
    }
    for (value, name) in &y.marks {
        let at = up(*value);
        push(
            &mut out,
            format_args!("<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>"),
        );
        push(
            &mut out,
            format_args!("<text x=\"{:.1}\" y=\"{:.1}\" class=\"y\">{}</text>\n", LEFT - 6.0, at + 4.0, escape(name)),
        );
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points =
            line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", across(*a), up(b.clamp(y.range.0, y.range.1))));
        let points = points.collect::<Vec<_>>().join(" ");
        push(
            &mut out,
            format_args!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{points}\"/>\n"),
        );
    }
    for (at, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let left = LEFT + 10.0 + at as f64 * 130.0;
        push(&mut out, format_args!("<rect x=\"{left}\" y=\"6\" width=\"12\" height=\"4\" fill=\"{colour}\"/>"));
        push(&mut out, format_args!("<text x=\"{}\" y=\"12\">{}</text>\n", left + 18.0, escape(&line.name)));
    }
    push(
        &mut out,
        format_args!(
            "<text x=\"{}\" y=\"{}\" class=\"x\">{}</text>\n",
            (LEFT + right) / 2.0,
            HEIGHT - 6.0,
            escape(&x.title)
        ),
    );
    push(&mut out, format_args!("<text x=\"4\" y=\"{}\" class=\"unit\">{}</text>\n", TOP - 12.0, escape(&y.title)));
    out + "</svg>\n"
}

fn push(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a string takes everything");
}

/// Text that may stand in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers_within_the_range() {
        let axis = Axis::linear("x", 2.3);
        assert_eq!(axis.marks.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["0", "0.5", "1", "1.5", "2"]);
        let axis = Axis::logarithmic("x", 1.2, 3.4);
        assert_eq!(
            axis.marks.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
            ["10", "100", "1000", "10000"]
        );
    }

    #[test]
    fn points_lie_within_the_plot_and_names_are_escaped() {
        let line = Line { name: "a<b".into(), points: vec![(0.0, 0.0), (1.0, 5.0), (2.0, 99.0)] };
        let svg = svg("t", &Axis::linear("s", 2.0), &Axis::linear("y", 10.0), &[line]);
        assert!(svg.contains("a&lt;b") && svg.contains(&format!("{:.1},{TOP:.1}", WIDTH - RIGHT)), "{svg}");
    }
}
