//! What a resource policy says to a request: IAM's way to read one, as far as requests here have what it asks for.
//!
//! Pure: whoever lets somebody in, the API, a function's URL or a source of events, says who asks for what and carries
//! the decision out. What a statement says and this does not understand lets nobody in: such an `Allow` does not
//! hold, and such a `Deny` does.

use serde_json::Value;

use crate::Policy;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal<'a> {
    /// Whoever sends a request without a signature.
    Anybody,
    /// The user of a key: `arn:aws:iam::123456789012:user/name`.
    User { account: &'a str, arn: &'a str },
    /// A source of events, such as `s3.amazonaws.com`.
    Service(&'a str),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub principal: Principal<'a>,
    /// `lambda:InvokeFunction`
    pub action: &'a str,
    /// An ARN. There is one place only, so its region and account are not compared.
    pub resource: &'a str,
    /// What conditions may ask for, such as `aws:SourceArn`, beside what the principal tells.
    pub context: &'a [(&'a str, &'a str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// By a statement, and no other denies it.
    Allowed,
    /// By a statement, whatever the others say.
    Denied,
    /// No statement is about it.
    Unmentioned,
}

/// Keys that a request may have. What others would be here cannot be told, so no statement that names one is understood.
const KEYS: [&str; 9] = [
    "aws:PrincipalAccount",
    "aws:PrincipalArn",
    "aws:PrincipalIsAWSService",
    // There are no organisations here: nobody is in one.
    "aws:PrincipalOrgID",
    "aws:SourceAccount",
    "aws:SourceArn",
    "lambda:EventSourceToken",
    "lambda:FunctionUrlAuthType",
    "lambda:InvokedViaFunctionUrl",
];

/// `None`: there is no policy.
pub fn decide(policy: Option<&Policy>, request: &Request<'_>) -> Decision {
    let mut decision = Decision::Unmentioned;
    for statement in policy.map_or(&[][..], |policy| policy.statements.as_slice()) {
        let is_allow = statement["Effect"] == "Allow";
        // Of what is not understood, the reading that lets nobody in.
        let applies = applies(statement, request).unwrap_or(!is_allow);
        match (applies, is_allow) {
            (true, false) => return Decision::Denied,
            (true, true) => decision = Decision::Allowed,
            (false, _) => {}
        }
    }
    decision
}

/// `None`: a part of it is not understood, and no other part says that it does not apply.
fn applies(statement: &Value, request: &Request<'_>) -> Option<bool> {
    let parts = [
        either(statement, "Principal", |value| {
            is_named(value, request.principal)
        }),
        either(statement, "Action", |value| {
            any(value, |pattern| {
                matches(
                    &pattern.to_ascii_lowercase(),
                    &request.action.to_ascii_lowercase(),
                )
            })
        }),
        either(statement, "Resource", |value| {
            any(value, |pattern| {
                matches(resource(pattern), resource(request.resource))
            })
        }),
        conditions(&statement["Condition"], request),
    ];
    all(parts.into_iter())
}

/// False as soon as one is, whatever is not understood beside it.
fn all(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut whole = Some(true);
    for part in parts {
        match part {
            Some(false) => return Some(false),
            Some(true) => {}
            None => whole = None,
        }
    }
    whole
}

/// An element, or the one that says the opposite: `Action` or `NotAction`.
fn either(statement: &Value, name: &str, holds: impl Fn(&Value) -> Option<bool>) -> Option<bool> {
    match (statement.get(name), statement.get(format!("Not{name}"))) {
        (Some(value), None) => holds(value),
        (None, Some(value)) => holds(value).map(|holds| !holds),
        _ => None,
    }
}

