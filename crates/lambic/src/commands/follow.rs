//! `lambic view follow`: a view's changes, through breaks of the connection.

use std::{
    io::{BufRead, BufReader, Read},
    thread,
    time::Duration,
};

use anyhow::bail;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    cli,
    client::{Client, Failure, segment},
    output,
};

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

pub fn run(client: &Client, follow: &cli::ViewFollow, json: bool) -> anyhow::Result<()> {
    let mut followed = Followed {
        json,
        from: follow.from.clone(),
        columns: Vec::new(),
        parts: Vec::new(),
    };
    let mut pause = PAUSE_MIN;
    let mut connected = false;
    loop {
        let error = match client.events(&path(follow, followed.from.as_deref())) {
            Ok(answer) => {
                connected = true;
                let events = Events::new(answer.into_body().into_reader());
                let before = followed.from.clone();
                for event in events {
                    if followed.take(event)? {
                        return Ok(());
                    }
                }
                if followed.from != before {
                    pause = PAUSE_MIN;
                }
                None
            }
            // The first time it is told at once; later the server may be starting again.
            Err(error) if !connected => return Err(error),
            Err(error) => match error.downcast_ref::<Failure>() {
                Some(failure) if !failure.retry => return Err(error),
                _ => Some(error),
            },
        };
        match error {
            Some(error) => eprintln!("{error}; trying again"),
            None => eprintln!("the connection broke; going on"),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn path(follow: &cli::ViewFollow, from: Option<&str>) -> String {
    let mut path = format!(
        "/v1/views/{}/changes?every_ms={}",
        segment(&follow.name),
        follow.every.as_millis()
    );
    if let Some(from) = from {
        path.push_str(&format!("&from={}", segment(from)));
    }
    if follow.no_snapshot {
        path.push_str("&snapshot=false");
    }
    path
}

/// How far it has come.
struct Followed {
    json: bool,
    from: Option<String>,
    /// Their names.
    columns: Vec<String>,
    /// Of a message that is not whole yet: if the connection breaks, it comes again.
    parts: Vec<Event>,
}

impl Followed {
    /// True when there is nothing to come.
    fn take(&mut self, event: Event) -> anyhow::Result<bool> {
        match event.name.as_str() {
            "error" => {
                let error = event.data.error.unwrap_or_default();
                let message = error["message"].as_str().unwrap_or("the server gave up");
                match error["hint"].as_str() {
                    Some(hint) => bail!("{message}\n  {hint}"),
                    None => bail!("{message}"),
                }
            }
            "dropped" => {
                self.show(&event)?;
                return Ok(true);
            }
            "snapshot" | "change" => {
                let is_last = !event.data.more;
                let id = event.id.clone();
                self.parts.push(event);
                if is_last {
                    for part in std::mem::take(&mut self.parts) {
                        self.show(&part)?;
                    }
                    self.from = id.or(self.from.take());
                }
            }
            _ => {
                self.show(&event)?;
                self.from = event.id.or(self.from.take());
            }
        }
        Ok(false)
    }

    fn show(&mut self, event: &Event) -> anyhow::Result<()> {
        if let Some(columns) = &event.data.columns {
            self.columns = columns.iter().map(|column| column.name.clone()).collect();
        }
        let text = match self.json {
            true => self.as_json(event),
            false => event.as_text(),
        };
        output::print(&text)
    }

    /// One object in a line, rows as objects; values stay as they were written, digit for digit.
    fn as_json(&self, event: &Event) -> String {
        let mut members = vec![
            format!("\"event\":{}", Value::from(event.name.as_str())),
            format!("\"frontier\":{}", Value::from(event.data.frontier.as_str())),
        ];
        for (list, rows) in event.data.lists() {
            let rows: Vec<String> = rows.iter().map(|row| self.object(row)).collect();
            members.push(format!("\"{list}\":[{}]", rows.join(",")));
        }
        if let Some(reason) = &event.data.reason {
            members.push(format!("\"reason\":{}", Value::from(reason.as_str())));
        }
        if event.data.more {
            members.push("\"more\":true".to_owned());
        }
        format!("{{{}}}\n", members.join(","))
    }

    fn object(&self, row: &Row) -> String {
        let pairs = self.columns.iter().zip(row);
        let pairs = pairs.map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
    }
}

impl Event {
    /// `+ a  1` and `- a  1`; what is no row begins with `#`.
    fn as_text(&self) -> String {
        let mut text = match (self.name.as_str(), &self.data.reason) {
            (name, Some(reason)) => format!("# {name}: {reason}\n"),
            ("progress" | "snapshot" | "change", None) => String::new(),
            (name, None) => format!("# {name}\n"),
        };
        for (list, rows) in self.data.lists() {
            let sign = if list == "removed" { '-' } else { '+' };
            for row in rows {
                let values = row.iter().map(|value| shown(value));
                text.push_str(&format!(
                    "{sign} {}\n",
                    values.collect::<Vec<_>>().join("  ")
                ));
            }
        }
        if self.id.is_some() {
            text.push_str(&format!("# {}\n", self.data.frontier));
        }
        text
    }
}

pub fn shown(value: &RawValue) -> String {
    match serde_json::from_str(value.get()) {
        Ok(Value::Null) => "NULL".to_owned(),
        Ok(Value::String(text)) => text.replace(['\n', '\r', '\t'], " "),
        _ => value.get().to_owned(),
    }
}

/// A server-sent event.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: Option<String>,
    data: Data,
}

type Row = Vec<Box<RawValue>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    frontier: String,
    columns: Option<Vec<Column>>,
    rows: Option<Vec<Row>>,
    removed: Option<Vec<Row>>,
    added: Option<Vec<Row>>,
    more: bool,
    reason: Option<String>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

impl Data {
    fn lists(&self) -> impl Iterator<Item = (&'static str, &Vec<Row>)> {
        let lists = [
            ("rows", &self.rows),
            ("removed", &self.removed),
            ("added", &self.added),
        ];
        lists
            .into_iter()
            .filter_map(|(name, rows)| Some((name, rows.as_ref()?)))
    }
}

/// The events of an answer, until it ends or breaks off; one that is not whole is left out.
struct Events<R>(std::io::Lines<BufReader<R>>);

impl<R: Read> Events<R> {
    fn new(read: R) -> Events<R> {
        Events(BufReader::new(read).lines())
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        let mut data = String::new();
        loop {
            let line = self.0.next()?.ok()?;
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut event.name),
                "id" => event.id = Some(value.to_owned()),
                "data" => data.push_str(value),
                "" if line.is_empty() && !data.is_empty() => {
                    event.data = serde_json::from_str(&data).ok()?;
                    return Some(event);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = ":\n\nevent: snapshot\ndata: {\"frontier\":\"s@0:2 #1f\",\"columns\":[{\"name\":\"k\"},{\"name\":\"n\"}],\"rows\":[[\"a\",1.50]],\"more\":true}\n\nevent: snapshot\nid: s@0:2 #1f\ndata: {\"frontier\":\"s@0:2 #1f\",\"rows\":[[\"b\",null]]}\n\nevent: change\nid: s@0:3 #1f\ndata: {\"frontier\":\"s@0:3 #1f\",\"added\":[[\"a\",2]],\"removed\":[[\"a\",1]]}\n\nevent: change\nid: half";

    #[test]
    fn events_are_read_and_shown() {
        let mut followed = Followed {
            json: false,
            from: None,
            columns: Vec::new(),
            parts: Vec::new(),
        };
        let events: Vec<Event> = Events::new(ANSWER.as_bytes()).collect();
        let texts: Vec<String> = events.iter().map(Event::as_text).collect();
        assert_eq!(
            texts.concat(),
            "+ a  1.50\n+ b  NULL\n# s@0:2 #1f\n- a  1\n+ a  2\n# s@0:3 #1f\n"
        );
        followed.columns = vec!["k".to_owned(), "n".to_owned()];
        assert_eq!(
            followed.as_json(&events[0]),
            "{\"event\":\"snapshot\",\"frontier\":\"s@0:2 #1f\",\"rows\":[{\"k\":\"a\",\"n\":1.50}],\"more\":true}\n"
        );
        assert_eq!(
            followed.as_json(&events[2]),
            "{\"event\":\"change\",\"frontier\":\"s@0:3 #1f\",\"removed\":[{\"k\":\"a\",\"n\":1}],\"added\":[{\"k\":\"a\",\"n\":2}]}\n"
        );
        for event in events {
            assert!(!followed.take(event).unwrap());
        }
        assert_eq!(followed.from.as_deref(), Some("s@0:3 #1f"));
        assert!(followed.parts.is_empty());
    }
}
