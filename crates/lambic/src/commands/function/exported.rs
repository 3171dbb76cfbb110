//! What a script of Node exports, as far as reading it tells. Pure.

use super::{guess::candidates, package::Package, runtimes::Language};

/// What to say of a script that does not export its handler, as far as reading it tells: one that exports in any other than
/// the usual forms may do.
pub fn unexported(package: &Package, runtime: &str, handler: &str) -> Option<String> {
    if Language::of(runtime) != Language::Node {
        return None;
    }
    let candidates = candidates(Language::Node, handler);
    let file = candidates.iter().find(|file| package.has(file))?;
    let (_, wanted) = handler.rsplit_once('.')?;
    let text = package.text(file)?;
    let is_told = !exports(&text).iter().any(|name| name == wanted)
        && !text.contains(&format!("this.{wanted}"))
        && exports_plainly(&text, wanted);
    is_told.then(|| format!("{file} does not export {wanted}, so that its events would fail"))
}

/// Whether [`exports`] finds all that a script exports; `wanted` is in none of the lines that do.
fn exports_plainly(text: &str, wanted: &str) -> bool {
    let lists = ["export {", "module.exports = {"];
    let is_list = |start: &str| {
        let mut parts = text.split(start).skip(1);
        let list = parts.next().unwrap_or_default();
        let list = list.split('}').next().unwrap_or_default();
        parts.next().is_none()
            && !list.contains(['{', '(', '[', '/', '"', '\''])
            && !list.contains("...")
    };
    let starts = [
        "export const ",
        "export let ",
        "export var ",
        "export function ",
        "export async function ",
        "export class ",
        // What any other default has is not seen.
        "export default function",
        "export default async",
        "export default (",
        "exports.",
        "module.exports.",
    ];
    let is_plain = |line: &str| {
        let is_usual = starts.iter().any(|start| line.starts_with(start));
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let has_it = line.split(|c| !is_part(c)).any(|word| word == wanted);
        // `export const { a } = b` has several names, and what ends so goes on.
        is_usual && !has_it && !line.contains("t {") && !line.trim_end().ends_with(',')
    };
    let mut lines = text.lines().map(str::trim_start);
    let is_comment = |line: &str| line.starts_with("//") || line.starts_with('*');
    lists.into_iter().all(is_list)
        && lines.all(|line| {
            let is_list = lists.iter().any(|start| line.starts_with(start));
            match line.matches("export").count() {
                0 => true,
                // `exports.a = exports.b = c`
                count => is_comment(line) || count == 1 && (is_list || is_plain(line)),
            }
        })
}

/// What a script exports, as far as its usual forms go.
pub fn exports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim_start) {
        let declared = ["export ", "exports.", "module.exports."]
            .iter()
            .find_map(|start| line.strip_prefix(start));
        if let Some(rest) = declared {
            let words = ["async ", "function ", "const ", "let ", "var "];
            let rest = words.iter().fold(rest, |rest, word| {
                rest.strip_prefix(word).unwrap_or(rest).trim_start()
            });
            found.push(word(rest));
        }
    }
    // `export { a, b as handler }` and `module.exports = { handler, other: … }`, also over several lines.
    for start in ["export {", "module.exports = {"] {
        let Some((_, rest)) = text.split_once(start) else {
            continue;
        };
        let list = rest.split('}').next().unwrap_or_default();
        let names = list.split(',').map(|item| {
            let item = item.rsplit(" as ").next().unwrap_or(item);
            word(item.trim())
        });
        found.extend(names);
    }
    found.retain(|name| !name.is_empty() && name != "default");
    found.dedup();
    found
}

/// The identifier that a text begins with.
fn word(text: &str) -> String {
    let is_part = |c: &char| c.is_alphanumeric() || *c == '_' || *c == '$';
    text.chars().take_while(is_part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, content: &str) -> Package {
        Package::single("code".to_owned(), name, content.as_bytes(), false).unwrap()
    }

    #[test]
    fn a_handler_that_a_script_does_not_export_is_told() {
        let check = |script: &str, is_told: bool| {
            let code = package("index.mjs", script);
            let told = unexported(&code, "nodejs20.x", "index.handler");
            assert_eq!(told.is_some(), is_told, "{script}: {told:?}");
        };
        for script in [
            "const handler = async () => {};\n",
            "async function handler() {}\n// exports.handler comes later\nexports.other = 1;\n",
            "export const other = async () => {};",
            "export default async () => {};",
            "const handler = 1;\nexport { other, more as another };",
            "module.exports = {\n  other,\n};",
        ] {
            check(script, true);
        }
        for script in [
            "exports.handler = async () => {};",
            "export const handler = async () => {};",
            "export const other = 1, handler = other;",
            "export const { handler } = made();",
            "export * from './other.mjs';",
            "export { handler } from './other.mjs';",
            "exports.other = exports.handler = async () => {};",
            "module.exports = made();",
            "module.exports={handler:1};",
            "module.exports = { other: { a: 1 }, handler };",
            "module.exports = { ...other };",
            "exports['handler'] = 1;",
            "this.handler = 1;",
            "module.exports = { 'handler': other };",
            "module.exports = { [name]: other };",
            "export { other as \"handler\" };",
            "const api = { handler };\nexport default api;",
            "export const other = 1,\n  handler = other;",
            "var o = {}; __export(o, { handler: () => handler });",
        ] {
            check(script, false);
        }
        let code = package("app.py", "def other(event, context): ...");
        assert_eq!(unexported(&code, "python3.11", "app.handler"), None);
        assert_eq!(unexported(&code, "nodejs20.x", "app.handler"), None);
    }
}
