//! Which runtime and handler code wants, by what is in it; and whether a handler's file is there. Pure.

use super::{
    exported::exports,
    package::Package,
    runtimes::{Language, Machine},
};
use crate::toml_source::closest;

/// A runtime and a handler, and what they were seen by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    pub runtime: String,
    pub handler: String,
    pub because: String,
}

/// Files that handlers usually stand in, and the names that they usually have.
const MODULES: [&str; 6] = [
    "handler",
    "lambda_function",
    "app",
    "main",
    "index",
    "function",
];
const NAMES: [&str; 4] = ["handler", "lambda_handler", "lambdaHandler", "main"];
const SCRIPTS: [&str; 3] = ["mjs", "js", "cjs"];

/// The runtime and handler of code; what is given is not guessed.
pub fn guess(
    package: &Package,
    runtime: Option<&str>,
    handler: Option<&str>,
    machine: &Machine,
) -> Result<Guess, String> {
    let runtime = runtime.map(|name| machine.runtime(name)).transpose()?;
    let seen = match (&runtime, handler) {
        (Some(runtime), Some(handler)) => {
            return Ok(Guess {
                runtime: runtime.clone(),
                handler: handler.to_owned(),
                because: String::new(),
            });
        }
        (Some(runtime), None) => of_language(package, Language::of(runtime))?,
        (None, Some(handler)) => by_handler(package, handler)?,
        (None, None) => by_files(package)?,
    };
    let runtime = match runtime {
        Some(runtime) => runtime,
        None => machine.version(seen.language)?,
    };
    Ok(Guess {
        runtime,
        handler: handler.map_or(seen.handler, str::to_owned),
        because: seen.because,
    })
}

/// What was found in code.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    language: Language,
    handler: String,
    because: String,
}

fn of_language(package: &Package, language: Language) -> Result<Seen, String> {
    let none = |what: &str| {
        format!(
            "{} has no {what}; say --handler FILE.FUNCTION",
            package.shown
        )
    };
    let seen = match language {
        Language::Python => python(package)?.ok_or_else(|| none("Python file with a handler"))?,
        Language::Node => node(package)?.ok_or_else(|| none("JavaScript file with a handler"))?,
        Language::Wasm => match component(package)? {
            Some(seen) => seen,
            None => return Err(unbuilt(package)),
        },
        Language::Bootstrap | Language::Other => Seen {
            language,
            handler: "bootstrap".to_owned(),
            because: String::new(),
        },
    };
    Ok(seen)
}

fn by_handler(package: &Package, handler: &str) -> Result<Seen, String> {
    let languages = [
        Language::Bootstrap,
        Language::Wasm,
        Language::Python,
        Language::Node,
    ];
    let fits = |language: &Language| {
        let candidates = candidates(*language, handler);
        candidates.iter().any(|file| package.has(file))
    };
    match languages.iter().find(|language| fits(language)) {
        Some(language) => Ok(Seen {
            language: *language,
            handler: handler.to_owned(),
            because: String::new(),
        }),
        None => Err(format!(
            "{} has no file for the handler {handler}, neither in Python nor in JavaScript; it holds {}",
            package.shown,
            some_of(package)
        )),
    }
}

fn by_files(package: &Package) -> Result<Seen, String> {
    if package.has("bootstrap") {
        return Ok(Seen {
            language: Language::Bootstrap,
            handler: "bootstrap".to_owned(),
            because: "it holds a program named bootstrap".to_owned(),
        });
    }
    if let Some(seen) = component(package)? {
        return Ok(seen);
    }
    // Sources of a component may look like a function's.
    if package.files.keys().any(|name| name.ends_with(".wit")) {
        return Err(unbuilt(package));
    }
    match (python(package)?, node(package)?) {
        (Some(one), Some(other)) => Err(format!(
            "{} holds handlers in Python ({}) and in JavaScript ({}); say --runtime python or --runtime node",
            package.shown, one.handler, other.handler
        )),
        (Some(seen), None) | (None, Some(seen)) => Ok(seen),
        (None, None) => Err(unbuilt(package)),
    }
}

/// The component at the top.
fn component(package: &Package) -> Result<Option<Seen>, String> {
    let found: Vec<&str> = package
        .top()
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(Seen {
            language: Language::Wasm,
            handler: (*one).to_owned(),
            because: format!("it holds the component {one}"),
        })),
        several => Err(format!(
            "{} holds several components ({}); say which with --handler",
            package.shown,
            several.join(", ")
        )),
    }
}

