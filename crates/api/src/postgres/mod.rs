//! The Postgres door: the wire protocol over the query room.
//!
//! Without keys any user is let in without a password; with keys, a user is a key's id, and shows that it has the secret
//! ([`password`]). With a certificate, connections are encrypted ([`socket`]), and on another address than loopback they must
//! be. What the tools ask of `pg_catalog` is answered in [`catalog`].

mod calls;
mod catalog;
mod command;
mod commands;
mod control;
mod cursor;
mod encode;
mod error;
mod extended;
mod flow;
mod handler;
mod information_schema;
mod parameter;
mod password;
mod questions;
mod relations;
mod routines;
mod settings;
mod simple;
mod socket;
mod transaction;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Sink, SinkExt};
use lambic_query::SqlParser;
use metrics::{counter, gauge};
use pgwire::{
    api::{
        ClientInfo, ErrorHandler, METADATA_DATABASE, METADATA_USER, PidSecretKeyGenerator,
        RandomPidSecretKeyGenerator,
        auth::{
            ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
            sasl::SASLState, save_startup_parameters_to_metadata,
        },
        cancel::CancelHandler,
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage, cancel::CancelRequest,
        startup::Startup as Greeting,
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tracing::{Instrument, debug, debug_span, warn};

use crate::{
    executor::Executor,
    keys::Keys,
    refusals::Refusals,
    tls::{self, Tls},
};
use handler::{Connection, DRAIN_MAX, Handler};
use password::{Passwords, Scram};
use settings::Settings;

pub use catalog::install;
pub use command::{Command, parse as parse_command};
pub use control::Control;
pub use encode::pg_type;
pub use questions::CatalogParser;

/// The database that clients name.
const DATABASE: &str = "lambic";
/// Connections over the limit that are told so before they are closed; beyond, they are just closed.
const REFUSED_AT_ONCE_MAX: usize = 32;
/// How long a client may take until it is let in.
const STARTUP_MAX: Duration = Duration::from_secs(60);

/// What all connections share.
pub struct Shared {
    pub executor: Executor,
    pub parser: Arc<dyn SqlParser>,
    connections_max: usize,
    connections: AtomicUsize,
    /// `None`: nobody needs one.
    passwords: Option<Passwords>,
    refusals: Arc<Refusals>,
    tls: Tls,
    keys: RandomPidSecretKeyGenerator,
    /// By process id and secret: whom a cancel request means.
    cancellable: Mutex<HashMap<(i32, Bytes), Weak<Connection>>>,
    statements_running: AtomicUsize,
    statement_ended: Notify,
    /// True when the server stops.
    stop: watch::Receiver<bool>,
}

/// The parser for what clients send; made once, since it compiles its patterns.
pub fn parser() -> Arc<dyn SqlParser> {
    static PARSER: LazyLock<Arc<dyn SqlParser>> = LazyLock::new(|| Arc::new(CatalogParser::new()));
    Arc::clone(&PARSER)
}

/// Serves connections until `stop` turns true, then lets running statements end.
pub async fn serve(
    listener: TcpListener,
    executor: Executor,
    connections_max: usize,
    keys: Keys,
    tls: Tls,
    refusals: Arc<Refusals>,
    mut stop: watch::Receiver<bool>,
) {
    let shared = Arc::new(Shared {
        parser: parser(),
        executor,
        connections_max,
        connections: AtomicUsize::new(0),
        passwords: (!keys.is_empty()).then(|| Passwords::new(keys)),
        refusals,
        tls,
        keys: RandomPidSecretKeyGenerator::default(),
        cancellable: Mutex::default(),
        statements_running: AtomicUsize::new(0),
        statement_ended: Notify::new(),
        stop: stop.clone(),
    });
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let span = debug_span!("postgres", %peer);
                    tasks.spawn(connection(socket, Arc::clone(&shared)).instrument(span));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a Postgres connection");
                    // Out of file handles, most likely: give connections a moment to close.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    let drained = async {
        loop {
            let ended = shared.statement_ended.notified();
            if shared.statements_running.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    };
    if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
        let running = shared.statements_running.load(Ordering::Acquire);
        warn!(
            running,
            "statements were still running when the server stopped"
        );
    }
    tasks.shutdown().await;
}

/// Also when the other side is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let open = Open::new(&shared);
    if open.count > shared.connections_max + REFUSED_AT_ONCE_MAX {
        counter!("lambic_postgres_connections_refused_total").increment(1);
        return;
    }
    let over_limit = open.count > shared.connections_max;
    let connection = Arc::new(Connection::default());
    let socket = match connection.peer.watch(socket) {
        Ok(socket) => socket,
        Err(error) => {
            warn!(%error, "cannot serve a Postgres connection");
            return;
        }
    };
    let identity = shared.tls.identity();
    let must_encrypt = identity.is_some() && !tls::is_within_machine(&socket);
    let startup_until = Instant::now() + STARTUP_MAX;
    let begun = timeout_at(startup_until, socket::begin(socket, identity.as_ref()));
    let stream = match begun.await {
        Ok(Ok(Some(stream))) => stream,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            debug!(%error, "connection broke off before it began");
            return;
        }
    };
    let bound_to = identity.filter(|_| stream.is_secure());
    let passwords = shared.passwords.as_ref();
    let scram = passwords.map(|passwords| passwords.scram(bound_to.as_ref()));
    let handler = Handler { shared, connection };
    let startup = Startup {
        over_limit,
        must_encrypt,
        scram,
        sasl: tokio::sync::Mutex::new(SASLState::Initial),
        handler: handler.clone(),
    };
    if let Err(error) = socket::converse(stream, startup, handler, startup_until).await {
        debug!(%error, "connection broke off");
    }
}

