//! How a connection begins, encrypted or not, and its messages one after the other.
//!
//! As the library's `process_socket` does it, but for this: what came before the handshake is not read after it. Whoever
//! stands in between could have written that, and it would be taken for the client's.

use std::{io, sync::Arc};

use bytes::BytesMut;
use futures::StreamExt;
use pgwire::{
    api::{ClientInfo, DefaultClient, ErrorHandler, NoopHandler, PgWireConnectionState},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage,
        startup::{GssEncRequest, SslRequest},
    },
    tokio::server::{MaybeTls, PgWireMessageServerCodec, process_error, process_message},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_util::codec::{Framed, FramedParts};

use super::{
    Cancel, Errors, Startup,
    handler::{Handler, Statement},
};
use crate::tls::{self, Identity};

/// The least first message: its length and a number that says what it is.
const FIRST_BYTES: usize = 8;
/// TLS, then GSSAPI, and each once more after a no.
const REQUESTS_MAX: usize = 4;

pub type Stream = Framed<MaybeTls, PgWireMessageServerCodec<Statement>>;

/// What the first bytes ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Tls,
    Gssapi,
    /// Nothing: the conversation itself begins with them.
    Plain,
}

impl Asked {
    fn of(first: &[u8; FIRST_BYTES]) -> Asked {
        let is_alone = first[..4] == (FIRST_BYTES as u32).to_be_bytes();
        match is_alone {
            true if SslRequest::is_ssl_request_packet(first) => Asked::Tls,
            true if GssEncRequest::is_gss_enc_request_packet(first) => Asked::Gssapi,
            _ => Asked::Plain,
        }
    }
}

/// Comes to terms with the client about encryption. `None`: it begins with TLS, and there is none.
pub async fn begin(
    mut socket: TcpStream,
    identity: Option<&Identity>,
) -> io::Result<Option<Stream>> {
    socket.set_nodelay(true)?;
    if tls::begins_with_tls(&socket).await? {
        return match identity {
            Some(identity) => secured(socket, identity, true).await.map(Some),
            None => Ok(None),
        };
    }
    for _ in 0..REQUESTS_MAX {
        let mut first = [0; FIRST_BYTES];
        // Not a byte more: what follows a request belongs to the handshake.
        socket.read_exact(&mut first).await?;
        match (Asked::of(&first), identity) {
            (Asked::Plain, _) => return plain(socket, &first).map(Some),
            (Asked::Tls, Some(identity)) => {
                socket.write_all(b"S").await?;
                return secured(socket, identity, false).await.map(Some);
            }
            (Asked::Tls, None) | (Asked::Gssapi, _) => socket.write_all(b"N").await?,
        }
    }
    Err(broken("it asks for encryption again and again"))
}

fn plain(socket: TcpStream, first: &[u8]) -> io::Result<Stream> {
    let client = DefaultClient::new(socket.peer_addr()?, false);
    Ok(stream(MaybeTls::Plain(socket), client, first))
}

/// `is_direct`: without having asked. Who speaks another protocol to this port is stopped then, if it says which.
async fn secured(socket: TcpStream, identity: &Identity, is_direct: bool) -> io::Result<Stream> {
    let client = DefaultClient::new(socket.peer_addr()?, true);
    let secured = identity.secure_pg(socket).await?;
    if is_direct && secured.get_ref().1.alpn_protocol() != Some(tls::POSTGRES) {
        return Err(broken(
            "it began with TLS, and not for the protocol postgresql",
        ));
    }
    Ok(stream(MaybeTls::Tls(Box::new(secured)), client, &[]))
}

