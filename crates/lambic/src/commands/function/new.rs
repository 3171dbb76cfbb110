//! `lambic function new`: a folder that works as it is, from a template of this program.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{super::Global, list};
use crate::{cli, output, toml_source::closest};

/// What a template is for, and the files that it writes. In them, `{{name}}` is the function's name, `{{crate}}` one
/// that a package may have, `{{lib}}` that of its library.
struct Template {
    name: &'static str,
    about: &'static str,
    needs: &'static str,
    files: &'static [File],
}

struct File {
    path: &'static str,
    text: &'static str,
    is_program: bool,
}

const fn file(path: &'static str, text: &'static str) -> File {
    File {
        path,
        text,
        is_program: false,
    }
}

const fn program(path: &'static str, text: &'static str) -> File {
    File {
        path,
        text,
        is_program: true,
    }
}

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/", $path))
    };
}

const IGNORED: File = file(".lambicignore", template!("lambicignore"));
const YOU: File = file("events/you.json", template!("greeting/you.json"));
const NOBODY: File = file("events/nobody.json", template!("greeting/nobody.json"));
const YOU_EXPECTED: File = file(
    "events/you.expected.json",
    template!("greeting/you.expected.json"),
);
const NOBODY_EXPECTED: File = file(
    "events/nobody.expected.json",
    template!("greeting/nobody.expected.json"),
);
const WORLD: File = file("wit/lambic.wit", template!("lambic.wit"));

