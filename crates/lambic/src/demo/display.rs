//! The demo on a terminal: rates, lag, frontiers, top rows; `q` leaves.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use ratatui::{
    Frame as Screen,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Row, Sparkline, Table},
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Stage,
    frame::{Frame, Phase, grouped},
};
use crate::{output::Rows, server::Addresses};

const REDRAW: Duration = Duration::from_millis(100);

/// What shows the frames, until the demo is done.
pub enum Viewer {
    Plain(JoinHandle<()>),
    Terminal(JoinHandle<anyhow::Result<()>>),
}

impl Viewer {
    pub async fn end(self) -> anyhow::Result<()> {
        match self {
            Viewer::Plain(task) => task.await.context("the printer broke off"),
            Viewer::Terminal(task) => task.await.context("the display broke off")?,
        }
    }
}

pub fn start(
    stage: Arc<Stage>,
    frames: watch::Receiver<Frame>,
    addresses: Addresses,
) -> anyhow::Result<Viewer> {
    // `init` also restores the terminal when the program panics.
    let terminal =
        ratatui::try_init().context("cannot use the terminal; pipe the output for plain lines")?;
    Ok(Viewer::Terminal(tokio::task::spawn_blocking(move || {
        let ended = show(terminal, &stage, &frames, &addresses);
        ratatui::restore();
        stage
            .stop
            .send_if_modified(|stop| ended.is_err() && !std::mem::replace(stop, true));
        ended
    })))
}

fn show(
    mut terminal: ratatui::DefaultTerminal,
    stage: &Stage,
    frames: &watch::Receiver<Frame>,
    addresses: &Addresses,
) -> anyhow::Result<()> {
    loop {
        let frame = frames.borrow().clone();
        terminal.draw(|screen| draw(screen, &frame, addresses))?;
        if *stage.phase.lock().expect("no holder of the phase panics") == Phase::Done {
            return Ok(());
        }
        if event::poll(REDRAW)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let interrupt =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                stage.stop.send_replace(true);
            }
        }
    }
}

fn draw(screen: &mut Screen, frame: &Frame, addresses: &Addresses) {
    let views = frame.views.len() as u16 + 3;
    let [head, rates, middle, tops, events] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(5),
        Constraint::Length(views),
        Constraint::Length(11),
        Constraint::Min(3),
    ])
    .areas(screen.area());
    draw_head(screen, head, frame, addresses);
    let block = titled(format!(
        " flights {}  ·  {} rows/s  ·  alerts {} ",
        grouped(frame.records("flights")),
        grouped(frame.rows_per_s as u64),
        grouped(frame.records("alerts"))
    ));
    let width = rates.width.saturating_sub(2) as usize;
    let newest = &frame.rates[frame.rates.len().saturating_sub(width)..];
    screen.render_widget(
        Sparkline::default()
            .data(newest)
            .style(Color::Green)
            .block(block),
        rates,
    );
    draw_views(screen, middle, frame);
    let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(tops);
    draw_rows(
        screen,
        left,
        " busiest routes (view, exact to the head) ",
        &frame.busiest,
    );
    draw_rows(
        screen,
        right,
        " newest alerts (Python function) ",
        &frame.alerts,
    );
    let height = events.height.saturating_sub(2) as usize;
    let newest = &frame.events[frame.events.len().saturating_sub(height)..];
    let lines: Vec<Line> = newest
        .iter()
        .map(|event| Line::from(event.as_str()))
        .collect();
    screen.render_widget(
        Paragraph::new(lines).block(titled(" what happened ".to_owned())),
        events,
    );
}

fn draw_head(screen: &mut Screen, area: Rect, frame: &Frame, addresses: &Addresses) {
    let lines = vec![
        Line::from(vec![
            Span::styled("lambic demo", Style::new().bold().fg(Color::Yellow)),
            Span::raw(format!("  {}  ", frame.phase.title())),
            Span::styled(
                format!("{:.0} s", frame.elapsed.as_secs_f64()),
                Modifier::DIM,
            ),
            Span::styled("   q quits", Modifier::DIM),
        ]),
        Line::from(format!(
            "http://{}   postgres {}",
            addresses.http, addresses.pg
        ))
        .dim(),
    ];
    screen.render_widget(Paragraph::new(lines), area);
}

fn draw_views(screen: &mut Screen, area: Rect, frame: &Frame) {
    let rows = frame.views.iter().map(|view| {
        Row::new(vec![
            view.name.clone(),
            view.class.clone(),
            view.batch_frontier.clone(),
            view.speed_frontier.clone(),
            grouped(view.lag_records),
            grouped(view.state_rows),
            view.batch_runs.to_string(),
        ])
    });
    let widths = [
        Constraint::Length(18),
        Constraint::Length(12),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(8),
    ];
    let header = Row::new([
        "view",
        "class",
        "batch frontier",
        "speed frontier",
        "lag",
        "states",
        "batches",
    ])
    .style(Style::new().bold());
    screen.render_widget(
        Table::new(rows, widths)
            .header(header)
            .block(titled(" views ".to_owned())),
        area,
    );
}

fn draw_rows(screen: &mut Screen, area: Rect, title: &str, rows: &Rows) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let shown = rows.rows.iter().map(|row| Row::new(row.iter().map(text)));
    let widths = rows.columns.iter().enumerate().map(|(index, name)| {
        let cells = rows
            .rows
            .iter()
            .filter_map(|row| row.get(index))
            .map(|value| text(value).len());
        let widest = cells.chain([name.len()]).max().unwrap_or(0);
        Constraint::Length(u16::try_from(widest).unwrap_or(u16::MAX) + 1)
    });
    let header = Row::new(rows.columns.clone()).style(Style::new().bold());
    screen.render_widget(
        Table::new(shown, widths)
            .header(header)
            .block(titled(title.to_owned())),
        area,
    );
}

fn titled(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title)
}