/// Of one text or several. What has a variable in it (`${aws:username}`) is not understood.
fn any(value: &Value, holds: impl Fn(&str) -> bool) -> Option<bool> {
    let texts = texts(value)?;
    if texts.iter().any(|text| text.contains("${")) {
        return None;
    }
    Some(texts.iter().any(|text| holds(text)))
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

/// Everybody, an account with all of its users, a user or role, a service.
fn is_named(named: &Value, principal: Principal<'_>) -> Option<bool> {
    if named == "*" {
        return Some(true);
    }
    let kinds = named.as_object()?;
    let is = |kind: &str, name: &str| match (kind, principal) {
        ("AWS", _) if name == "*" => true,
        ("AWS", Principal::User { account, arn }) => {
            name == arn || account_of(name) == Some(account)
        }
        ("Service", Principal::Service(service)) => name == "*" || name == service,
        _ => false,
    };
    let mut found = false;
    for (kind, names) in kinds {
        found |= any(names, |name| is(kind, name))?;
    }
    Some(found)
}

/// `123456789012`, or `arn:aws:iam::123456789012:root`.
fn account_of(principal: &str) -> Option<&str> {
    let account = match principal.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", _, "iam", "", account, "root"] => *account,
        [account] => *account,
        _ => return None,
    };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    is_account.then_some(account)
}

/// The last part of an ARN; another text as a whole.
fn resource(arn: &str) -> &str {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", _, _, _, _, resource] => resource,
        _ => arn,
    }
}

fn conditions(conditions: &Value, request: &Request<'_>) -> Option<bool> {
    if conditions.is_null() {
        return Some(true);
    }
    let operators = conditions.as_object()?;
    all(operators.iter().map(|(operator, keys)| {
        let keys = keys.as_object()?;
        all(keys
            .iter()
            .map(|(key, values)| condition(operator, key, values, request)))
    }))
}

fn condition(operator: &str, key: &str, values: &Value, request: &Request<'_>) -> Option<bool> {
    if !KEYS.iter().any(|known| known.eq_ignore_ascii_case(key)) {
        return None;
    }
    let found = found(key, request);
    if operator == "Null" {
        let wants_none = any(values, |value| value == "true")?;
        return Some(wants_none == found.is_none());
    }
    let (operator, if_exists) = match operator.strip_suffix("IfExists") {
        Some(operator) => (operator, true),
        None => (operator, false),
    };
    let plain = operator.replacen("Not", "", 1);
    let is_negated = plain != operator;
    let compare: fn(&str, &str) -> bool = match plain.as_str() {
        "StringEquals" => |wanted, found| wanted == found,
        "StringEqualsIgnoreCase" | "Bool" => str::eq_ignore_ascii_case,
        "StringLike" => matches,
        "ArnEquals" | "ArnLike" => is_arn_like,
        _ => return None,
    };
    let is_any = match found {
        Some(found) => any(values, |wanted| compare(wanted, found))?,
        None if if_exists => return Some(true),
        None => false,
    };
    Some(is_any != is_negated)
}

fn found<'a>(key: &str, request: &Request<'a>) -> Option<&'a str> {
    let mut context = request.context.iter();
    if let Some((_, value)) = context.find(|(name, _)| name.eq_ignore_ascii_case(key)) {
        return Some(*value);
    }
    let is = |name: &str| name.eq_ignore_ascii_case(key);
    match request.principal {
        Principal::User { account, .. } if is("aws:PrincipalAccount") => Some(account),
        Principal::User { arn, .. } if is("aws:PrincipalArn") => Some(arn),
        Principal::Service(_) if is("aws:PrincipalIsAWSService") => Some("true"),
        Principal::User { .. } if is("aws:PrincipalIsAWSService") => Some("false"),
        _ => None,
    }
}

/// Each of its six parts on its own, so that no `*` reaches over a colon but in the last.
fn is_arn_like(pattern: &str, arn: &str) -> bool {
    let (pattern, arn): (Vec<&str>, Vec<&str>) = (
        pattern.splitn(6, ':').collect(),
        arn.splitn(6, ':').collect(),
    );
    pattern.len() == 6
        && arn.len() == 6
        && pattern
            .iter()
            .zip(&arn)
            .all(|(pattern, part)| matches(pattern, part))
}

/// `*` is any text, `?` any byte.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Where the last star is, and how much of the text it has taken.
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((stood, taken)) => {
                    star = Some((stood, taken + 1));
                    (at, read) = (stood + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests;
