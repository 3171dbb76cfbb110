//! `[auth]` in the settings, whose keys the server takes, and the key with which the CLI signs.
//!
//! A secret stands in a file that others cannot read, or nothing starts. It is in no message, whatever is wrong with it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use lambic_api::{Key, Keys, Secret, Signer};
use serde::Deserialize;

/// Less could be guessed by whoever has seen a signature; AWS's have 40.
const SECRET_CHARS_MIN: usize = 16;
const SECRET_CHARS_MAX: usize = 256;
const TOKEN_CHARS_MAX: usize = 4_096;
const KEYS_MAX: usize = 1_000;

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Without any, everybody may do everything, on loopback only.
    pub keys: Vec<Access>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    id: String,
    secret: Option<Secret>,
    /// Relative to the file of the settings.
    secret_file: Option<PathBuf>,
    session_token: Option<Secret>,
    account: Option<String>,
    name: Option<String>,
}

impl Auth {
    /// What is wrong with it, as far as its text shows.
    pub fn check(&self) -> Result<(), String> {
        if self.keys.len() > KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX}"));
        }
        let mut ids = BTreeSet::new();
        for (index, key) in self.keys.iter().enumerate() {
            let wrong = |what: &str| Err(format!("key {}: {what}", index + 1));
            let is_word = |text: &str, more: &[u8], most: usize| {
                let mut bytes = text.bytes();
                (1..=most).contains(&text.len())
                    && bytes.all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
            };
            if !is_word(&key.id, b"_", 128) {
                return wrong("its `id` must have letters, digits and _ only");
            }
            if !ids.insert(&key.id) {
                return wrong("there is another with this `id`");
            }
            match (&key.secret, &key.secret_file) {
                (Some(secret), None) => {
                    if let Err(what) = check_secret(secret) {
                        return wrong(&format!("its `secret` {what}"));
                    }
                }
                (None, Some(_)) => {}
                _ => return wrong("it must have either a `secret` or a `secret_file`"),
            }
            let account = key.account.as_deref();
            if account
                .is_some_and(|text| text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()))
            {
                return wrong("its `account` must have twelve digits");
            }
            let name = key.name.as_deref();
            if name.is_some_and(|text| !is_word(text, b"+=,.@_-", 64)) {
                return wrong("its `name` must have letters, digits and +=,.@_- only, at most 64");
            }
            let token = key.session_token.as_ref().map(Secret::expose);
            let is_token =
                |text: &str| (1..=TOKEN_CHARS_MAX).contains(&text.len()) && is_printable(text);
            if token.is_some_and(|text| !is_token(text)) {
                return wrong("its `session_token` must have printable ASCII characters only");
            }
        }
        Ok(())
    }

    /// Reads the files of secrets; `file` is where the settings stand.
    pub fn read(&mut self, file: &Path) -> anyhow::Result<()> {
        if self.keys.iter().any(|key| key.secret.is_some()) {
            let opened = File::open(file)
                .with_context(|| format!("cannot read the settings {}", file.display()))?;
            check_closed(&opened, file)?;
        }
        let folder = file.parent().unwrap_or(Path::new("."));
        for key in &mut self.keys {
            if let Some(path) = key.secret_file.take() {
                let path = folder.join(path);
                let secret = read_secret(&path);
                key.secret = Some(secret.with_context(|| format!("the key {}", key.id))?);
            }
        }
        Ok(())
    }

    /// After [`Auth::read`].
    pub fn keys(&self) -> Keys {
        let keys = self.keys.iter().filter_map(|access| {
            let secret = access.secret.clone()?;
            let mut key = Key::new(
                &access.id,
                secret,
                access.account.as_deref(),
                access.name.as_deref(),
            );
            key.session_token = access.session_token.clone();
            Some(key)
        });
        Keys::new(keys)
    }
}

fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    let cannot = || format!("cannot read the secret in {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    check_closed(&file, path)?;
    let mut text = String::new();
    file.take(SECRET_CHARS_MAX as u64 + 2)
        .read_to_string(&mut text)
        .with_context(cannot)?;
    let secret = Secret::new(text.trim_end_matches(['\r', '\n']));
    match check_secret(&secret) {
        Ok(()) => Ok(secret),
        Err(what) => bail!("the secret in {} {what}", path.display()),
    }
}

