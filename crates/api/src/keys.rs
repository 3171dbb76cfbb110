//! Keys of those who may use the doors: AWS's kind, an id that is sent and a secret that is not.
//!
//! Without any, the doors take everybody, and open on loopback only. A secret shows itself to nobody: neither in
//! logs nor in errors.

use std::{collections::BTreeMap, fmt, sync::Arc};

use lambic_functions::{ACCOUNT, policy::Principal};
use serde::Deserialize;
use subtle::ConstantTimeEq;

/// What proves that somebody has a key.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// For those who compute with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// In a time that tells nothing but the length.
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Debug, Clone)]
pub struct Key {
    pub id: String,
    pub secret: Secret,
    /// Must come with every signature, where there is one.
    pub session_token: Option<Secret>,
    /// Twelve digits; everything here belongs to [`ACCOUNT`].
    pub account: String,
    /// `arn:aws:iam::000000000000:user/name`
    pub arn: String,
}

impl Key {
    /// `account` is [`ACCOUNT`] and `name` the id unless they are given.
    pub fn new(id: &str, secret: Secret, account: Option<&str>, name: Option<&str>) -> Key {
        let account = account.unwrap_or(ACCOUNT);
        Key {
            id: id.to_owned(),
            secret,
            session_token: None,
            account: account.to_owned(),
            arn: format!("arn:aws:iam::{account}:user/{}", name.unwrap_or(id)),
        }
    }

    /// Whether it is of the account to which everything here belongs: then it may do everything that is not denied.
    pub fn is_ours(&self) -> bool {
        self.account == ACCOUNT
    }

    /// Whether this is its secret, where the secret itself is sent. A key that has a session token only signs.
    pub fn opens_with(&self, password: &str) -> bool {
        self.secret.is(password) && self.session_token.is_none()
    }

    pub fn principal(&self) -> Principal<'_> {
        Principal::User {
            account: &self.account,
            arn: &self.arn,
        }
    }
}

/// All keys that are known; clones share them.
#[derive(Clone, Default)]
pub struct Keys(Arc<BTreeMap<String, Arc<Key>>>);

impl Keys {
    /// Of two with one id the last counts.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Keys {
        let keys = keys.into_iter();
        Keys(Arc::new(
            keys.map(|key| (key.id.clone(), Arc::new(key))).collect(),
        ))
    }

    /// Nobody needs one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, id: &str) -> Option<&Arc<Key>> {
        self.0.get(id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut key = Key::new("AKID", Secret::new("hidden-hidden-hidden"), None, None);
        key.session_token = Some(Secret::new("hidden-token"));
        let shown = format!("{key:?} {:?}", Keys::new([key.clone()]));
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("AKID"), "{shown}");
    }

    #[test]
    fn a_key_opens_with_its_secret_alone() {
        let mut key = Key::new("AKID", Secret::new("secret"), None, Some("ci"));
        assert_eq!(key.arn, "arn:aws:iam::000000000000:user/ci");
        assert!(key.is_ours());
        assert!(key.opens_with("secret"));
        for other in ["", "Secret", "secret\0", "secre", "secrets"] {
            assert!(!key.opens_with(other), "{other}");
        }
        key.session_token = Some(Secret::new("token"));
        assert!(!key.opens_with("secret"));
    }

    #[test]
    fn keys_of_other_accounts_are_not_ours() {
        let key = Key::new("AKID", Secret::new("secret"), Some("123456789012"), None);
        assert!(!key.is_ours());
        assert_eq!(key.arn, "arn:aws:iam::123456789012:user/AKID");
    }
}
