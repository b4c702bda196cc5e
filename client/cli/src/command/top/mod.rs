//! `kvtier top`: a live view of the node.
//!
//! [`model`] turns two statuses into rates, [`view`] draws it into 80 columns and 24 lines or more. The screen is given
//! back whatever happens, and a daemon that goes away is shown as away until it is back.

mod model;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use kvtier_client::{Client, ClientError, wire};
use ratatui::backend::TestBackend;
use ratatui::{DefaultTerminal, Terminal};

use crate::amount::parse_time;
use crate::clock::{Stopwatch, pause};
use crate::connection::GlobalArguments;
use crate::failure::Failure;
use crate::output;
use model::Model;

/// Arguments of `kvtier top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    interval: Duration,
    /// Print one picture as text and end: for logs and for screens that are no terminal
    #[arg(long)]
    once: bool,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    Pause,
    Refresh,
}

impl Top {
    pub(crate) async fn run(self, global: &GlobalArguments) -> Result<(), Failure> {
        if global.json {
            let remedy = "use `kvtier status --json`, again and again if need be";
            return Err(Failure::usage("top is a picture and has no JSON", remedy));
        }
        let client = global.connect().await?;
        let mut model = Model::new(client.endpoint().to_string(), self.interval);
        if self.once {
            return self.print_once(&client, &mut model).await;
        }
        if !std::io::stdout().is_terminal() {
            return Err(Failure::usage("standard output is no terminal", "use --once, or `kvtier status --json`"));
        }
        let mut terminal = ratatui::try_init().map_err(Failure::Output)?;
        let watched = watch(&client, &mut model, &mut terminal, self.interval).await;
        ratatui::restore();
        watched
    }

    /// Two looks, so that there are rates.
    async fn print_once(&self, client: &Client, model: &mut Model) -> Result<(), Failure> {
        look(client, model).await;
        pause(self.interval).await;
        look(client, model).await;
        if let Some(error) = model.failure() {
            return Err(error.clone().into());
        }
        let height = view::lines_needed(model);
        let mut terminal = Terminal::new(TestBackend::new(100, height)).expect("memory has no errors");
        terminal.draw(|frame| view::draw(frame, model)).expect("memory has no errors");
        output::line(as_text(terminal.backend()))
    }
}

async fn watch(
    client: &Client,
    model: &mut Model,
    terminal: &mut DefaultTerminal,
    interval: Duration,
) -> Result<(), Failure> {
    loop {
        if !model.paused {
            look(client, model).await;
        }
        terminal.draw(|frame| view::draw(frame, model)).map_err(Failure::Output)?;
        // Waiting for a key blocks a thread of the pool, never the runtime, and ends with the interval.
        let waiting = tokio::task::spawn_blocking(move || read_wish(interval));
        match waiting.await.expect("reading a key does not panic").map_err(Failure::Output)? {
            Wish::Quit => return Ok(()),
            Wish::Pause => model.paused = !model.paused,
            Wish::Nothing | Wish::Refresh => {}
        }
    }
}

async fn look(client: &Client, model: &mut Model) {
    let watch = Stopwatch::start();
    let status: Result<wire::StatusResponse, ClientError> = client.status().await;
    model.update(status, watch.elapsed());
}

fn read_wish(interval: Duration) -> std::io::Result<Wish> {
    if !event::poll(interval)? {
        return Ok(Wish::Nothing);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => wish(key.code, key.modifiers),
        _ => Wish::Nothing,
    })
}

fn wish(code: KeyCode, modifiers: KeyModifiers) -> Wish {
    match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char('p' | ' ') => Wish::Pause,
        KeyCode::Char('r') => Wish::Refresh,
        _ => Wish::Nothing,
    }
}

/// The picture as lines without trailing blanks.
fn as_text(backend: &TestBackend) -> String {
    let buffer = backend.buffer();
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
