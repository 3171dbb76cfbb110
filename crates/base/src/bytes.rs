//! Sizes as people write them: `64MB`, `1.5 GiB`, `4096`.

/// As in Postgres, a kilobyte has 1,024 bytes, with or without the `i`.
const UNITS: [(&str, u32); 5] = [("", 0), ("k", 10), ("m", 20), ("g", 30), ("t", 40)];

/// In bytes; a number without a unit is one of bytes. `None` if it is no size, or none that can be counted.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (number, unit) = (number.replace('_', ""), unit.trim().to_ascii_lowercase());
    let prefix = match unit.strip_suffix('b') {
        Some(prefix) => match prefix.strip_suffix('i') {
            Some("") => return None,
            short => short.unwrap_or(prefix),
        },
        None if unit.is_empty() => "",
        None => return None,
    };
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == prefix)?;
    let unit = 1u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// In the largest unit of 1,024s of which there is at least one: `1.5 GiB`.
pub fn shown(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        let one = 1u64 << shift;
        if bytes >= one {
            let tenths = (bytes as f64 / one as f64 * 10.0).round() / 10.0;
            return format!("{tenths} {unit}");
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4_096", Some(4096)),
            ("64MB", Some(64 << 20)),
            ("7 b", Some(7)),
            (" 64 mib ", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("2TB", Some(2 << 40)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999TiB", None),
            ("64 MBit", None),
            ("1.2.3", None),
            ("-1", None),
            ("MB", None),
            ("5 i", None),
            ("5 ib", None),
            ("5 m", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(parse(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 10, "1 KiB"),
            (3 << 29, "1.5 GiB"),
            (5 << 40, "5 TiB"),
        ] {
            assert_eq!(shown(bytes), text);
            assert_eq!(parse(text), Some(bytes));
        }
    }
}
