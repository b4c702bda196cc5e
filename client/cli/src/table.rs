//! Tables for people: one look for every command.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

/// A column: its heading and whether its cells are numbers, which stand to the right.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Draws rows under columns. Every row has one cell per column.
pub(crate) fn draw(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| {
        let (Column::Text(name) | Column::Number(name)) = column;
        align(Cell::new(name), *column)
    }));
    for row in rows {
        assert_eq!(row.len(), columns.len(), "a row has one cell per column");
        table.add_row(row.into_iter().zip(columns).map(|(cell, column)| align(Cell::new(cell), *column)));
    }
    table.to_string()
}

fn align(cell: Cell, column: Column) -> Cell {
    match column {
        Column::Text(_) => cell,
        Column::Number(_) => cell.set_alignment(CellAlignment::Right),
    }
}

/// A bar of `width` characters, filled to `part` of `whole` in eighths; never empty for something.
pub(crate) fn bar(part: u64, whole: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if part == 0 || whole == 0 {
        return String::new();
    }
    let eighths = ((part as f64 / whole as f64).min(1.0) * (width * 8) as f64).round().max(1.0) as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let columns = [Column::Text("tier"), Column::Number("blocks")];
        let drawn = draw(&columns, [vec!["host".into(), "1,234".into()], vec!["nvme".into(), "9".into()]]);
        let expected = "\
╭──────┬────────╮
│ tier ┆ blocks │
╞══════╪════════╡
│ host ┆  1,234 │
│ nvme ┆      9 │
╰──────┴────────╯";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_and_never_longer() {
        assert_eq!(bar(1, 2, 4), "██");
        assert_eq!(bar(0, 2, 4), "");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(9, 2, 4), "████");
        assert_eq!(bar(5, 0, 4), "");
    }
}
