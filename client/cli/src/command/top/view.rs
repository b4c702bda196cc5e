//! Draws the model: headline, one gauge per tier, rates, the recent past, clients, alarms.

use kvtier_client::wire::{StatusResponse, TierStatus};
use kvtier_client::word;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, Wrap};

use super::model::{Model, TierRate};
use crate::amount::{show_count, show_counted, show_percent, show_size, show_time};
use crate::command::status::headline;
use crate::table::bar;

const PAST_LINES: u16 = 5;
const CLIENT_LINES: u16 = 2;
/// Enough for `99.9 %  99.9 GiB of 99.9 TiB, 999,999 blocks  breaker_open`.
const AMOUNTS_WIDTH: u16 = 58;

/// How high a picture of this model is when nothing is cut off.
pub(super) fn lines_needed(model: &Model) -> u16 {
    let (tiers, alarms) = model.status.as_ref().map_or((0, 0), |status| (status.tiers.len(), status.alarms.len()));
    let tiers = u16::try_from(tiers).unwrap_or(u16::MAX).min(8);
    let alarms = u16::try_from(alarms).unwrap_or(u16::MAX).clamp(1, 8);
    1 + (tiers + 2) + (tiers + 3) + PAST_LINES + CLIENT_LINES + (alarms + 2) + 1
}

/// Draws everything; what does not fit is cut at the past and the alarms, never at the tiers.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let Some(status) = &model.status else { return draw_waiting(frame, model) };
    let tiers = u16::try_from(status.tiers.len()).unwrap_or(u16::MAX);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(tiers.saturating_add(2)),
        Constraint::Length(tiers.saturating_add(3)),
        Constraint::Max(PAST_LINES),
        Constraint::Length(CLIENT_LINES),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .split(frame.area());
    frame.render_widget(Line::from(headline(&model.endpoint, status)).bold(), areas[0]);
    draw_tiers(frame, areas[1], status);
    draw_rates(frame, areas[2], status, &model.tiers);
    draw_past(frame, areas[3], model);
    frame.render_widget(Paragraph::new(clients(status)), areas[4]);
    draw_alarms(frame, areas[5], model, status);
    frame.render_widget(footer(model), areas[6]);
}

fn draw_waiting(frame: &mut Frame<'_>, model: &Model) {
    let why = model.failure().map_or_else(|| "waiting for the first status".to_owned(), ToString::to_string);
    frame.render_widget(Paragraph::new(why).wrap(Wrap { trim: true }), frame.area());
}

fn draw_tiers(frame: &mut Frame<'_>, area: Rect, status: &StatusResponse) {
    let block = Block::new().borders(Borders::ALL).title(" tiers ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    for (tier, line) in status.tiers.iter().zip(inner.rows()) {
        let parts = [Constraint::Length(8), Constraint::Min(4), Constraint::Length(AMOUNTS_WIDTH)];
        let [name, gauge, amounts] = Layout::horizontal(parts).areas(line);
        let filled = bar(tier.used_bytes, tier.capacity_bytes, usize::from(gauge.width));
        frame.render_widget(Line::from(word::tier(tier.tier)).bold(), name);
        frame.render_widget(Line::from(filled).fg(colour(tier)), gauge);
        frame.render_widget(Line::from(amounts_of(tier)).style(state_style(tier)), amounts);
    }
}

fn amounts_of(tier: &TierStatus) -> String {
    let percent = show_percent(tier.used_bytes, tier.capacity_bytes);
    let sizes = format!("{} of {}", show_size(tier.used_bytes), show_size(tier.capacity_bytes));
    let state = if tier.state == "up" { String::new() } else { format!("  {}", tier.state) };
    format!(" {percent:>7}  {sizes}, {} blocks{state}", show_count(tier.blocks))
}

fn colour(tier: &TierStatus) -> Color {
    match tier.state.as_str() {
        "up" => Color::Green,
        "recovering" => Color::Yellow,
        _ => Color::Red,
    }
}

fn state_style(tier: &TierStatus) -> Style {
    if tier.state == "up" { Style::new() } else { Style::new().fg(colour(tier)) }
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, status: &StatusResponse, rates: &[TierRate]) {
    let names = ["", "hits", "stores", "evicted", "read", "written", "in flight", "queued", "corrupt"];
    let header = Row::new(names.map(|name| Cell::from(Line::from(name).right_aligned()))).dim();
    let rows = rates.iter().zip(&status.tiers).map(|(rate, tier)| {
        let numbers = [
            show_rate(rate.hits),
            show_rate(rate.stores),
            show_rate(rate.evictions),
            show_size(rate.read_bytes as u64),
            show_size(rate.written_bytes as u64),
            show_count(tier.in_flight),
            show_count(tier.queued),
            show_count(tier.corrupt),
        ];
        let cells = numbers.map(|number| Cell::from(Line::from(number).right_aligned()));
        Row::new([Cell::from(rate.tier.clone()).bold()].into_iter().chain(cells))
    });
    let widths = [6, 7, 7, 8, 9, 9, 9, 7, 7].map(Constraint::Min);
    let block = Block::new().borders(Borders::ALL).title(" per second (the last three: now, now, ever) ");
    frame.render_widget(Table::new(rows, widths).header(header).block(block), area);
}

fn show_rate(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { show_count(rate as u64) }
}

fn draw_past(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let newest = model.history.back().copied().unwrap_or_default();
    let block = Block::new().borders(Borders::ALL).title(format!(" bytes moved: {}/s ", show_size(newest)));
    let width = usize::from(block.inner(area).width);
    let shown = model.history.iter().skip(model.history.len().saturating_sub(width)).copied().collect::<Vec<_>>();
    frame.render_widget(Sparkline::default().data(shown).style(Color::Cyan).block(block), area);
}

fn clients(status: &StatusResponse) -> Vec<Line<'static>> {
    let first = format!(
        " {}   {} on {}   {}   {} pending   {}",
        show_counted(status.connections, "connection"),
        show_counted(status.leases, "lease"),
        show_counted(status.leased_blocks, "block"),
        show_counted(status.pins, "pin"),
        show_counted(status.pending_puts, "put"),
        show_counted(status.spaces, "space")
    );
    let journal = status.journal.as_ref().map_or_else(String::new, |journal| {
        let behind = journal.appended_seq.saturating_sub(journal.durable_seq);
        format!(" journal {}, {}, {} not synced", journal.state, show_size(journal.bytes), show_count(behind))
    });
    let index = status.index.as_ref().map_or_else(String::new, |index| match index.filling {
        true => format!("   index filling: {} blocks", show_count(index.filled_blocks)),
        false => {
            format!("   index {} behind", show_counted(index.applied_seq.saturating_sub(index.covered_seq), "event"))
        }
    });
    vec![Line::from(first), Line::from(journal + &index)]
}

fn draw_alarms(frame: &mut Frame<'_>, area: Rect, model: &Model, status: &StatusResponse) {
    let block = Block::new().borders(Borders::ALL).title(" alarms ");
    let away = model.failure().map(|error| Line::from(error.to_string()).red().bold());
    let alarms = status.alarms.iter().map(|alarm| Line::from(alarm.clone()).red());
    let mut lines: Vec<Line<'_>> = away.into_iter().chain(alarms).collect();
    if lines.is_empty() {
        lines.push(Line::from("none").green());
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), area);
}

fn footer(model: &Model) -> Line<'static> {
    let pace = match model.paused {
        true => "paused".to_owned(),
        false => format!("every {}, status took {}", show_time(model.interval), show_time(model.round_trip)),
    };
    Line::from(format!(" q quit   p pause   r refresh   {pace}")).dim()
}