fn check_secret(secret: &Secret) -> Result<(), String> {
    let text = secret.expose();
    if !(SECRET_CHARS_MIN..=SECRET_CHARS_MAX).contains(&text.len()) {
        return Err(format!(
            "has {} characters; it must have {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX}, such as `openssl rand -base64 30` gives",
            text.len()
        ));
    }
    match is_printable(text) {
        true => Ok(()),
        false => Err("must have printable ASCII characters only, without blanks".to_owned()),
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A group may read it, as those do who run servers in containers; nobody else may.
pub fn check_closed(file: &File, path: &Path) -> anyhow::Result<()> {
    const OF_OTHERS: u32 = 0o027;
    let metadata = file
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OF_OTHERS != 0 {
        bail!(
            "{} holds a secret, and others may read or change it (its mode is {mode:o}); run chmod 600 on it",
            path.display()
        );
    }
    Ok(())
}

/// The key with which requests of the CLI are signed: Lambic's own variables first, else AWS's.
pub fn signer() -> anyhow::Result<Option<Signer>> {
    signer_of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn signer_of(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Signer>> {
    for prefix in ["LAMBIC", "AWS"] {
        let of = |name: &str| variable(&format!("{prefix}_{name}"));
        let (key_id, secret) = match (of("ACCESS_KEY_ID"), of("SECRET_ACCESS_KEY")) {
            (Some(key_id), Some(secret)) => (key_id, secret),
            (None, None) => continue,
            // AWS's may be meant for somebody else.
            _ if prefix == "AWS" => continue,
            _ => bail!(
                "LAMBIC_ACCESS_KEY_ID and LAMBIC_SECRET_ACCESS_KEY belong together: set both or none"
            ),
        };
        return Ok(Some(Signer {
            key_id,
            secret: Secret::new(secret),
            session_token: of("SESSION_TOKEN").map(Secret::new),
            region: variable("AWS_REGION")
                .or_else(|| variable("AWS_DEFAULT_REGION"))
                .unwrap_or_else(|| "us-east-1".to_owned()),
        }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    fn auth(text: &str) -> Auth {
        toml::from_str(text).expect("valid TOML")
    }

    #[test]
    fn keys_are_checked() {
        let key = |more: &str| format!("[[keys]]\nid = \"AKID\"\n{more}\n");
        let secret = format!("secret = \"{SECRET}\"");
        assert_eq!(auth(&key(&secret)).check(), Ok(()));
        assert_eq!(auth("keys = []").check(), Ok(()));
        for (text, what) in [
            (key(""), "either a `secret` or"),
            (
                key(&format!("{secret}\nsecret_file = \"x\"")),
                "either a `secret` or",
            ),
            (key("secret = \"short\""), "has 5 characters"),
            (key("secret = \"white space white space\""), "printable"),
            (key(&format!("{secret}\naccount = \"12\"")), "twelve digits"),
            (key(&format!("{secret}\nname = \"a b\"")), "`name`"),
            (
                key(&format!("{secret}\nsession_token = \"\\u0007\"")),
                "`session_token`",
            ),
            (key(&secret).repeat(2), "key 2: there is another"),
            (key(&secret).replace("AKID", "A/B"), "`id`"),
        ] {
            let wrong = auth(&text).check().expect_err(&text);
            assert!(wrong.contains(what), "{wrong}");
            assert!(
                !wrong.contains(SECRET) && !wrong.contains("short"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn secrets_stand_in_files_that_others_cannot_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (settings, secret) = (folder.path().join("s.toml"), folder.path().join("secret"));
        let closed = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        fs::write(&secret, format!("{SECRET}\n")).expect("it is written");
        fs::write(&settings, "").expect("it is written");
        let by_file = auth("[[keys]]\nid = \"AKID\"\nsecret_file = \"secret\"");
        let inline = auth(&format!("[[keys]]\nid = \"AKID\"\nsecret = \"{SECRET}\""));
        for (mode, is_taken) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o660, false),
            (0o604, false),
        ] {
            closed(&secret, mode);
            closed(&settings, mode);
            for mut auth in [by_file.clone(), inline.clone()] {
                let read = auth.read(&settings);
                assert_eq!(read.is_ok(), is_taken, "{mode:o}");
                match read {
                    Ok(()) => assert!(
                        auth.keys()
                            .get("AKID")
                            .expect("it is there")
                            .opens_with(SECRET)
                    ),
                    Err(error) => {
                        let told = format!("{error:#}");
                        assert!(
                            told.contains("chmod 600") && !told.contains(SECRET),
                            "{told}"
                        );
                    }
                }
                assert!(!format!("{auth:?}").contains(SECRET));
            }
        }
        // Settings that name a file only may be read by everybody.
        closed(&secret, 0o600);
        assert!(by_file.clone().read(&settings).is_ok());
        for (content, what) in [
            ("", "has 0 characters"),
            ("x".repeat(999).as_str(), "has 258"),
            ("two lines of\nwords", "printable"),
        ] {
            fs::write(&secret, content).expect("it is written");
            let wrong = by_file.clone().read(&settings).expect_err(what);
            assert!(format!("{wrong:#}").contains(what), "{wrong:#}");
        }
        fs::remove_file(&secret).expect("it is there");
        assert!(by_file.clone().read(&settings).is_err());
    }

    #[test]
    fn the_cli_takes_its_own_key_before_that_of_aws() {
        let of = |variables: &[(&str, &str)]| {
            let signer = signer_of(|name| {
                let mut found = variables.iter().filter(|(key, _)| *key == name);
                found.next().map(|(_, value)| (*value).to_owned())
            });
            signer
                .map(|signer| signer.map(|signer| (signer.key_id, signer.session_token.is_some())))
        };
        let ours = [
            ("LAMBIC_ACCESS_KEY_ID", "a"),
            ("LAMBIC_SECRET_ACCESS_KEY", "b"),
        ];
        let aws = [
            ("AWS_ACCESS_KEY_ID", "c"),
            ("AWS_SECRET_ACCESS_KEY", "d"),
            ("AWS_SESSION_TOKEN", "e"),
        ];
        let key = |id: &str, has_token| Some((id.to_owned(), has_token));
        assert_eq!(of(&[]).expect("none"), None);
        assert_eq!(of(&ours).expect("ours"), key("a", false));
        assert_eq!(
            of(&[&aws[..], &ours[..]].concat()).expect("both"),
            key("a", false)
        );
        assert_eq!(of(&aws).expect("AWS's"), key("c", true));
        assert_eq!(of(&aws[..1]).expect("half of AWS's"), None);
        assert!(of(&ours[..1]).is_err());
    }
}
