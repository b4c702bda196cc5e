//! One row per cell, one column per contestant, and how ours stand: losing rows are there, and marked.

use std::fmt::Write;

use super::field::OURS;
use crate::contest::Standing;

/// One cell: an operation, a block size, so many clients.
pub(super) struct Cell {
    pub(super) operation: &'static str,
    pub(super) clients: usize,
    pub(super) block_bytes: u32,
    pub(super) standing: Standing,
}

/// How a loss is marked.
const LOST: &str = " **lost**";

/// The table of one part. `limit` is a column nobody competes with.
pub(super) fn markdown(cells: &[Cell], limit: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for row in cells.iter().flat_map(|cell| &cell.standing.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let ours: Vec<&str> = names.iter().copied().filter(|name| OURS.contains(name)).collect();
    let mut text = String::from("| what | clients |");
    names.iter().for_each(|name| text += &format!(" {name} |"));
    ours.iter().for_each(|name| text += &format!(" {name} ÷ best rival |"));
    text += &format!(" {} ÷ {limit} |\n|---|--:|", ours.first().unwrap_or(&""));
    text += &"--:|".repeat(names.len() + ours.len() + 1);
    text.push('\n');
    for cell in cells {
        write!(text, "| {} {} | {} |", cell.operation, size(cell.block_bytes), cell.clients)
            .expect("a string takes it");
        let figure =
            |name: &str| cell.standing.median(name).map_or_else(|| "–".to_owned(), |rate| format!("{rate:.2}"));
        names.iter().for_each(|name| text += &format!(" {} |", figure(name)));
        let best = best_rival(&cell.standing, limit);
        for name in &ours {
            text += &format!(" {} |", against(cell.standing.median(name), best));
        }
        let first = ours.first().and_then(|name| cell.standing.median(name));
        let share = first.zip(cell.standing.median(limit)).map(|(rate, limit)| format!("{:.2}", rate / limit));
        text += &format!(" {} |\n", share.unwrap_or_else(|| "–".to_owned()));
    }
    text
}

fn size(bytes: u32) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

/// The fastest of those that are neither ours nor the limit.
fn best_rival(standing: &Standing, limit: &str) -> Option<f64> {
    let rivals = standing.rows.iter().filter(|row| row.name != limit && !OURS.contains(&row.name.as_str()));
    rivals.map(|row| row.median).max_by(f64::total_cmp)
}

fn against(ours: Option<f64>, best: Option<f64>) -> String {
    match ours.zip(best) {
        None => "–".to_owned(),
        Some((ours, best)) if ours < best => format!("{:.2}{LOST}", ours / best),
        Some((ours, best)) => format!("{:.2}", ours / best),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::Row;

    fn cell(figures: &[(&str, f64)]) -> Cell {
        let rows = figures.iter().map(|(name, rate)| Row::of((*name).to_owned(), vec![*rate])).collect();
        let standing = Standing::of_costs("get", "GB/s", rows);
        Cell { operation: "get", clients: 1, block_bytes: 1 << 20, standing }
    }

    #[test]
    fn a_row_that_is_lost_is_there_and_marked() {
        let text =
            markdown(&[cell(&[("kvtier local", 2.0), ("redis-uds", 1.0), ("files", 4.0), ("memcpy", 8.0)])], "memcpy");
        assert!(text.ends_with("| get 1 MiB | 1 | 2.00 | 1.00 | 4.00 | 8.00 | 0.50 **lost** | 0.25 |\n"), "{text}");
    }

    #[test]
    fn the_limit_is_no_rival_and_who_did_not_take_part_has_no_figure() {
        let cells = [cell(&[("kvtier local", 2.0), ("redis-uds", 1.0), ("memcpy", 8.0)]), cell(&[("files", 1.0)])];
        let text = markdown(&cells, "memcpy");
        assert!(text.contains("| get 1 MiB | 1 | 2.00 | 1.00 | 8.00 | – | 2.00 | 0.25 |\n"), "{text}");
        assert!(text.contains("| get 1 MiB | 1 | – | – | – | 1.00 | – | – |\n"), "{text}");
    }
}
