//! The doors: HTTP and the Postgres wire.
//!
//! | door | what it answers |
//! |---|---|
//! | [`http`] | appends, SQL, views, AWS Lambda's API, metrics, the console |
//! | [`postgres`] | the Postgres protocol: psql, drivers, tools |
//!
//! A door translates and guards: it checks what comes in, hands it to the room that knows, and dresses the
//! answer. It keeps no data and knows nothing of files, plans or sandboxes.

mod block;
mod error;
pub mod event_stream;
mod executor;
mod http;
mod keys;
mod postgres;
mod refusals;
mod telemetry;
#[cfg(test)]
mod tests;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lambic_functions::Functions;
use lambic_log::Log;
use lambic_model::Appender;
use lambic_query::Database;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tracing::{info, warn};

pub use error::Error;
pub use http::{Signer, Unsigned};
pub use keys::{Key, Keys, Secret};
pub use postgres::CatalogParser;
pub use tls::{Identity, Tls, Unusable};

/// Where the doors are and what they take.
#[derive(Debug, Clone)]
pub struct Options {
    /// HTTP; port 0 takes a free one.
    pub http: SocketAddr,
    /// Postgres wire; port 0 takes a free one.
    pub pg: SocketAddr,
    /// Postgres connections at one time; more are refused with SQLSTATE 53300.
    pub pg_connections_max: usize,
    /// HTTP connections at one time; more are answered with 503.
    pub http_connections_max: usize,
    /// Memory for bodies of HTTP requests, and again for the records in them; further requests wait.
    pub http_bodies_bytes_max: usize,
    /// SQL statements that run over HTTP at one time; more wait.
    pub http_statements_max: usize,
    /// How long a connection may be silent before a request, or in it, and how long it may take nothing of an answer.
    pub http_idle_max: Duration,
    /// How long a request waits for memory or its turn before it is refused with 503.
    pub http_wait_max: Duration,
    /// The body of one append, and the records in it; larger ones are refused with 413.
    pub append_bytes_max: usize,
    /// Rows of a view that a client can follow for changes.
    pub changes_rows_max: usize,
    /// Clients that follow changes at one time.
    pub changes_clients_max: usize,
    /// How long requests that run may go on when the server stops.
    pub drain_max: Duration,
    /// Of those who may use the doors; without any everybody may, and the doors open on loopback only.
    pub keys: Keys,
    /// Who encrypts; where nobody does, the doors open on loopback only.
    pub tls: Tls,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            http: SocketAddr::from(([127, 0, 0, 1], 7070)),
            pg: SocketAddr::from(([127, 0, 0, 1], 7432)),
            pg_connections_max: 100,
            http_connections_max: 1_000,
            http_bodies_bytes_max: 256 << 20,
            http_statements_max: 100,
            http_idle_max: Duration::from_secs(60),
            http_wait_max: Duration::from_secs(30),
            append_bytes_max: 64 << 20,
            changes_rows_max: 10_000,
            changes_clients_max: 64,
            drain_max: Duration::from_secs(10),
            keys: Keys::default(),
            tls: Tls::Off,
        }
    }
}

/// The rooms behind the doors.
#[derive(Clone)]
pub struct Services {
    pub database: Database,
    pub functions: Functions,
    /// Read only: its commits, its size, heads of streams.
    pub log: Log,
    /// The way in for records.
    pub appender: Arc<dyn Appender>,
}

/// The running doors.
#[derive(Debug)]
pub struct Handle {
    pub http: SocketAddr,
    pub pg: SocketAddr,
    drain_max: Duration,
    stop: watch::Sender<bool>,
    http_task: JoinHandle<()>,
    pg_task: JoinHandle<()>,
}

impl Handle {
    /// Takes nothing new, lets what runs end (for at most `drain_max`), and returns.
    pub async fn close(self) {
        self.stop.send_replace(true);
        let aborts = [self.http_task.abort_handle(), self.pg_task.abort_handle()];
        let both = async { tokio::join!(self.http_task, self.pg_task) };
        if tokio::time::timeout(self.drain_max, both).await.is_err() {
            warn!(
                seconds = self.drain_max.as_secs(),
                "requests were still running when the server stopped"
            );
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

/// Opens both doors; when this returns they answer.
pub async fn serve(options: Options, services: Services) -> Result<Handle, Error> {
    let http = bind("--http", options.http, &options).await?;
    let pg = bind("--pg", options.pg, &options).await?;
    postgres::install(&services.database)
        .map_err(|error| Error::Catalog(error.strip_backtrace()))?;
    let executor = executor::Executor::new(services.database.clone()).map_err(Error::Threads)?;
    let (stop, stopped) = watch::channel(false);
    let refusals = Arc::new(refusals::Refusals::new(stopped.clone()));
    let http_address = http
        .local_addr()
        .map_err(|source| Error::bind("--http", options.http, source))?;
    let pg_address = pg
        .local_addr()
        .map_err(|source| Error::bind("--pg", options.pg, source))?;
    let pg_task = tokio::spawn(postgres::serve(
        pg,
        executor.clone(),
        options.pg_connections_max,
        options.keys.clone(),
        options.tls.clone(),
        Arc::clone(&refusals),
        stopped.clone(),
    ));
    let drain_max = options.drain_max;
    let http_task = tokio::spawn(http::serve(
        http, options, services, executor, refusals, stopped,
    ));
    Ok(Handle {
        http: http_address,
        pg: pg_address,
        drain_max,
        stop,
        http_task,
        pg_task,
    })
}

/// Whether the doors may open and both addresses can be had now, for those who make something before they open them: a
/// folder, say.
pub async fn check_free(options: &Options) -> Result<(), Error> {
    check("--http", options.http, options)?;
    check("--pg", options.pg, options)?;
    // Both at one time: a port is for one door.
    let _http = listen("--http", options.http).await?;
    let _pg = listen("--pg", options.pg).await?;
    Ok(())
}

async fn listen(option: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| Error::bind(option, address, source))
}

async fn bind(
    option: &'static str,
    address: SocketAddr,
    options: &Options,
) -> Result<TcpListener, Error> {
    check(option, address, options)?;
    let listener = listen(option, address).await?;
    if !address.ip().is_loopback() {
        let encrypted_by = match options.tls {
            Tls::ByProxy => "a proxy before it",
            _ => "itself",
        };
        info!(%address, option, encrypted_by, "a door is open to other machines");
    }
    Ok(listener)
}

/// Elsewhere than on loopback there must be keys, and somebody who encrypts.
fn check(option: &'static str, address: SocketAddr, options: &Options) -> Result<(), Error> {
    match (address.ip().is_loopback(), &options.tls) {
        (true, _) => Ok(()),
        (false, _) if options.keys.is_empty() => Err(Error::NotLoopback { option, address }),
        (false, Tls::Off) => Err(Error::NotEncrypted { option, address }),
        (false, Tls::ByProxy | Tls::Own(_)) => Ok(()),
    }
}
