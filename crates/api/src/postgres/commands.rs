//! Runs the statements that concern the connection.

use std::{fmt::Debug, sync::Arc};

use futures::{Sink, SinkExt, stream};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, Type,
        portal::Format,
        results::{FieldFormat, FieldInfo, QueryResponse, Tag},
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, startup::ParameterStatus},
};

use crate::block::{self, Status};

use super::{
    command::Command,
    error::{self, wire},
    flow::Copied,
    handler::{Done, Handler},
    settings::SetError,
};

impl Handler {
    pub async fn command<C>(
        &self,
        client: &mut C,
        command: &Command,
        chars_before: usize,
        format: &Format,
    ) -> PgWireResult<Done>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(command, Command::Transaction(_))
            && self.connection.block().status() == Status::Failed
        {
            return Err(error::from_query(block::aborted(), 0));
        }
        match command {
            Command::Transaction(control) => self.control(client, control).await,
            Command::SetDefaultModes(modes) => {
                self.connection.settings().set_modes(*modes);
                Ok(Done::Tag(Tag::new("SET")))
            }
            Command::Set { name, value } => {
                let report = self
                    .connection
                    .settings()
                    .set(name, value.as_deref())
                    .map_err(|wrong| match wrong {
                        SetError::Unknown => wire(
                            "42704",
                            format!("unrecognized configuration parameter \"{name}\""),
                        ),
                        SetError::Fixed => {
                            wire("55P02", format!("parameter \"{name}\" cannot be changed"))
                        }
                        SetError::Invalid if name.eq_ignore_ascii_case("timezone") => {
                            error::with_hint(
                                "22023",
                                format!(
                                    "the time zone of a session is always UTC, not \"{}\"",
                                    value.as_deref().unwrap_or_default()
                                ),
                                "turn the clock where you need it: ts AT TIME ZONE 'Europe/Berlin'",
                            )
                        }
                        SetError::Invalid => wire(
                            "22023",
                            format!(
                                "invalid value for parameter \"{name}\": \"{}\"",
                                value.as_deref().unwrap_or_default()
                            ),
                        ),
                    })?;
                if let Some((name, value)) = report {
                    client
                        .feed(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(
                            name, value,
                        )))
                        .await?;
                }
                Ok(Done::Tag(Tag::new("SET")))
            }
            Command::SetIgnored => Ok(Done::Tag(Tag::new("SET"))),
            Command::Reset { name } => {
                match name {
                    None => self.connection.settings().reset_all(),
                    Some(name) => {
                        let unknown = || {
                            wire(
                                "42704",
                                format!("unrecognized configuration parameter \"{name}\""),
                            )
                        };
                        self.connection
                            .settings()
                            .set(name, None)
                            .map_err(|_| unknown())?;
                    }
                }
                Ok(Done::Tag(Tag::new("RESET")))
            }
            Command::Show { name } => {
                let shown = self.connection.settings().get(name);
                let (name, mut value) = shown.ok_or_else(|| {
                    wire(
                        "42704",
                        format!("unrecognized configuration parameter \"{name}\""),
                    )
                })?;
                if let Some(of_transaction) = self.mode_shown(&name) {
                    value = of_transaction.to_owned();
                }
                Ok(Done::Rows(text_rows(&[&name], vec![vec![value]], format)?))
            }
            Command::ShowAll => {
                let all = self.connection.settings().all();
                let rows = all
                    .into_iter()
                    .map(|(name, value)| vec![name, value, String::new()])
                    .collect();
                Ok(Done::Rows(text_rows(
                    &["name", "setting", "description"],
                    rows,
                    format,
                )?))
            }
            Command::Deallocate { name: Some(name) } => {
                client.portal_store().rm_statement(name);
                Ok(Done::Tag(Tag::new("DEALLOCATE")))
            }
            // The store cannot forget everything; clients that drop all do not use the old names again.
            Command::Deallocate { name: None } => Ok(Done::Tag(Tag::new("DEALLOCATE ALL"))),
            Command::Discard { tag, all } => {
                if *all {
                    self.connection.settings().reset_all();
                    client.portal_store().clear_portals();
                }
                Ok(Done::Tag(Tag::new(tag)))
            }
            Command::Ignored { tag } => Ok(Done::Tag(Tag::new(tag))),
            Command::Declare(declare) => self.declare(declare, chars_before).await,
            Command::Fetch(fetch) => self.fetch(fetch, format).await,
            Command::Close { name } => self.close(name.as_deref()),
            Command::CopyOut {
                query,
                chars_before: before,
                format,
            } => {
                let done = self.simple_statement(query, chars_before + before).await?;
                match done {
                    Done::Rows(rows) | Done::Changes(rows) => Ok(Done::Copy(Copied {
                        rows,
                        format: *format,
                    })),
                    Done::Tag(_) | Done::Copy(_) => Err(wire(
                        "42601",
                        "COPY takes a query in parentheses: (SELECT …)",
                    )),
                }
            }
            Command::Copy => Err(error::with_hint(
                "0A000",
                "COPY is supported as COPY (query) TO STDOUT only",
                "read with COPY (SELECT …) TO STDOUT; load files with `lambic append STREAM FILE` or POST them to /v1/streams/{name}/records",
            )),
            Command::Malformed { expected } => Err(wire(
                "42601",
                format!("syntax error: {expected} is expected"),
            )),
            Command::Unsupported { what, hint } => Err(error::with_hint(
                "0A000",
                format!("{what} are not supported"),
                hint,
            )),
        }
    }
}

pub fn text_fields(names: &[&str], format: &Format) -> Vec<FieldInfo> {
    let format = |index| match format {
        Format::UnifiedBinary => FieldFormat::Binary,
        Format::UnifiedText => FieldFormat::Text,
        Format::Individual(formats) => formats
            .get(index)
            .copied()
            .map_or(FieldFormat::Text, FieldFormat::from),
    };
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            FieldInfo::new((*name).to_owned(), None, None, Type::TEXT, format(index))
        })
        .collect()
}

/// Text is the same in both formats.
fn text_rows(
    names: &[&str],
    rows: Vec<Vec<String>>,
    format: &Format,
) -> PgWireResult<QueryResponse> {
    let fields = Arc::new(text_fields(names, format));
    let mut encoder = pgwire::api::results::DataRowEncoder::new(Arc::clone(&fields));
    let mut encoded = Vec::with_capacity(rows.len());
    for row in rows {
        for value in row {
            encoder.encode_field(&Some(value))?;
        }
        encoded.push(Ok(encoder.take_row()));
    }
    Ok(QueryResponse::new(fields, stream::iter(encoded)))
}