/// Counts one connection.
struct Open {
    shared: Arc<Shared>,
    count: usize,
}

impl Open {
    fn new(shared: &Arc<Shared>) -> Open {
        let count = shared.connections.fetch_add(1, Ordering::AcqRel) + 1;
        // Not set to the count: of two at a time, the one that counted first may come last.
        gauge!("lambic_postgres_connections").increment(1.0);
        Open {
            shared: Arc::clone(shared),
            count,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::AcqRel);
        gauge!("lambic_postgres_connections").decrement(1.0);
        let mut cancellable = self
            .shared
            .cancellable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cancellable.retain(|_, connection| connection.strong_count() > 0);
    }
}

/// Lets one client in, or not.
pub struct Startup {
    handler: Handler,
    over_limit: bool,
    /// Refuses a connection that is not encrypted.
    must_encrypt: bool,
    /// `None`: nobody needs a password.
    scram: Option<Scram>,
    /// How far the client has shown that it knows its password.
    sasl: tokio::sync::Mutex<SASLState>,
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match (message, &self.scram) {
            (PgWireFrontendMessage::Startup(greeting), None) => {
                self.greet(client, &greeting).await?;
                self.let_in(client).await
            }
            (PgWireFrontendMessage::Startup(greeting), Some(scram)) => {
                self.greet(client, &greeting).await?;
                scram.ask(client).await
            }
            (PgWireFrontendMessage::PasswordMessageFamily(message), Some(scram)) => {
                let mut sasl = self.sasl.lock().await;
                let heard = scram.hear(client, message, &mut sasl).await;
                if heard.as_ref().is_err_and(password::is_wrong) {
                    let caller = client.socket_addr().ip();
                    self.handler.shared.refusals.turn(caller).await;
                }
                match heard? {
                    true => self.let_in(client).await,
                    false => Ok(()),
                }
            }
            (_, None) => Ok(()),
            (_, Some(_)) => Err(password::refused("08P01", "a password is due first")),
        }
    }
}

impl Startup {
    async fn greet<C>(&self, client: &mut C, greeting: &Greeting) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        protocol_negotiation(client, greeting).await?;
        save_startup_parameters_to_metadata(client, greeting);
        if self.must_encrypt && !client.is_secure() {
            return Err(error::fatal(
                "28000",
                "this server takes encrypted connections only, and this one is not",
                Some(
                    "connect with sslmode=verify-full, or sslmode=require, which does not look whose certificate it is",
                ),
            ));
        }
        if self.over_limit {
            counter!("lambic_postgres_connections_refused_total").increment(1);
            let message = format!(
                "sorry, too many clients already (the limit is {})",
                self.handler.shared.connections_max
            );
            return Err(error::fatal(
                "53300",
                message,
                Some("close connections that idle, or use a pool"),
            ));
        }
        Ok(())
    }

    async fn let_in<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let shared = &self.handler.shared;
        let parameter = |name: &str| client.metadata().get(name).cloned().unwrap_or_default();
        let (user, database) = (parameter(METADATA_USER), parameter(METADATA_DATABASE));
        // Without `-d`, clients name a database after the user; tools like to start at `postgres`.
        let known = database.is_empty()
            || database == DATABASE
            || database == user
            || database == "postgres";
        if !known {
            let message = format!("database \"{database}\" does not exist");
            return Err(error::fatal(
                "3D000",
                message,
                Some("the database is called \"lambic\""),
            ));
        }
        let connection = &self.handler.connection;
        connection.set_user(&user);
        let metadata = client
            .metadata()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        *connection.settings() = Settings::at_startup(metadata);

        let (pid, secret) = shared.keys.generate(client);
        let key = (pid, secret.to_bytes());
        client.set_pid_and_secret_key(pid, secret);
        shared
            .cancellable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, Arc::downgrade(connection));
        counter!("lambic_postgres_connections_total").increment(1);
        let reported = Reported(connection.settings().reported());
        connection.is_let_in.store(true, Ordering::Release);
        finish_authentication(client, &reported).await?;
        client.flush().await?;
        Ok(())
    }
}

struct Reported(Vec<(String, String)>);

impl ServerParameterProvider for Reported {
    fn server_parameters<C>(&self, _client: &C) -> Option<HashMap<String, String>>
    where
        C: ClientInfo,
    {
        Some(self.0.iter().cloned().collect())
    }
}

struct Cancel {
    shared: Arc<Shared>,
}

#[async_trait]
impl CancelHandler for Cancel {
    async fn on_cancel_request(&self, request: CancelRequest) {
        let key = (request.pid, request.secret_key.to_bytes());
        let cancellable = self
            .shared
            .cancellable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = cancellable.get(&key).and_then(Weak::upgrade) {
            connection.cancel.notify_waiters();
        }
    }
}

/// Every error that a client is told passes here first.
struct Errors(Handler);

impl ErrorHandler for Errors {
    fn on_error<C>(&self, _client: &C, error: &mut PgWireError)
    where
        C: ClientInfo,
    {
        self.0.failed(error);
    }
}
