//! The functions that are measured, deployed by AWS's API.

use std::{io::Write, sync::LazyLock};

use anyhow::Context;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::http::{self, Connection};

const FUNCTIONS: &str = "/2015-03-31/functions";
const PYTHON: &str = "def handler(event, context):\n    return event\n";
/// Answers when it ran, and keeps its environment while the others come.
const PYTHON_CLOCK: &str = "import time\n\ndef handler(event, context):\n    at = time.time()\n    time.sleep(5)\n    return at\n";
const NODE: &str = "exports.handler = async (event) => event;\n";
const WASM: &str = include_str!("../echo.wat");
const WASM_HTTP: &str = include_str!("../web.wat");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Python,
    PythonClock,
    Node,
    /// It takes events.
    Wasm,
    /// It takes HTTP requests.
    WasmHttp,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Program::Python | Program::PythonClock => "python",
            Program::Node => "node",
            Program::Wasm => "wasm",
            Program::WasmHttp => "wasm_http",
        }
    }

    /// AWS's name of it, as this machine has it.
    pub fn runtime(self) -> &'static str {
        static PYTHON: LazyLock<String> = LazyLock::new(|| {
            let version = version("python3").unwrap_or_default();
            let minor = version.split('.').nth(1).unwrap_or("11").to_owned();
            format!("python3.{minor}")
        });
        static NODE: LazyLock<String> = LazyLock::new(|| {
            let version = version("node").unwrap_or_default();
            let major = version.split('.').next().unwrap_or_default();
            format!("nodejs{}.x", major.trim_start_matches('v'))
        });
        match self {
            Program::Python | Program::PythonClock => &PYTHON,
            Program::Node => &NODE,
            Program::Wasm | Program::WasmHttp => "provided.wasm",
        }
    }

    pub fn handler(self) -> &'static str {
        match self {
            Program::Wasm | Program::WasmHttp => "app.wasm",
            _ => "app.handler",
        }
    }

    /// Of the file that it consists of.
    pub fn code(self) -> &'static str {
        match self {
            Program::Python => PYTHON,
            Program::PythonClock => PYTHON_CLOCK,
            Program::Node => NODE,
            Program::Wasm => WASM,
            Program::WasmHttp => WASM_HTTP,
        }
    }

    /// The number makes it other code, which was neither compiled nor started before.
    fn file(self, number: usize) -> (&'static str, String) {
        match self {
            Program::Python | Program::PythonClock => {
                ("app.py", format!("{}# {number}\n", self.code()))
            }
            Program::Node => ("app.js", format!("{}// {number}\n", self.code())),
            Program::Wasm | Program::WasmHttp => {
                ("app.wasm", format!("{};; {number}\n", self.code()))
            }
        }
    }

    /// As its user would upload it, base64.
    pub fn zip(self, number: usize) -> anyhow::Result<Vec<u8>> {
        let (name, content) = self.file(number);
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.start_file(name, zip::write::SimpleFileOptions::default())?;
        zip.write_all(content.as_bytes())?;
        Ok(zip.finish()?.into_inner())
    }
}

/// `Python 3.11.2` and `v20.19.2` are what they say.
fn version(program: &str) -> Option<String> {
    let said = std::process::Command::new(program)
        .arg("--version")
        .output();
    let said = String::from_utf8(said.ok()?.stdout).ok()?;
    said.split_whitespace().last().map(str::to_owned)
}

pub struct Api {
    pub address: String,
}

impl Api {
    pub fn new(address: &str) -> Api {
        Api {
            address: address.to_owned(),
        }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = body.to_string();
        let request = http::with_body(method, &self.address, path, body.as_bytes());
        let answer = Connection::open(&self.address)?.ask(&request);
        let answer = answer.with_context(|| format!("{method} {path}"))?;
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }

    pub fn create(&self, name: &str, program: Program, number: usize) -> anyhow::Result<()> {
        let zip = BASE64_STANDARD.encode(program.zip(number)?);
        self.ask("POST", FUNCTIONS, &super::creation(name, program, &zip))?;
        Ok(())
    }

    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.ask("DELETE", &format!("{FUNCTIONS}/{name}"), &json!({}))?;
        Ok(())
    }

    pub fn set_concurrency(&self, name: &str, limit: usize) -> anyhow::Result<()> {
        let body = json!({ "ReservedConcurrentExecutions": limit });
        let path = format!("/2017-10-31/functions/{name}/concurrency");
        self.ask("PUT", &path, &body)?;
        Ok(())
    }

    /// Opens a URL for everybody; its path.
    pub fn url(&self, name: &str) -> anyhow::Result<String> {
        self.ask(
            "POST",
            &format!("{FUNCTIONS}/{name}/policy"),
            &json!({
                "StatementId": "everybody",
                "Action": "lambda:InvokeFunctionUrl",
                "Principal": "*",
                "FunctionUrlAuthType": "NONE",
            }),
        )?;
        let path = format!("/2021-10-31/functions/{name}/url");
        let made = self.ask("POST", &path, &json!({ "AuthType": "NONE" }))?;
        let url = made["FunctionUrl"].as_str().context("it has a URL")?;
        Ok(url::Url::parse(url)?.path().to_owned())
    }

    /// The request that invokes a function and waits.
    pub fn invocation(&self, name: &str, event: &[u8]) -> Vec<u8> {
        let path = format!("{FUNCTIONS}/{name}/invocations");
        http::with_body("POST", &self.address, &path, event)
    }
}