fn stream(socket: MaybeTls, client: DefaultClient<Statement>, first: &[u8]) -> Stream {
    let codec = PgWireMessageServerCodec::new(client);
    let mut parts = FramedParts::new::<PgWireBackendMessage>(socket, codec);
    parts.read_buf = BytesMut::from(first);
    let mut stream = Framed::from_parts(parts);
    stream.set_state(PgWireConnectionState::AwaitingStartup);
    stream
}

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// Answers messages until the client goes; it must be let in before `startup_until`.
pub async fn converse(
    mut stream: Stream,
    startup: Startup,
    handler: Handler,
    startup_until: Instant,
) -> io::Result<()> {
    let errors = Errors(handler.clone());
    let cancel = Arc::new(Cancel {
        shared: Arc::clone(&handler.shared),
    });
    let (startup, handler) = (Arc::new(startup), Arc::new(handler));
    let copy = Arc::new(NoopHandler);
    loop {
        let is_let_in = !matches!(
            stream.state(),
            PgWireConnectionState::AwaitingStartup
                | PgWireConnectionState::AuthenticationInProgress
        );
        let message = match is_let_in {
            true => stream.next().await,
            false => timeout_at(startup_until, stream.next())
                .await
                .unwrap_or(None),
        };
        let message = match message {
            Some(Ok(PgWireFrontendMessage::Terminate(_)) | Err(_)) | None => return Ok(()),
            Some(Ok(message)) => message,
        };
        let is_extended = match stream.state() {
            PgWireConnectionState::CopyInProgress(is_extended) => is_extended,
            _ => message.is_extended_query(),
        };
        let answered = process_message(
            message,
            &mut stream,
            Arc::clone(&startup),
            Arc::clone(&handler),
            Arc::clone(&handler),
            Arc::clone(&copy),
            Arc::clone(&cancel),
        );
        if let Err(mut error) = answered.await {
            errors.on_error(&stream, &mut error);
            process_error(&mut stream, error, is_extended).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const SSL_REQUEST: &[u8; 8] = &[0, 0, 0, 8, 4, 210, 22, 47];
    const GSS_REQUEST: &[u8; 8] = &[0, 0, 0, 8, 4, 210, 22, 48];
    const STARTUP: &[u8; 8] = &[0, 0, 0, 40, 0, 3, 0, 0];

    #[test]
    fn first_bytes_are_told_apart() {
        assert_eq!(Asked::of(SSL_REQUEST), Asked::Tls);
        assert_eq!(Asked::of(GSS_REQUEST), Asked::Gssapi);
        assert_eq!(Asked::of(STARTUP), Asked::Plain);
        // A cancel request, and one that is longer than it may be.
        assert_eq!(Asked::of(&[0, 0, 0, 16, 4, 210, 22, 46]), Asked::Plain);
        assert_eq!(Asked::of(&[0, 0, 0, 9, 4, 210, 22, 47]), Asked::Plain);
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn without_an_identity_the_answer_is_no() {
        let (mut client, server) = pair().await;
        let begun = tokio::spawn(async move { begin(server, None).await });
        for request in [GSS_REQUEST, SSL_REQUEST] {
            client.write_all(request).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'N');
        }
        client.write_all(STARTUP).await.unwrap();
        let begun = begun.await.unwrap().unwrap().unwrap();
        assert!(!begun.is_secure());
        assert_eq!(&begun.read_buffer()[..], STARTUP);
    }

    #[tokio::test]
    async fn a_handshake_follows_the_request() {
        let identity = tls::tests::identity();
        let (mut client, server) = pair().await;
        let begun = tokio::spawn(async move { begin(server, Some(&identity)).await });
        client.write_all(SSL_REQUEST).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'S');
        let secured = tls::tests::connect(client, &[]).await;
        assert!(secured.is_ok());
        assert!(begun.await.unwrap().unwrap().unwrap().is_secure());
    }

    #[tokio::test]
    async fn what_stands_between_request_and_handshake_is_not_taken() {
        let identity = tls::tests::identity();
        let (mut client, server) = pair().await;
        let begun = tokio::spawn(async move { begin(server, Some(&identity)).await });
        client.write_all(SSL_REQUEST).await.unwrap();
        client.write_all(STARTUP).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'S');
        let _ = tls::tests::connect(client, &[]).await;
        assert!(begun.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn tls_at_once_must_be_for_postgres() {
        let http: &[u8] = b"http/1.1";
        for (protocols, is_taken) in [
            (vec![tls::POSTGRES], true),
            (vec![http, tls::POSTGRES], true),
            (vec![], false),
            (vec![http], false),
        ] {
            let identity = tls::tests::identity();
            let (client, server) = pair().await;
            let begun = tokio::spawn(async move { begin(server, Some(&identity)).await });
            let client = tls::tests::connect(client, &protocols).await;
            assert_eq!(begun.await.unwrap().is_ok(), is_taken, "{protocols:?}");
            drop(client);
        }
        let (mut client, server) = pair().await;
        client.write_all(&[0x16]).await.unwrap();
        assert!(begin(server, None).await.unwrap().is_none());
    }
}
