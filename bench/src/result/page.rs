//! A result as one HTML file that needs nothing else: styles, plots and figures are in it.

use super::plot::{Axis, Line, escape, svg};
use super::{JobResult, RunResult, table};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;\
    background:#fff}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;font-size:13px}\
    td,th{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:right}td:first-child,th:first-child,td.t{text-align:\
    left}.big{font-size:2rem;font-weight:600}.figure{display:inline-block;margin-right:3rem}.warn{color:#b00020}svg{width:\
    100%;height:auto}svg text{font-size:11px;fill:#444}svg text.x{text-anchor:middle}svg text.y{text-anchor:end}svg .grid{\
    stroke:#e4e4e4;stroke-width:1}pre{white-space:pre-wrap;background:#f6f6f6;padding:.8rem;font-size:12px}";

/// The whole page.
pub fn html(result: &RunResult) -> String {
    let title = format!("kvtier-bench: {}", result.target.name);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title><style>{STYLE}</style></head><body>\n\
         <h1>{}</h1>\n<p>{}</p>\n",
        escape(&title),
        escape(&title),
        escape(&result.target.guarantees)
    );
    for headline in &result.headlines {
        let value = headline.value.map_or("–".to_owned(), |value| format!("{value:.2} {}", headline.unit));
        out += &format!("<div class=\"figure\"><div class=\"big\">{value}</div>{}</div>\n", escape(&headline.name));
    }
    out += "<h2>Throughput over time</h2>\n";
    out += &throughput(&result.jobs);
    out += "<h2>Slowest request of each window</h2>\n";
    out += &worst(&result.jobs);
    out += "<h2>Latency by percentile</h2>\n";
    out += &latency(&result.jobs);
    result.jobs.iter().for_each(|job| out += &section(job));
    out += &format!("<h2>As text</h2>\n<pre>{}</pre>\n", escape(&table::text(result)));
    let facts = result.target.facts.iter().map(|(name, value)| row(&[name, value]));
    out += &format!("<h2>Target</h2>\n<table>{}</table>\n", facts.collect::<String>());
    out + "</body></html>\n"
}

fn row(cells: &[&str]) -> String {
    let cells = cells.iter().map(|cell| format!("<td class=\"t\">{}</td>", escape(cell)));
    format!("<tr>{}</tr>\n", cells.collect::<String>())
}

fn seconds(jobs: &[JobResult]) -> f64 {
    jobs.iter().map(|job| job.windows.len() as f64 * job.window_seconds).fold(0.0, f64::max)
}

fn throughput(jobs: &[JobResult]) -> String {
    let mut lines = Vec::new();
    for job in jobs {
        for (name, is_read) in [("get", true), ("put", false)] {
            let bytes = |window: &super::WindowResult| if is_read { window.read_bytes } else { window.write_bytes };
            if job.windows.iter().any(|window| bytes(window) > 0) {
                let rate = |window| bytes(window) as f64 / job.window_seconds / 1e9;
                let points = job.windows.iter().enumerate();
                let points = points.map(|(at, window)| (at as f64 * job.window_seconds, rate(window))).collect();
                lines.push(Line { name: format!("{} {name}", job.name), points });
            }
        }
    }
    let most = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
    let (x, y) = (Axis::linear("seconds", seconds(jobs)), Axis::linear("GB/s", most * 1.05));
    svg("throughput over time", &x, &y, &lines)
}

fn worst(jobs: &[JobResult]) -> String {
    let line = |job: &JobResult| {
        let slow = job.windows.iter().enumerate().filter(|(_, window)| window.requests > 0);
        let points = slow.map(|(at, window)| (at as f64 * job.window_seconds, window.worst_us.max(1.0).log10() - 3.0));
        Line { name: job.name.clone(), points: points.collect() }
    };
    logarithmic(
        "slowest request of each window",
        Axis::linear("seconds", seconds(jobs)),
        jobs.iter().map(line).collect(),
    )
}

fn latency(jobs: &[JobResult]) -> String {
    let mut lines = Vec::new();
    for job in jobs {
        for (kind, counted) in job.kinds() {
            let curve = counted.latency.curve.iter();
            let points = curve.map(|(beyond, us)| (-beyond.log10(), us.max(1.0).log10() - 3.0)).collect();
            lines.push(Line { name: format!("{} {kind}", job.name), points });
        }
    }
    let far = lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(2.0, f64::max);
    let names = ["p0", "p90", "p99", "p99.9", "p99.99", "p99.999"];
    let marks = names.iter().enumerate().map(|(at, name)| (at as f64, (*name).to_owned()));
    let marks = marks.take_while(|(at, _)| *at <= far).collect();
    logarithmic("latency by percentile", Axis { title: "percentile".into(), range: (0.0, far), marks }, lines)
}

/// Milliseconds upwards, as powers of ten.
fn logarithmic(title: &str, x: Axis, lines: Vec<Line>) -> String {
    let heights = || lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let (low, high) = (heights().fold(0.0, f64::min), heights().fold(0.0, f64::max));
    svg(title, &x, &Axis::logarithmic("ms", low, high), &lines)
}

fn section(job: &JobResult) -> String {
    let class = if job.steadiness.is_steady == Some(false) { " class=\"warn\"" } else { "" };
    let mut out = format!("<h2>Job {}</h2>\n<p{class}>{}</p>\n", escape(&job.name), escape(&job.steadiness.verdict));
    out += "<table><tr><th></th><th>requests</th><th>mean ms</th>";
    for at in super::PERCENTILES {
        out += &format!("<th>p{at} ms</th>");
    }
    out += "<th>max ms</th></tr>\n";
    for (kind, counted) in job.kinds() {
        for (name, times) in [("", &counted.latency), (", from its beginning", &counted.service)] {
            out += &format!("<tr><td>{kind}{name}</td><td>{}</td><td>{:.3}</td>", times.count, times.mean_us / 1e3);
            for at in super::PERCENTILES {
                let shown = times.percentile(at).map_or("–".to_owned(), |us| format!("{:.3}", us / 1e3));
                out += &format!("<td>{shown}</td>");
            }
            out += &format!("<td>{:.3}</td></tr>\n", times.max_us / 1e3);
        }
    }
    let settings = job.settings.iter().map(|(name, value)| row(&[name, value])).collect::<String>();
    out + &format!("</table>\n<details><summary>settings</summary><table>{settings}</table></details>\n")
}
