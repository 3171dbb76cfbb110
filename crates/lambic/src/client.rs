//! The CLI's side of the HTTP door.

use std::{
    io::Read,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use lambic_api::{Signer, Unsigned};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use ureq::{
    Agent, Body, RequestBuilder,
    http::{Response, Uri},
};

use crate::{credentials, output::Rows, source::Place, tls};

pub struct Client {
    agent: Agent,
    url: String,
    /// If there is a key: a server that has none takes what is signed as well.
    signer: Option<Signer>,
}

/// What the server said no to.
#[derive(Debug, Default)]
pub struct Failure {
    pub message: String,
    pub hint: Option<String>,
    pub detail: Option<String>,
    pub sqlstate: Option<String>,
    /// In characters of the statement, from 1.
    pub position: Option<usize>,
    pub retry: bool,
    /// Of the answer; 0 if there was none.
    pub status: u16,
    /// AWS's name of the error.
    pub kind: Option<String>,
    /// AWS's reason why an invocation was throttled.
    pub reason: Option<String>,
    /// Where in the user's text, once that is known.
    pub place: Option<Place>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(place) = &self.place {
            let hints: Vec<&str> = [&self.detail, &self.hint]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            let hint = hints.join("\n  ");
            let message = match &self.sqlstate {
                Some(sqlstate) => format!("{} (SQLSTATE {sqlstate})", self.message),
                None => self.message.clone(),
            };
            let hint = (!hint.is_empty()).then_some(hint.as_str());
            return f.write_str(&place.render(&message, hint));
        }
        f.write_str(&self.message)?;
        for more in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, "\n  {more}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// AWS's names of what is wrong with a key.
const OF_KEYS: [&str; 5] = [
    "MissingAuthenticationTokenException",
    "IncompleteSignatureException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
];
const KEY_HINT: &str = "set LAMBIC_ACCESS_KEY_ID and LAMBIC_SECRET_ACCESS_KEY (LAMBIC_SESSION_TOKEN too, if the key has a token) to a key of the server's `[auth]`; without them the CLI takes AWS's variables of these names";

impl Failure {
    /// The server looked at the key and went no further.
    pub fn is_of_key(&self) -> bool {
        self.names_key() || (self.status == 403 && self.sqlstate.is_none())
    }

    /// What is wrong is the key itself, and not what it may do.
    fn names_key(&self) -> bool {
        let kind = self.kind.as_deref();
        self.status == 401 || kind.is_some_and(|kind| OF_KEYS.contains(&kind))
    }

    /// With what the CLI's user can do about a key that is wrong or missing.
    fn of_cli(mut self) -> Failure {
        if self.names_key() {
            self.hint = Some(KEY_HINT.to_owned());
        }
        self
    }
}

/// The answer to one statement.
#[derive(Debug, Default)]
pub struct Answer {
    pub rows: Option<Rows>,
    /// The command tag of a statement without rows.
    pub tag: Option<String>,
    /// What the server says beside it.
    pub notice: Option<String>,
}

impl Client {
    /// `ca_file` has the authorities that sign the server's certificate, where those of the machine do not.
    pub fn new(url: &str, ca_file: Option<&Path>) -> anyhow::Result<Client> {
        let is_secured = url.starts_with("https://");
        if !is_secured && !url.starts_with("http://") {
            bail!(
                "the server's URL starts with http:// or https://, not as {url:?}; see --server and LAMBIC_URL"
            );
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("lambic/", env!("CARGO_PKG_VERSION")));
        if is_secured {
            config = config.tls_config(tls::client(tls::ca_file(ca_file).as_deref())?);
        }
        Ok(Client {
            agent: config.build().new_agent(),
            url: url.trim_end_matches('/').to_owned(),
            signer: credentials::signer()?,
        })
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.agent.get(self.at(path));
        let request = self.signed(request, "GET", path, &[], b"")?;
        let answer = self.reached(request.call())?;
        read_json(checked(answer)?)
    }

    /// An answer of at most `bytes_max`, as it is.
    pub fn bytes(&self, path: &str, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
        let request = self.agent.get(self.at(path));
        let request = self.signed(request, "GET", path, &[], b"")?;
        let mut answer = checked(self.reached(request.call())?)?;
        let mut bytes = Vec::new();
        let reader = answer.body_mut().as_reader();
        let read = reader.take(bytes_max + 1).read_to_end(&mut bytes);
        read.context("the answer broke off")?;
        if bytes.len() as u64 > bytes_max {
            bail!("the answer has more than {bytes_max} bytes");
        }
        Ok(bytes)
    }

    /// An answer that comes bit by bit.
    pub fn events(&self, path: &str) -> anyhow::Result<Response<Body>> {
        let request = self.agent.get(self.at(path));
        let request = self.signed(request, "GET", path, &[], b"")?;
        checked(self.reached(request.header("accept", "text/event-stream").call())?)
    }

    pub fn delete(&self, path: &str) -> anyhow::Result<()> {
        let request = self.agent.delete(self.at(path));
        let request = self.signed(request, "DELETE", path, &[], b"")?;
        checked(self.reached(request.call())?)?;
        Ok(())
    }

    pub fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Response<Body>> {
        checked(self.post_unchecked(path, headers, body)?)
    }

    fn post_unchecked(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Response<Body>> {
        let mut request = self.agent.post(self.at(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = self.signed(request, "POST", path, headers, body)?;
        self.reached(request.send(body))
    }

    pub fn post_json(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let headers = [("content-type", "application/json")];
        read_json(self.post(path, &headers, &serde_json::to_vec(body)?)?)
    }

    pub fn put_json(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(body)?;
        let request = self
            .agent
            .put(self.at(path))
            .header("content-type", "application/json");
        let request = self.signed(request, "PUT", path, &[], &body)?;
        let answer = self.reached(request.send(body.as_slice()))?;
        read_json(checked(answer)?)
    }

    /// Runs one statement and answers in the kind of `accept`, not yet read.
    pub fn sql_as(&self, sql: &str, accept: &str) -> anyhow::Result<Response<Body>> {
        let body = serde_json::to_vec(&json!({ "sql": sql }))?;
        self.post(
            "/v1/sql",
            &[("content-type", "application/json"), ("accept", accept)],
            &body,
        )
    }

    /// Runs one statement.
    pub fn sql(&self, sql: &str) -> anyhow::Result<Answer> {
        let said: Said = read_as(self.sql_as(sql, "application/json")?)?;
        // An error after the first rows comes in the body.
        if let Some(error) = said.error {
            return Err(anyhow::Error::new(failure(200, &json!({ "error": error }))));
        }
        let rows = match (said.columns, said.rows) {
            (Some(columns), Some(rows)) => Some(rows_of(columns, rows)?),
            _ => None,
        };
        Ok(Answer {
            rows,
            tag: said.tag,
            notice: said.notice,
        })
    }

    /// Runs one statement that gives rows.
    pub fn rows(&self, sql: &str) -> anyhow::Result<Rows> {
        Ok(self.sql(sql)?.rows.unwrap_or_default())
    }

    /// Names of all views.
    pub fn views(&self) -> anyhow::Result<Vec<String>> {
        let views = self.rows("SELECT name FROM lambic_views ORDER BY name")?;
        Ok(views
            .rows
            .iter()
            .filter_map(|row| row.first().and_then(Value::as_str))
            .map(str::to_owned)
            .collect())
    }

    /// Signs a request, if there is a key: its secret is not sent.
    fn signed<B>(
        &self,
        mut request: RequestBuilder<B>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<RequestBuilder<B>> {
        let Some(signer) = &self.signer else {
            return Ok(request);
        };
        let url: Uri = self.at(path).parse()?;
        let host = url.host().unwrap_or_default();
        let host = match url.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let covered = headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-amz-"));
        let covered: Vec<_> = covered.copied().chain([("host", host.as_str())]).collect();
        let unsigned = Unsigned {
            method,
            path: url.path(),
            query: url.query().unwrap_or_default(),
            headers: &covered,
            body,
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        for (name, value) in signer.sign(&unsigned, i64::try_from(since.as_secs())?) {
            request = request.header(name, value);
        }
        Ok(request.header("host", host))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn reached(&self, sent: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Response<Body>> {
        sent.map_err(|error| match error {
            ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => unreachable(&self.url),
            ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                unreachable(&self.url)
            }
            other => {
                let hint = tls::hint(&other).unwrap_or_default();
                let broke = format!("the connection to {} broke{hint}", self.url);
                anyhow::Error::new(other).context(broke)
            }
        })
    }
}

fn unreachable(url: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "no server answers at {url}\n  start one with `lambic serve --data DIR` or `lambic dev PROJECT`, or name another with --server URL or LAMBIC_URL"
    )
}

fn checked(mut answer: Response<Body>) -> anyhow::Result<Response<Body>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let kind = answer.headers().get("x-amzn-errortype");
    let kind = kind.and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    let failure = failure(status.as_u16(), &value);
    let failure = Failure { kind, ..failure };
    Err(anyhow::Error::new(failure.of_cli()))
}

/// Ours has an `error` object, AWS's has `Message`.
fn failure(status: u16, value: &Value) -> Failure {
    let error = value.get("error").unwrap_or(value);
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
    let message = text("message")
        .or_else(|| text("Message"))
        .or_else(|| {
            error
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        })
        .unwrap_or_else(|| format!("the server answered with status {status}"));
    Failure {
        message,
        hint: text("hint"),
        detail: text("detail"),
        sqlstate: text("sqlstate"),
        position: error
            .get("position")
            .and_then(Value::as_u64)
            .and_then(|p| usize::try_from(p).ok()),
        retry: error
            .get("retry")
            .and_then(Value::as_bool)
            .unwrap_or(status == 429 || status == 503),
        status,
        kind: None,
        reason: text("Reason"),
        place: None,
    }
}

/// An answer of `POST /v1/sql` in JSON.
#[derive(Deserialize)]
struct Said {
    columns: Option<Vec<Column>>,
    rows: Option<Vec<Vec<Box<RawValue>>>>,
    tag: Option<String>,
    notice: Option<String>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    sql_type: String,
}

fn rows_of(columns: Vec<Column>, rows: Vec<Vec<Box<RawValue>>>) -> anyhow::Result<Rows> {
    let value = |column: usize, cell: Box<RawValue>| match columns.get(column) {
        Some(column) if column.sql_type == "numeric" && cell.get() != "null" => {
            Ok(Value::String(cell.get().trim_matches('"').to_owned()))
        }
        _ => serde_json::from_str(cell.get()),
    };
    let rows = rows
        .into_iter()
        .map(|row| {
            let cells = row.into_iter().enumerate();
            cells.map(|(column, cell)| value(column, cell)).collect()
        })
        .collect::<Result<Vec<Vec<Value>>, _>>()
        .context(NOT_JSON)?;
    let (columns, types) = columns
        .into_iter()
        .map(|column| (column.name, column.sql_type))
        .unzip();
    Ok(Rows {
        columns,
        types,
        rows,
    })
}

const NOT_JSON: &str = "the server's answer is not JSON as expected; is it a Lambic server?";

/// `null` if the answer is empty.
pub fn read_json(answer: Response<Body>) -> anyhow::Result<Value> {
    read_as(answer)
}

fn read_as<T: DeserializeOwned>(mut answer: Response<Body>) -> anyhow::Result<T> {
    let mut bytes = Vec::new();
    answer
        .body_mut()
        .as_reader()
        .read_to_end(&mut bytes)
        .context("the answer broke off")?;
    if bytes.is_empty() {
        bytes.extend_from_slice(b"null");
    }
    serde_json::from_slice(&bytes).context(NOT_JSON)
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A name as an SQL identifier.
pub fn identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A text as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_go() {
        assert_eq!(segment("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(
            (identifier("flights"), identifier("a\"b")),
            ("flights".into(), "\"a\"\"b\"".into())
        );
        assert_eq!(literal("it's"), "'it''s'");
    }

    #[test]
    fn both_kinds_of_errors_are_understood() {
        let ours = failure(
            400,
            &json!({"error": {"message": "m", "hint": "h", "position": 3}}),
        );
        assert_eq!(
            (ours.to_string().as_str(), ours.position),
            ("m\n  h", Some(3))
        );
        assert_eq!(
            failure(404, &json!({"Type": "User", "Message": "gone"})).message,
            "gone"
        );
        assert!(failure(503, &json!("")).retry);
    }

    #[test]
    fn a_wrong_key_is_told_with_what_to_set() {
        let check = |status, kind: Option<&str>, is_of_key: bool| {
            let failure = Failure {
                kind: kind.map(str::to_owned),
                ..failure(status, &json!({ "message": "m", "hint": "h" }))
            };
            let told = failure.of_cli().to_string();
            assert_eq!(told.contains("LAMBIC_ACCESS_KEY_ID"), is_of_key, "{told}");
            assert_eq!(told.ends_with("  h"), !is_of_key, "{told}");
        };
        check(401, None, true);
        check(403, Some("InvalidSignatureException"), true);
        check(403, Some("UnrecognizedClientException"), true);
        check(403, Some("AccessDeniedException"), false);
        check(400, None, false);
    }
}
