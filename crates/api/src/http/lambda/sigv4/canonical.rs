//! The one form of a request's head that both sides sign, whatever it looks like on the wire.

use axum::http::HeaderMap;

/// What of a head is signed.
pub struct Head<'a> {
    pub method: &'a str,
    /// As it was sent, encoded.
    pub path: &'a str,
    /// In its canonical form.
    pub query: &'a str,
    /// `host;x-amz-date`
    pub signed_headers: &'a str,
}

impl Head<'_> {
    /// Up to the line of the body's digest; `None` if it has no such form.
    pub fn text(&self, headers: &HeaderMap) -> Option<Vec<u8>> {
        // Signers take the dots out of a path before they sign, and handlers do not: a signature for one path would do
        // for another.
        if self.path.split('/').any(|part| matches!(part, "." | "..")) {
            return None;
        }
        let values = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        Some(self.text_of(values.collect()))
    }

    /// Of headers with lower-case names, those of one name in the order in which they came.
    pub fn text_of(&self, headers: Vec<(&str, &[u8])>) -> Vec<u8> {
        let mut text =
            format!("{}\n{}\n{}\n", self.method, path(self.path), self.query).into_bytes();
        for name in self.signed_headers.split(';') {
            let values = headers.iter().filter(|(of, _)| *of == name);
            let values: Vec<Vec<u8>> = values.map(|(_, value)| trimmed(value)).collect();
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            text.extend_from_slice(&values.join(&b','));
            text.push(b'\n');
        }
        text.push(b'\n');
        text.extend_from_slice(self.signed_headers.as_bytes());
        text.push(b'\n');
        text
    }
}

/// Encoded once more, without empty parts.
fn path(sent: &str) -> String {
    let parts: Vec<&str> = sent.split('/').filter(|part| !part.is_empty()).collect();
    let end = match sent.ends_with('/') && !parts.is_empty() {
        true => "/",
        false => "",
    };
    encode(format!("/{}{end}", parts.join("/")).as_bytes(), b"/")
}

/// Without blanks around it, and with one for several in it.
fn trimmed(value: &[u8]) -> Vec<u8> {
    let words = value.split(u8::is_ascii_whitespace);
    let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
    words.join(&b' ')
}

/// Percent signs for all but letters, digits, `-._~`, and `kept`.
pub fn encode(bytes: &[u8], kept: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// What stands in a query; a percent sign without two digits behind it is one.
pub fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        let digit = char::from(*bytes.get(at)?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, length) = match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => (high << 4 | low, 3),
            (b'+', ..) => (b' ', 1),
            (byte, ..) => (byte, 1),
        };
        decoded.push(byte);
        at += length;
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_once_more() {
        for (sent, expected) in [
            ("/", "/"),
            ("", "/"),
            ("//", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a//b/", "/a/b/"),
            ("/f%3A%24LATEST", "/f%253A%2524LATEST"),
            ("/f:$LATEST", "/f%3A%24LATEST"),
            ("/a~b", "/a~b"),
        ] {
            assert_eq!(path(sent), expected, "{sent}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        for (text, expected) in [
            ("a+b", &b"a b"[..]),
            ("a%20b%2B", b"a b+"),
            ("%c3%BC", "ü".as_bytes()),
            ("%", b"%"),
            ("%4", b"%4"),
            ("%zz", b"%zz"),
            ("%FF", b"\xff"),
        ] {
            assert_eq!(decode(text), expected, "{text}");
        }
    }

    #[test]
    fn values_are_trimmed() {
        assert_eq!(trimmed(b"  a   b\t c "), b"a b c");
        assert_eq!(trimmed(b""), b"");
    }
}
