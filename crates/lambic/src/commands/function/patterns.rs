//! Patterns of files in `.gitignore`'s language, of which the last that fits counts.
//!
//! `*` and `?` stay within a name, `**` goes through folders, `[a-z]` is one of these, `!` takes back, `/` at the end
//! means folders only, `/` anywhere else means from the top. A folder that is left out is not looked into.

use anyhow::Context;
use regex::Regex;

pub struct Patterns(Vec<Pattern>);

struct Pattern {
    regex: Regex,
    is_taken_back: bool,
    is_folder: bool,
}

impl Patterns {
    pub fn new(lines: impl Iterator<Item = String>) -> anyhow::Result<Patterns> {
        let patterns = lines.filter_map(|line| parse(&line).transpose());
        Ok(Patterns(patterns.collect::<Result<_, _>>()?))
    }

    /// Whether a path (from the top, with `/`) is meant.
    pub fn matches(&self, path: &str, is_folder: bool) -> bool {
        let fits =
            |pattern: &&Pattern| (is_folder || !pattern.is_folder) && pattern.regex.is_match(path);
        let last = self.0.iter().rfind(fits);
        last.is_some_and(|pattern| !pattern.is_taken_back)
    }
}

/// `None` for an empty line or a comment.
fn parse(line: &str) -> anyhow::Result<Option<Pattern>> {
    let text = line.trim_end();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (is_taken_back, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (is_folder, text) = match text.strip_suffix('/') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let is_from_the_top = text.contains('/');
    let text = text.strip_prefix('/').unwrap_or(text);
    let start = if is_from_the_top { "^" } else { "^(?:.*/)?" };
    let regex = format!("(?s){start}{}$", translated(text));
    let regex = Regex::new(&regex).with_context(|| format!("`{line}` is no pattern"))?;
    Ok(Some(Pattern {
        regex,
        is_taken_back,
        is_folder,
    }))
}

fn translated(glob: &str) -> String {
    let mut regex = String::new();
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        let at_start = rest.len() == glob.len();
        if let (true, Some(behind)) = (at_start, rest.strip_prefix("**/")) {
            regex.push_str("(?:.*/)?");
            rest = behind;
        } else if rest == "/**" {
            regex.push_str("/.+");
            rest = "";
        } else if let Some(behind) = rest.strip_prefix("/**/") {
            regex.push_str("/(?:.*/)?");
            rest = behind;
        } else if rest.starts_with('*') {
            regex.push_str(if glob == "**" { ".*" } else { "[^/]*" });
            rest = rest.trim_start_matches('*');
        } else if let (Some(class), '[') = (class(rest), c) {
            // Its end is a byte of its own.
            let inside = &rest[1..class];
            let inside = match inside.strip_prefix(['!', '^']) {
                Some(inside) => format!("^{}", inside.replace('[', "\\[")),
                None => inside.replace('[', "\\["),
            };
            regex.push_str(&format!("[{inside}]"));
            rest = &rest[class + 1..];
        } else {
            let (c, behind) = match (c, rest[c.len_utf8()..].chars().next()) {
                ('\\', Some(next)) => (next, &rest[1 + next.len_utf8()..]),
                _ => (c, &rest[c.len_utf8()..]),
            };
            match c {
                '?' if !rest.starts_with('\\') => regex.push_str("[^/]"),
                c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
            rest = behind;
        }
    }
    regex
}

/// Where the class that a text begins with ends; a `]` at its start is one of its members.
fn class(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('[')?;
    let skipped = inside.len() - inside.trim_start_matches(['!', '^']).len();
    let start = 1 + skipped + usize::from(inside[skipped..].starts_with(']'));
    let end = text.get(start..)?.find(']')?;
    Some(start + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let check = |lines: &[&str], path: &str, expected: bool| {
            let lines = lines.iter().map(|line| (*line).to_owned());
            let patterns = Patterns::new(lines).unwrap();
            let (path, is_folder) = match path.strip_suffix('/') {
                Some(path) => (path, true),
                None => (path, false),
            };
            assert_eq!(patterns.matches(path, is_folder), expected, "{path}");
        };
        for (pattern, fits, fits_not) in [
            (
                "notes",
                &["notes", "a/notes", "notes/"][..],
                &["notes.md", "my-notes"][..],
            ),
            (
                "*.pyc",
                &["a.pyc", "b/a.pyc", ".pyc"],
                &["a.pyx", "a.pyc/b"],
            ),
            ("/top", &["top"], &["a/top"]),
            ("a/b", &["a/b"], &["x/a/b", "a/b/c"]),
            ("a/*", &["a/b"], &["a/b/c", "a"]),
            ("build/", &["build/", "x/build/"], &["build"]),
            ("**/x/y", &["x/y", "a/b/x/y"], &["x/z/y"]),
            ("a/**/b", &["a/b", "a/x/y/b"], &["b"]),
            ("a/**", &["a/b", "a/b/c"], &["a"]),
            ("**", &["a", "a/b"], &[]),
            ("a?c", &["abc"], &["a/c", "ac"]),
            ("[a-c]x", &["bx"], &["dx"]),
            ("[!a-c]x", &["dx"], &["bx"]),
            ("[]x]", &["]", "x"], &["a"]),
            ("a.b+(c)", &["a.b+(c)"], &["axb+(c)", "a.bb(c)"]),
            ("\\#x", &["#x"], &["x"]),
            ("\\*", &["*"], &["a"]),
            ("a[b", &["a[b"], &["ab"]),
            ("ü*", &["über"], &["uber"]),
        ] {
            for path in fits {
                check(&[pattern], path, true);
            }
            for path in fits_not {
                check(&[pattern], path, false);
            }
        }
        check(&["*.md", "!keep.md"], "keep.md", false);
        check(&["*.md", "!keep.md"], "a/other.md", true);
        check(&["!keep.md", "*.md"], "keep.md", true);
        check(&["# x", "", "   "], "x", false);
        assert!(Patterns::new(["[z-a]".to_owned()].into_iter()).is_err());
    }
}