fn python(package: &Package) -> Result<Option<Seen>, String> {
    handler_of(package, Language::Python, &["py"], python_functions)
}

fn node(package: &Package) -> Result<Option<Seen>, String> {
    handler_of(package, Language::Node, &SCRIPTS, exports)
}

/// The usual handler of the usual file; else the only one that there is.
fn handler_of(
    package: &Package,
    language: Language,
    extensions: &[&str],
    functions: fn(&str) -> Vec<String>,
) -> Result<Option<Seen>, String> {
    let is_source = |file: &&str| {
        let extension = file.rsplit_once('.').map(|(_, extension)| extension);
        extension.is_some_and(|extension| extensions.contains(&extension))
    };
    let rank = |file: &str| {
        let (module, extension) = file.rsplit_once('.').unwrap_or_default();
        let usual = MODULES.iter().position(|name| *name == module);
        let extension = extensions.iter().position(|name| *name == extension);
        (usual.unwrap_or(MODULES.len()), extension)
    };
    let mut files: Vec<&str> = package.top().filter(is_source).collect();
    files.sort_by_key(|file| (rank(file), *file));
    let mut others: Vec<String> = Vec::new();
    for file in files {
        let (module, _) = file.rsplit_once('.').unwrap_or_default();
        let found = functions(&package.text(file).unwrap_or_default());
        let usual = NAMES
            .iter()
            .find(|name| found.iter().any(|one| one == *name));
        match usual {
            Some(name) => {
                return Ok(Some(Seen {
                    language,
                    handler: format!("{module}.{name}"),
                    because: format!("{file} has a function {name}"),
                }));
            }
            None => others.extend(found.iter().map(|name| format!("{module}.{name}"))),
        }
    }
    match others.as_slice() {
        [one] => Ok(Some(Seen {
            language,
            handler: one.clone(),
            because: "no other function could be a handler".to_owned(),
        })),
        _ => Ok(None),
    }
}

/// Functions at the top of a Python file that take an event and a context.
fn python_functions(text: &str) -> Vec<String> {
    let functions = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("def ")?.split_once('(')?;
        let is_usual = NAMES.contains(&name.trim());
        let takes_two = match rest.split_once(')') {
            // Types of parameters may have commas of their own.
            Some((parameters, _)) => match parameters.matches(',').count() {
                0 => parameters.contains('*'),
                1 => true,
                _ => is_usual,
            },
            // They go on in the next line.
            None => is_usual,
        };
        takes_two.then(|| name.trim().to_owned())
    });
    functions.filter(|name| !name.starts_with('_')).collect()
}

/// Why nothing in the code can run, and what to do.
fn unbuilt(package: &Package) -> String {
    let has = |ending: &str| package.files.keys().any(|name| name.ends_with(ending));
    let manifest = package.text("Cargo.toml");
    let of_components = ["wit-bindgen", "wstd", "wasip2", "spin-sdk"];
    let is_component = |manifest: &String| of_components.iter().any(|name| manifest.contains(name));
    let advice = match () {
        () if manifest.is_some()
            && (has(".wit") || manifest.as_ref().is_some_and(is_component)) =>
        {
            "it is a component that is not built yet: cargo build --release --target wasm32-wasip2, and copy the .wasm file to its top"
        }
        () if manifest.is_some() => {
            "build it first: cargo lambda build --release, then give target/lambda/NAME/bootstrap"
        }
        () if has(".wit") => {
            "it is a component that is not built yet; give the .wasm file once it is"
        }
        () if package.has("go.mod") => {
            "build it first: CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap, then give bootstrap"
        }
        () if has(".ts") => "TypeScript is compiled first; give the folder with the .js files",
        () if has(".java") || has(".jar") || has(".csproj") => {
            "Java and .NET run as a program named bootstrap only, which their native compilers make"
        }
        () => "say --runtime and --handler",
    };
    format!(
        "nothing in {} can be seen to be a function ({}); {advice}",
        package.shown,
        some_of(package)
    )
}

fn some_of(package: &Package) -> String {
    let mut names: Vec<&str> = package.files.keys().map(String::as_str).take(6).collect();
    if package.files.len() > names.len() {
        names.push("…");
    }
    names.join(", ")
}

