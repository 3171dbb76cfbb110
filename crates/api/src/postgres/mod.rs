//! The Postgres door: the wire protocol over the query room.
//!
//! Without keys any user is let in without a password; with keys, a user is a key's id, and shows that it has the secret
//! ([`password`]). TLS requests are answered "no". What the tools ask of `pg_catalog` is answered in [`catalog`].

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
mod transaction;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Sink, SinkExt};
use lambic_query::SqlParser;
use metrics::{counter, gauge};
use pgwire::{
    api::{
        ClientInfo, ErrorHandler, METADATA_DATABASE, METADATA_USER, PgWireServerHandlers,
        PidSecretKeyGenerator, RandomPidSecretKeyGenerator,
        auth::{
            ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
            sasl::SASLState, save_startup_parameters_to_metadata,
        },
        cancel::CancelHandler,
        query::{ExtendedQueryHandler, SimpleQueryHandler},
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage, cancel::CancelRequest,
        startup::Startup as Greeting,
    },
    tokio::process_socket,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
};
use tracing::{Instrument, debug, debug_span, warn};

use crate::{executor::Executor, keys::Keys};
use handler::{Connection, DRAIN_MAX, Handler};
use password::Passwords;
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

/// What all connections share.
pub struct Shared {
    pub executor: Executor,
    pub parser: Arc<dyn SqlParser>,
    connections_max: usize,
    connections: AtomicUsize,
    /// `None`: nobody needs one.
    passwords: Option<Passwords>,
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
    mut stop: watch::Receiver<bool>,
) {
    let shared = Arc::new(Shared {
        parser: parser(),
        executor,
        connections_max,
        connections: AtomicUsize::new(0),
        passwords: (!keys.is_empty()).then(|| Passwords::new(keys)),
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
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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
    let handlers = Handlers {
        handler: Handler {
            shared: Arc::clone(&shared),
            connection,
        },
        over_limit,
    };
    if let Err(error) = process_socket(socket, None, Arc::new(handlers)).await {
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

struct Handlers {
    handler: Handler,
    over_limit: bool,
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::new(self.handler.clone())
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::new(self.handler.clone())
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::new(Startup {
            handler: self.handler.clone(),
            over_limit: self.over_limit,
            sasl: tokio::sync::Mutex::new(SASLState::Initial),
        })
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(Errors(self.handler.clone()))
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(Cancel {
            shared: Arc::clone(&self.handler.shared),
        })
    }
}

struct Startup {
    handler: Handler,
    over_limit: bool,
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
        match (message, &self.handler.shared.passwords) {
            (PgWireFrontendMessage::Startup(greeting), None) => {
                self.greet(client, &greeting).await?;
                self.let_in(client).await
            }
            (PgWireFrontendMessage::Startup(greeting), Some(_)) => {
                self.greet(client, &greeting).await?;
                password::ask(client).await
            }
            (PgWireFrontendMessage::PasswordMessageFamily(message), Some(passwords)) => {
                let mut sasl = self.sasl.lock().await;
                match passwords.hear(client, message, &mut sasl).await? {
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
