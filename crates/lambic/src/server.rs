//! A running engine with its doors open: what `serve`, `dev` and `demo` share.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use arrow::json::{ArrayWriter, WriterBuilder, writer::JsonArray};
use futures::TryStreamExt;
use lambic_query::{Database, Outcome, Session};
use serde_json::Value;

use crate::{
    engine::{self, Engine},
    exit::refusal,
    output::{Rows, counted},
    settings,
    tls::Following,
};

/// Ids below are the house's own streams, which no catalog lists.
pub const FIRST_STREAM_ID: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub http: SocketAddr,
    pub pg: SocketAddr,
}

/// Opens the engine; a folder that cannot be used (held by another server, damaged) is a refusal.
pub async fn open(data: PathBuf, settings: settings::Settings) -> anyhow::Result<Engine> {
    let shown = data.display().to_string();
    described(&data).map_err(refusal)?;
    let opened = Engine::open(engine::Options::new(data, settings)).await;
    opened.map_err(|error| match error.downcast_ref() {
        // It has nothing to do with the data.
        Some(lambic_functions::Error::Traces { .. }) => refusal(error),
        _ => refusal(error.context(format!("cannot open the data folder {shown}"))),
    })
}

/// Records in the log belong to streams of the catalog: without it they would be out of sight, and their log
/// would be cut in time. (What is sealed, the catalog looks after itself.)
pub fn described(data: &Path) -> anyhow::Result<()> {
    let catalog = data.join("catalog.json");
    if catalog.exists() {
        return Ok(());
    }
    // A damaged log is told by the engine.
    let Ok(log) = lambic_log::inspect(&data.join("log")) else {
        return Ok(());
    };
    let records: u64 = log
        .heads
        .0
        .iter()
        .filter(|(stream, _)| stream.0 >= FIRST_STREAM_ID)
        .map(|(_, head)| head.records())
        .sum();
    if records > 0 {
        anyhow::bail!(
            "the catalog {} is missing, although the log beside it holds {} of its streams; restore it from a backup, or move the whole data folder away to begin an empty one",
            catalog.display(),
            counted(records, "record")
        );
    }
    Ok(())
}

pub struct Doors {
    handle: lambic_api::Handle,
    /// Looks after the certificate, if they have one.
    following: Option<Following>,
}

impl Doors {
    pub async fn open(engine: &Engine, addresses: Addresses) -> anyhow::Result<Doors> {
        let serve = &engine.serve_options;
        let (tls, following) = serve.tls.open().map_err(refusal)?;
        let options = lambic_api::Options {
            http: addresses.http,
            pg: addresses.pg,
            pg_connections_max: serve.server.pg_connections_max,
            http_connections_max: serve.server.http_connections_max,
            http_bodies_bytes_max: serve.server.http_bodies_bytes_max,
            http_statements_max: serve.server.http_statements_max,
            append_bytes_max: serve.append_bytes_max,
            keys: serve.keys.clone(),
            tls,
            drain_max: serve.drain_max,
            ..lambic_api::Options::default()
        };
        let services = lambic_api::Services {
            database: engine.database.clone(),
            functions: engine.functions.clone(),
            log: engine.log.clone(),
            appender: Arc::new(engine.log.clone()),
        };
        let handle = lambic_api::serve(options, services)
            .await
            .map_err(refusal)?;
        Ok(Doors { handle, following })
    }

    /// The usual ports, or free ones where those are taken.
    pub async fn open_or_free(engine: &Engine, usual: &settings::Server) -> anyhow::Result<Doors> {
        let or_free = |address: SocketAddr| match std::net::TcpListener::bind(address) {
            Ok(_) => address,
            Err(_) => SocketAddr::new(address.ip(), 0),
        };
        let addresses = Addresses {
            http: or_free(usual.http),
            pg: or_free(usual.pg),
        };
        Doors::open(engine, addresses).await
    }

    pub fn addresses(&self) -> Addresses {
        Addresses {
            http: self.handle.http,
            pg: self.handle.pg,
        }
    }

    pub fn say_ready(&self) {
        let Addresses { http, pg } = self.addresses();
        let scheme = match self.following {
            Some(_) => "https",
            None => "http",
        };
        eprintln!("ready {scheme}={http} pg={pg}");
    }

    /// Answers what was asked before, and what functions are still working on as long as they may.
    pub async fn close(self, engine: &Engine) {
        tokio::join!(self.handle.close(), engine.functions.drain());
    }
}

/// Heeds SIGTERM and SIGINT from here on: what it returns resolves on the first of them. A caller has it before it says that
/// it is ready, or a signal that follows at once would end the process where it stands.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let heed = |kind| signal(kind).context("cannot heed the signals that stop the server");
    let mut terminate = heed(SignalKind::terminate())?;
    let mut interrupt = heed(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The rows of the last statement of `sql`, inside the process.
pub async fn rows(database: &Database, sql: &str) -> anyhow::Result<Rows> {
    let outcomes =
        database
            .execute(&Session::default(), sql)
            .await
            .map_err(|error| match &error.hint {
                Some(hint) => anyhow::anyhow!("{} ({hint})", error.message),
                None => anyhow::anyhow!("{}", error.message),
            })?;
    let Some(Outcome::Rows { schema, rows }) = outcomes.into_iter().next_back() else {
        return Ok(Rows::default());
    };
    let batches: Vec<_> = rows.try_collect().await?;
    let mut writer: ArrayWriter<Vec<u8>> = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, JsonArray>(Vec::new());
    for batch in &batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    let text = writer.into_inner();
    let objects: Vec<Value> = if text.is_empty() {
        Vec::new()
    } else {
        serde_json::from_slice(&text)?
    };
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let rows = objects
        .into_iter()
        .map(|mut object| columns.iter().map(|column| object[column].take()).collect())
        .collect();
    Ok(Rows {
        columns,
        rows,
        ..Rows::default()
    })
}