/// The files that may hold a handler, the usual one first; none where there is no telling.
pub fn candidates(language: Language, handler: &str) -> Vec<String> {
    let module = match handler.rsplit_once('.') {
        Some((module, function)) if !module.is_empty() && !function.is_empty() => module,
        _ => "",
    };
    match language {
        Language::Bootstrap => vec!["bootstrap".to_owned()],
        Language::Wasm => vec![handler.to_owned()],
        Language::Python if !module.is_empty() => {
            let module = module.replace('.', "/");
            vec![format!("{module}.py"), format!("{module}/__init__.py")]
        }
        Language::Node if !module.is_empty() => ["js", "mjs", "cjs"]
            .map(|extension| format!("{module}.{extension}"))
            .to_vec(),
        Language::Python | Language::Node | Language::Other => Vec::new(),
    }
}

/// What is wrong with a handler, if that can be seen. Where there are layers, its file may be in one.
pub fn trouble(package: &Package, runtime: &str, handler: &str) -> Option<String> {
    let language = Language::of(runtime);
    let candidates = candidates(language, handler);
    let Some(usual) = candidates.first() else {
        let wants_function = matches!(language, Language::Python | Language::Node);
        return wants_function.then(|| {
            format!("{handler:?} is no handler: it is FILE.FUNCTION, as in handler.handler")
        });
    };
    if let Some(file) = candidates.iter().find(|file| package.has(file)) {
        return misspelt(package, language, file, handler);
    }
    let source = usual
        .rsplit_once('.')
        .map(|(module, _)| format!("{module}.ts"));
    let hint = match source.filter(|file| language == Language::Node && package.has(file)) {
        Some(source) => format!("; {source} is: compile it first"),
        None => format!("; it holds {}", some_of(package)),
    };
    Some(match language {
        Language::Bootstrap => format!(
            "{runtime} runs a program named bootstrap, which is not in {}{hint}",
            package.shown
        ),
        _ => format!(
            "the handler {handler} wants the file {usual}, which is not in {}{hint}",
            package.shown
        ),
    })
}

