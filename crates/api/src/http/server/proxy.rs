//! What a proxy before the server says of a request: whose it is, and whether it came encrypted.
//!
//! It is believed only where the settings say that there is a proxy (`by_proxy`), since clients can write these headers
//! as well. A proxy adds what it saw itself behind what it was told, so that the last entry is its own. Pure.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// The address from which the proxy was asked, if it says so in a form that is known.
pub fn caller(headers: &HeaderMap) -> Option<IpAddr> {
    let entry = last(headers, "x-forwarded-for")?;
    // Some add the port.
    let with_port = || entry.parse::<SocketAddr>().map(|address| address.ip());
    let bare = entry
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(entry).parse().or_else(|_| with_port()).ok()
}

pub fn is_secured(headers: &HeaderMap) -> bool {
    last(headers, "x-forwarded-proto").is_some_and(|proto| proto.eq_ignore_ascii_case("https"))
}

/// The last entry of the last of the headers of this name.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn with(name: &'static str, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_static(value);
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    #[test]
    fn the_last_entry_is_the_proxys_own() {
        let caller = |values: &[&'static str]| {
            let found = super::caller(&with("x-forwarded-for", values));
            found.map(|address| address.to_string())
        };
        for (values, expected) in [
            (&["192.0.2.7"][..], Some("192.0.2.7")),
            (&["203.0.113.9, 192.0.2.7"], Some("192.0.2.7")),
            // Who sends the header itself writes what it likes before that.
            (&["127.0.0.1", "192.0.2.7"], Some("192.0.2.7")),
            (&["192.0.2.7:4711"], Some("192.0.2.7")),
            (&["2001:db8::7"], Some("2001:db8::7")),
            (&["[2001:db8::7]"], Some("2001:db8::7")),
            (&["[2001:db8::7]:4711"], Some("2001:db8::7")),
            (&[], None),
            (&[""], None),
            (&["unknown"], None),
            (&["192.0.2.7, unknown"], None),
            (&["192.0.2.7,"], None),
            (&["192.0.2.7 "], Some("192.0.2.7")),
            (&["192.0.2.700"], None),
            (&["[192.0.2.7"], None),
        ] {
            assert_eq!(caller(values).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn a_request_came_encrypted_where_the_proxy_says_so() {
        for (values, expected) in [
            (&["https"][..], true),
            (&["HTTPS"], true),
            (&["http, https"], true),
            (&["https, http"], false),
            (&["https", "http"], false),
            (&["http"], false),
            (&["gopher"], false),
            (&[], false),
        ] {
            let headers = with("x-forwarded-proto", values);
            assert_eq!(is_secured(&headers), expected, "{values:?}");
        }
    }
}
