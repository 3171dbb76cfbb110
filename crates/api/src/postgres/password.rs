//! Passwords: a client shows that it knows its key's secret without sending it (SCRAM-SHA-256, RFC 5802 and 7677).
//!
//! On an encrypted connection it may bind its answer to the server's certificate (SCRAM-SHA-256-PLUS, RFC 5929): whoever
//! stands in between with another certificate learns nothing that can be passed on. Who asks for a key that is not there is
//! asked all the same, and learns at the end only that it was wrong.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use futures::{Sink, SinkExt};
use pgwire::{
    api::{
        ClientInfo, PgWireConnectionState,
        auth::{
            AuthSource, LoginInfo, Password,
            sasl::{
                SASLState, SCRAM_SHA_256_METHOD, SCRAM_SHA_256_PLUS_METHOD,
                scram::{SCRAM_ITERATIONS, ScramAuth, gen_salted_password},
            },
        },
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        startup::{Authentication, PasswordMessageFamily, SASLInitialResponse},
    },
};
use sha2::{Digest, Sha256};

use super::error;
use crate::{keys::Keys, tls::Identity};

/// What a client binds to that can: the certificate, by its hash.
const BINDING: &[u8] = b"p=tls-server-end-point,";
/// `invalid_password`
const WRONG: &str = "28P01";

/// The secrets of all keys, for those who connect.
pub struct Passwords(Arc<Source>);

impl Passwords {
    pub fn new(keys: Keys) -> Passwords {
        let source = Source {
            keys,
            pepper: uuid::Uuid::new_v4().to_string(),
        };
        Passwords(Arc::new(source))
    }

    /// For one connection, which is encrypted as this identity if it is.
    pub fn scram(&self, identity: Option<&Identity>) -> Scram {
        let mut scram = ScramAuth::new(Arc::clone(&self.0) as Arc<dyn AuthSource>);
        if let Some(certificate) = identity.and_then(Identity::certificate_pem) {
            // There are certificates of which no hash is agreed on, such as Ed25519's: nothing is bound to them.
            let _ = scram.configure_certificate(certificate.as_bytes());
        }
        Scram(scram)
    }
}

/// Asks whoever connects for the secret of the key that it names as its user.
pub struct Scram(ScramAuth);

impl Scram {
    /// The first question.
    pub async fn ask<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        client.set_state(PgWireConnectionState::AuthenticationInProgress);
        let methods = match self.0.supports_channel_binding() {
            true => vec![SCRAM_SHA_256_PLUS_METHOD, SCRAM_SHA_256_METHOD],
            false => vec![SCRAM_SHA_256_METHOD],
        };
        let methods = methods.into_iter().map(str::to_owned).collect();
        let question = PgWireBackendMessage::Authentication(Authentication::SASL(methods));
        client.send(question).await?;
        Ok(())
    }

    /// Takes the next message; true when the client has shown that it knows.
    pub async fn hear<C>(
        &self,
        client: &mut C,
        message: PasswordMessageFamily,
        state: &mut SASLState,
    ) -> PgWireResult<bool>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let message = match state {
            SASLState::Initial => {
                let first = first_response(message)
                    .ok_or_else(|| refused("08P01", "this is no first message of SASL"))?;
                let data = first.data.as_deref().unwrap_or_default();
                check_binding(&first.auth_method, data, self.0.supports_channel_binding())
                    .map_err(|wrong| refused("28000", wrong))?;
                *state = SASLState::ScramClientFirstReceived;
                PasswordMessageFamily::SASLInitialResponse(first)
            }
            _ => PasswordMessageFamily::SASLResponse(
                message.into_sasl_response().map_err(always_fatal)?,
            ),
        };
        let heard = self.0.process_scram_message(client, message, state).await;
        let (answer, next) = heard.map_err(always_fatal)?;
        *state = next;
        let answer = PgWireBackendMessage::Authentication(answer);
        client.send(answer).await?;
        Ok(matches!(state, SASLState::Finished))
    }
}

/// Whether the method and what the client says of binding go together. The library looks at what is bound only.
fn check_binding(method: &str, first: &[u8], can_bind: bool) -> Result<(), &'static str> {
    match method {
        SCRAM_SHA_256_PLUS_METHOD if !can_bind => Err("SCRAM-SHA-256-PLUS was not offered"),
        SCRAM_SHA_256_PLUS_METHOD if first.starts_with(BINDING) => Ok(()),
        SCRAM_SHA_256_PLUS_METHOD => Err("SCRAM-SHA-256-PLUS binds to tls-server-end-point"),
        SCRAM_SHA_256_METHOD if first.starts_with(b"p=") => {
            Err("SCRAM-SHA-256 binds to nothing; SCRAM-SHA-256-PLUS does")
        }
        // It would have bound its answer: somebody in between took the offer away.
        SCRAM_SHA_256_METHOD if first.starts_with(b"y,") && can_bind => {
            Err("the client did not see that SCRAM-SHA-256-PLUS was offered")
        }
        SCRAM_SHA_256_METHOD => Ok(()),
        _ => Err("the method is SCRAM-SHA-256, or SCRAM-SHA-256-PLUS on an encrypted connection"),
    }
}