/// A function that its file does not name anywhere, where one that it has is named alike. Anything else may be: a
/// function can come from another module.
fn misspelt(package: &Package, language: Language, file: &str, handler: &str) -> Option<String> {
    let (module, wanted) = handler.rsplit_once('.')?;
    let text = match language {
        Language::Python | Language::Node => package.text(file)?,
        _ => return None,
    };
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    if text.split(|c| !is_part(c)).any(|word| word == wanted) {
        return None;
    }
    let there = match language {
        Language::Python => python_functions(&text),
        _ => exports(&text),
    };
    let best = closest(wanted, there.iter().map(String::as_str))?;
    Some(format!(
        "{file} has no function {wanted}; did you mean the handler {module}.{best}?"
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::{super::runtimes::tests::machine, *};

    fn package(files: &[(&str, &str)]) -> Package {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        let zip = writer.finish().unwrap().into_inner();
        Package::zipped("code".to_owned(), zip).unwrap()
    }

    #[test]
    fn runtimes_and_handlers_are_seen_in_code() {
        let check = |files: &[(&str, &str)], expected: &str| {
            let found = match guess(
                &package(files),
                None,
                None,
                &machine("python3.11", "nodejs20.x"),
            ) {
                Ok(guess) => format!("{} {}", guess.runtime, guess.handler),
                Err(error) => error,
            };
            assert!(found.contains(expected), "{files:?}: {found}");
        };
        let python = "import os\n\ndef helper(a):\n    pass\n\ndef lambda_handler(event, context):\n    pass\n";
        check(
            &[("lambda_function.py", python)],
            "python3.11 lambda_function.lambda_handler",
        );
        check(
            &[
                ("app.py", python),
                ("handler.py", "def handler(event, context): ..."),
                ("z.py", ""),
            ],
            "python3.11 handler.handler",
        );
        check(
            &[("thing.py", "def go(event, context):\n")],
            "python3.11 thing.go",
        );
        check(
            &[("thing.py", "def go(event):\n")],
            "say --runtime and --handler",
        );
        for script in [
            "export const handler = async (event) => {}",
            "exports.handler = async function () {}",
            "module.exports.handler = () => {}",
            "export async function handler(event) {}",
            "const handler = () => {}; module.exports = {\n  other: 1,\n  handler,\n};",
            "function f() {}\nexport { f as handler };",
        ] {
            check(&[("index.js", script)], "nodejs20.x index.handler");
        }
        check(
            &[
                ("index.mjs", "export const handler = 1"),
                ("index.js", "exports.other = 1"),
            ],
            "nodejs20.x index.handler",
        );
        check(
            &[("bootstrap", "#!"), ("handler.py", python)],
            "provided.al2023 bootstrap",
        );
        check(
            &[("function.wasm", "x"), ("app.py", python)],
            "wasm function.wasm",
        );
        check(&[("a.wasm", "x"), ("b.wasm", "x")], "several components");
        check(
            &[("app.py", python), ("index.js", "exports.handler = 1")],
            "say --runtime python or --runtime node",
        );
        check(
            &[("Cargo.toml", ""), ("src/main.rs", "")],
            "cargo lambda build",
        );
        check(&[("Cargo.toml", ""), ("wit/a.wit", "")], "wasm32-wasip2");
        check(&[("app.py", python), ("wit/a.wit", "")], "not built yet");
        check(&[("go.mod", "")], "go build");
        check(&[("index.ts", "")], "compiled first");
        check(&[("pom.xml", ""), ("src/A.java", "")], "native compilers");
        check(&[("readme", "")], "(readme); say --runtime");
    }

    #[test]
    fn what_is_given_is_not_guessed() {
        let python = "def handler(event, context): ...";
        let both = package(&[
            ("app.py", python),
            ("index.js", "exports.go = 1"),
            ("a/b.py", ""),
        ]);
        let check = |runtime, handler, expected: &str| {
            let found = match guess(
                &both,
                runtime,
                handler,
                &machine("python3.11", "nodejs20.x"),
            ) {
                Ok(guess) => format!("{} {}", guess.runtime, guess.handler),
                Err(error) => error,
            };
            assert!(found.contains(expected), "{runtime:?} {handler:?}: {found}");
        };
        check(Some("python"), None, "python3.11 app.handler");
        check(Some("node"), None, "nodejs20.x index.go");
        check(None, Some("index.go"), "nodejs20.x index.go");
        check(None, Some("a/b.go"), "python3.11 a/b.go");
        check(None, Some("c.go"), "no file for the handler c.go");
        check(Some("python3.12"), Some("x.y"), "python3.12 x.y");
        check(Some("wasm"), None, "say --runtime and --handler");
        check(Some("pythn3.11"), None, "did you mean python3.11?");
        check(Some("nodejs20"), None, "did you mean nodejs20.x?");
        check(Some("cobol"), None, "there are python3.x");
        check(Some("java21"), Some("a.B"), "java21 a.B");
    }

    #[test]
    fn a_handler_that_is_not_there_is_told() {
        let code = package(&[("app.py", ""), ("lib/__init__.py", ""), ("index.ts", "")]);
        let check = |runtime: &str, handler: &str, expected: Option<&str>| {
            let found = trouble(&code, runtime, handler);
            match expected {
                None => assert_eq!(found, None),
                Some(part) => {
                    let found = found.unwrap();
                    assert!(found.contains(part), "{found}");
                }
            }
        };
        check("python3.11", "app.handler", None);
        check("python3.11", "lib.handler", None);
        check(
            "python3.11",
            "other.handler",
            Some("wants the file other.py"),
        );
        check("python3.11", "handler", Some("is no handler"));
        check(
            "nodejs20.x",
            "index.handler",
            Some("index.ts is: compile it first"),
        );
        check("provided.al2023", "any", Some("a program named bootstrap"));
        check("java21", "a.B::c", None);
        let code = package(&[
            ("app.py", "def handler(event, context): ..."),
            ("other.py", "from app import handler as hander"),
            ("made.py", "globals()['go'] = 1"),
            ("index.mjs", "export const handler = async () => {}"),
        ]);
        for (runtime, handler, expected) in [
            (
                "python3.11",
                "app.hander",
                Some("app.py has no function hander; did you mean the handler app.handler?"),
            ),
            ("python3.11", "app.handler", None),
            ("python3.11", "app.entirely", None),
            ("python3.11", "other.hander", None),
            ("python3.11", "made.og", None),
            (
                "nodejs20.x",
                "index.Handler",
                Some("index.mjs has no function Handler; did you mean the handler index.handler?"),
            ),
        ] {
            let found = trouble(&code, runtime, handler);
            assert_eq!(found.as_deref(), expected, "{handler}");
        }
        check(
            "wasm",
            "function.wasm",
            Some("wants the file function.wasm"),
        );
    }
}
