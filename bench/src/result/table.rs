//! A result for people, as text that is Markdown too.

use std::fmt::Write;

use super::{Distribution, RunResult};

/// The two figures, the table, and what must be said about them.
pub fn text(result: &RunResult) -> String {
    let mut out = String::new();
    for headline in &result.headlines {
        let value = headline.value.map_or("–".to_owned(), |value| format!("{value:.2} {}", headline.unit));
        push(&mut out, format_args!("{:<36} {value}\n", headline.name));
    }
    out += "\n| job | what | requests/s | GB/s | blocks | hit % | p50 ms | p99 ms | p99.9 ms | p99.99 ms | max ms |\n";
    out += "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for job in &result.jobs {
        for (kind, counted) in job.kinds() {
            let latency = &counted.latency;
            let hit = match kind {
                "put" => "–".to_owned(),
                _ => format!("{:.1}", counted.blocks as f64 * 100.0 / counted.asked_blocks.max(1) as f64),
            };
            push(
                &mut out,
                format_args!(
                    "| {} | {kind} | {:.1} | {:.3} | {} | {hit} | {} | {} | {} | {} | {:.3} |\n",
                    job.name,
                    counted.requests_per_second,
                    counted.gb_per_second,
                    counted.blocks,
                    shown(latency, 50.0),
                    shown(latency, 99.0),
                    shown(latency, 99.9),
                    shown(latency, 99.99),
                    latency.max_us / 1e3,
                ),
            );
        }
    }
    out.push('\n');
    notes(&mut out, result);
    out
}

fn notes(out: &mut String, result: &RunResult) {
    for job in &result.jobs {
        let verified = if job.is_verified { "every byte of every get compared" } else { "bytes summed, NOT compared" };
        let (shape, steady) = (if job.is_open_loop { "open loop" } else { "closed loop" }, &job.steadiness.verdict);
        push(out, format_args!("{}: {shape}; {verified}; {:.1} s; {steady}\n", job.name, job.seconds));
        for (kind, counted) in job.kinds() {
            if counted.declined_blocks + counted.duplicate_blocks + counted.expired > 0 {
                push(
                    out,
                    format_args!(
                        "  {kind}: {} blocks declined, {} there already, {} requests could not begin before the end\n",
                        counted.declined_blocks, counted.duplicate_blocks, counted.expired
                    ),
                );
            }
        }
        for (why, blocks) in &job.misses {
            push(out, format_args!("  {blocks} blocks missing: {why}\n"));
        }
    }
    let facts = &result.facts;
    push(out, format_args!("\ntarget: {} ({})\n", result.target.name, result.target.guarantees));
    let moved = result.target.counters.iter().filter(|(_, rise)| **rise != 0);
    let moved: Vec<String> = moved.map(|(name, rise)| format!("{name} {rise}")).collect();
    if !moved.is_empty() {
        push(out, format_args!("its own count, layout included: {}\n", moved.join(", ")));
    }
    push(
        out,
        format_args!(
            "machine: {}, {} GiB, Linux {}, {}\ncommand: {}\n",
            facts.processor, facts.memory_gib, facts.kernel, facts.date, facts.command
        ),
    );
    out.push_str(
        "latency counts from when a request was due (open loop) or begun (closed loop); – : too few samples beyond\n",
    );
}

/// Milliseconds.
fn shown(latency: &Distribution, at: f64) -> String {
    latency.percentile(at).map_or("–".to_owned(), |us| format!("{:.3}", us / 1e3))
}

fn push(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a string takes everything");
}