const TEMPLATES: [Template; 10] = [
    Template {
        name: "python",
        about: "a function in Python",
        needs: "",
        files: &[
            file("handler.py", template!("python/handler.py")),
            file("README.md", template!("python/README.md")),
            IGNORED,
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "node",
        about: "a function in JavaScript",
        needs: "",
        files: &[
            file("index.mjs", template!("node/index.mjs")),
            file("package.json", template!("node/package.json")),
            file("README.md", template!("node/README.md")),
            IGNORED,
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "bash",
        about: "a function in bash, by AWS's Runtime API",
        needs: "",
        files: &[
            program("bootstrap", template!("bash/bootstrap")),
            file("handler.sh", template!("bash/handler.sh")),
            file("README.md", template!("bash/README.md")),
            IGNORED,
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "http",
        about: "a function in Python that answers HTTP requests at a URL",
        needs: "",
        files: &[
            file("handler.py", template!("http/handler.py")),
            file("README.md", template!("http/README.md")),
            IGNORED,
            file("events/get.json", template!("http/get.json")),
            file(
                "events/get.expected.json",
                template!("http/get.expected.json"),
            ),
            file("events/post.json", template!("http/post.json")),
            file(
                "events/post.expected.json",
                template!("http/post.expected.json"),
            ),
        ],
    },
    Template {
        name: "rust",
        about: "a function in Rust, on AWS's lambda_runtime",
        needs: "Rust",
        files: &[
            file("Cargo.toml", template!("rust/Cargo.toml")),
            file("src/main.rs", template!("rust/src/main.rs")),
            program("build", template!("rust/build")),
            file("README.md", template!("rust/README.md")),
            file(".lambicignore", template!("rust/lambicignore")),
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "wasm-python",
        about: "a WASI component in Python",
        needs: "componentize-py",
        files: &[
            file("app.py", template!("wasm-python/app.py")),
            program("build", template!("wasm-python/build")),
            file("README.md", template!("wasm-python/README.md")),
            file(".lambicignore", template!("wasm-python/lambicignore")),
            WORLD,
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "wasm-js",
        about: "a WASI component in JavaScript",
        needs: "Node and npm",
        files: &[
            file("function.js", template!("wasm-js/function.js")),
            file("build.mjs", template!("wasm-js/build.mjs")),
            file("package.json", template!("wasm-js/package.json")),
            file("README.md", template!("wasm-js/README.md")),
            file(".lambicignore", template!("wasm-js/lambicignore")),
            WORLD,
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "wasm-rust",
        about: "a WASI component in Rust",
        needs: "Rust with the target wasm32-wasip2",
        files: &[
            file("Cargo.toml", template!("wasm-rust/Cargo.toml")),
            file("src/lib.rs", template!("wasm-rust/src/lib.rs")),
            program("build", template!("wasm-rust/build")),
            file("README.md", template!("wasm-rust/README.md")),
            file(".lambicignore", template!("wasm-rust/lambicignore")),
            WORLD,
            YOU,
            YOU_EXPECTED,
            NOBODY,
            NOBODY_EXPECTED,
        ],
    },
    Template {
        name: "wasm-batch-rust",
        about: "a WASI component in Rust that takes batches of Arrow records",
        needs: "Rust with the target wasm32-wasip2",
        files: &[
            file("Cargo.toml", template!("wasm-batch-rust/Cargo.toml")),
            file("src/lib.rs", template!("wasm-batch-rust/src/lib.rs")),
            program("build", template!("wasm-batch-rust/build")),
            file("README.md", template!("wasm-batch-rust/README.md")),
            file(".lambicignore", template!("wasm-batch-rust/lambicignore")),
            WORLD,
        ],
    },
    Template {
        name: "wasm-http",
        about: "a WASI component in Rust that answers HTTP requests (wasi:http)",
        needs: "Rust with the target wasm32-wasip2",
        files: &[
            file("Cargo.toml", template!("wasm-http/Cargo.toml")),
            file("src/main.rs", template!("wasm-http/src/main.rs")),
            program("build", template!("wasm-http/build")),
            file("README.md", template!("wasm-http/README.md")),
            file(".lambicignore", template!("wasm-http/lambicignore")),
            file("events/get.json", template!("http/get.json")),
            file(
                "events/get.expected.json",
                template!("wasm-http/get.expected.json"),
            ),
            file("events/post.json", template!("http/post.json")),
            file(
                "events/post.expected.json",
                template!("http/post.expected.json"),
            ),
        ],
    },
];

pub fn templates(global: &Global) -> anyhow::Result<()> {
    let all: Vec<Value> = TEMPLATES
        .iter()
        .map(|template| {
            json!({ "template": template.name, "what": template.about, "needs": template.needs })
        })
        .collect();
    if global.json {
        return output::print_json(&Value::Array(all));
    }
    let columns = [
        ("template", "template"),
        ("what", "what"),
        ("needs", "needs"),
    ];
    output::print_rows(&list::rows(&all, &columns), false)
}

pub fn run(global: &Global, args: &cli::FunctionNew) -> anyhow::Result<()> {
    let template = find(&args.template)?;
    check_name(&args.name)?;
    let folder = args
        .folder
        .clone()
        .unwrap_or_else(|| PathBuf::from(&args.name));
    write(template, &args.name, &folder)?;
    if global.json {
        let files: Vec<&str> = template.files.iter().map(|file| file.path).collect();
        return output::print_json(&json!({
            "function": args.name,
            "template": template.name,
            "folder": folder.display().to_string(),
            "files": files,
        }));
    }
    let shown = folder.display();
    eprintln!(
        "{shown} has {}; {shown}/README.md says how to go on",
        template.about
    );
    match template.needs {
        "" => eprintln!("  lambic function create {} {shown}", args.name),
        needs => eprintln!("  it is built first, which needs {needs}"),
    }
    Ok(())
}

fn find(name: &str) -> anyhow::Result<&'static Template> {
    if let Some(template) = TEMPLATES.iter().find(|template| template.name == name) {
        return Ok(template);
    }
    let names = || TEMPLATES.iter().map(|template| template.name);
    let hint = match closest(name, names()) {
        Some(best) => format!("did you mean {best}?"),
        None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
    };
    bail!("there is no template {name:?}; {hint}")
}

/// AWS's rule for functions' names.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_allowed) {
        bail!(
            "{name:?} cannot be a function's name: it has 1 to 64 letters, digits, - and _; --folder says where the folder goes"
        );
    }
    Ok(())
}

/// Never over what is there.
fn write(template: &Template, name: &str, folder: &Path) -> anyhow::Result<()> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!(
                    "{} is there already and not empty; nothing was written",
                    folder.display()
                );
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write to {}", folder.display()));
        }
    }
    for file in template.files {
        let path = folder.join(file.path);
        let text = filled(file.text, name);
        let parent = path.parent().unwrap_or(folder);
        let written = fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .and_then(|()| match file.is_program {
                true => fs::set_permissions(&path, fs::Permissions::from_mode(0o755)),
                false => Ok(()),
            });
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn filled(text: &str, name: &str) -> String {
    let package = package_name(name);
    text.replace("{{name}}", name)
        .replace("{{crate}}", &package)
        .replace("{{lib}}", &package.replace('-', "_"))
}

/// Cargo's and npm's rules are narrower than AWS's.
fn package_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => name,
        false => format!("f{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_written_whole_and_never_over_anything() {
        let dir = tempfile::tempdir().unwrap();
        for template in &TEMPLATES {
            let folder = dir.path().join(template.name);
            write(template, "my-Function", &folder).unwrap();
            for file in template.files {
                let path = folder.join(file.path);
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("{{"), "{}: {text}", path.display());
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o100 != 0, file.is_program, "{}", path.display());
                if file.path.ends_with(".json") {
                    serde_json::from_str::<Value>(&text).unwrap();
                }
                if file.path == "Cargo.toml" {
                    toml::from_str::<toml::Table>(&text).unwrap();
                }
            }
            let named = |path: &str| template.files.iter().any(|file| file.path == path);
            assert!(
                named("README.md") && named(".lambicignore"),
                "{}",
                template.name
            );
            let error = write(template, "again", &folder).unwrap_err().to_string();
            assert!(error.contains("nothing was written"), "{error}");
        }
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        write(&TEMPLATES[0], "f", &empty).unwrap();
    }

    #[test]
    fn wrong_names_are_explained() {
        let error = |name| find(name).err().unwrap().to_string();
        assert!(error("pyton").contains("did you mean python?"));
        assert!(error("cobol").contains("there are python, node"));
        for name in ["", "a b", "ü", "a/b", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("my-Function_1").unwrap();
        assert_eq!(package_name("1-Go"), "f1-go");
    }
}