pub fn refused(code: &str, message: &str) -> PgWireError {
    error::fatal(
        code,
        message,
        Some("user and password are a key's id and secret"),
    )
}

/// Whether a client is refused because it does not know the secret.
pub fn is_wrong(error: &PgWireError) -> bool {
    matches!(error, PgWireError::UserError(info) if info.code == WRONG)
}

/// A method, NUL, and as many bytes as are told before them. The library counts on the client to send so many.
fn first_response(message: PasswordMessageFamily) -> Option<SASLInitialResponse> {
    let PasswordMessageFamily::Raw(body) = message else {
        return None;
    };
    let end = body.iter().position(|byte| *byte == 0)?;
    let method = String::from_utf8(body[..end].to_vec()).ok()?;
    let (length, data) = body[end + 1..].split_first_chunk::<4>()?;
    let data = match i32::from_be_bytes(*length) {
        -1 => None,
        length => {
            let data = data.get(..usize::try_from(length).ok()?)?;
            Some(Bytes::copy_from_slice(data))
        }
    };
    Some(SASLInitialResponse::new(method, data))
}

/// An error that is not fatal would leave the connection open for queries.
fn always_fatal(error: PgWireError) -> PgWireError {
    if matches!(error, PgWireError::InvalidPassword(_)) {
        return refused(WRONG, "password authentication failed");
    }
    let info = ErrorInfo::from(error);
    refused(&info.code, &info.message)
}

/// Salted secrets, as the protocol wants them.
struct Source {
    keys: Keys,
    /// Of this process: salts look alike for keys that are there and that are not.
    pepper: String,
}

// It holds what secrets are made of.
impl Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("keys", &self.keys).finish()
    }
}

#[async_trait]
impl AuthSource for Source {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let user = login.user().unwrap_or_default();
        let salt = Sha256::digest(format!("salt {} {user}", self.pepper))[..16].to_vec();
        // A key that has a session token only signs, and those of other accounts have nothing to ask here.
        let key = self.keys.get(user);
        let key = key.filter(|key| key.session_token.is_none() && key.is_ours());
        let secret = match key {
            Some(key) => key.secret.expose().to_owned(),
            None => BASE64_STANDARD.encode(Sha256::digest(format!("none {} {user}", self.pepper))),
        };
        // Some milliseconds of computing, which the threads that serve others are not for.
        let salted = tokio::task::spawn_blocking(move || {
            let salted = gen_salted_password(&secret, &salt, SCRAM_ITERATIONS);
            Password::new(Some(salt), salted)
        });
        salted
            .await
            .map_err(|_| refused("57P03", "the server is stopping"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn a_first_message_is_read_as_far_as_it_goes() {
        let read = |bytes: &[u8]| {
            let first = first_response(PasswordMessageFamily::Raw(BytesMut::from(bytes)))?;
            Some((first.auth_method, first.data.map(|data| data.to_vec())))
        };
        let method = || "SCRAM-SHA-256".to_owned();
        assert_eq!(
            read(b"SCRAM-SHA-256\0\0\0\0\x02n,"),
            Some((method(), Some(b"n,".to_vec())))
        );
        assert_eq!(
            read(b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
            Some((method(), None))
        );
        for bytes in [
            &b""[..],
            b"SCRAM",
            b"SCRAM\0",
            b"SCRAM\0\0\0\0",
            b"SCRAM\0\0\0\0\x09x",
            b"SCRAM\0\xff\xff\xff\xfe",
            b"\xff\0\0\0\0\0",
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_bound_must_go_with_the_method() {
        let (plus, alone) = (SCRAM_SHA_256_PLUS_METHOD, SCRAM_SHA_256_METHOD);
        let bound = b"p=tls-server-end-point,,n=,r=x";
        for (method, first, can_bind, is_right) in [
            (plus, &bound[..], true, true),
            (plus, bound, false, false),
            (plus, b"n,,n=,r=x", true, false),
            (plus, b"y,,n=,r=x", true, false),
            (plus, b"p=tls-unique,,n=,r=x", true, false),
            (plus, b"", true, false),
            (alone, b"n,,n=,r=x", true, true),
            (alone, b"n,,n=,r=x", false, true),
            (alone, b"y,,n=,r=x", false, true),
            (alone, b"y,,n=,r=x", true, false),
            (alone, bound, true, false),
            ("OAUTHBEARER", b"n,,", true, false),
        ] {
            let checked = check_binding(method, first, can_bind);
            assert_eq!(checked.is_ok(), is_right, "{method} {checked:?}");
        }
    }

    #[test]
    fn a_certificate_is_bound_to() {
        let passwords = Passwords::new(Keys::default());
        let identity = crate::tls::tests::identity();
        let can_bind = |identity| passwords.scram(identity).0.supports_channel_binding();
        assert!(can_bind(Some(&identity)));
        assert!(!can_bind(None));
    }
}
