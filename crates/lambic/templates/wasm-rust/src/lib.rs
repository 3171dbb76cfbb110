//! Greets whom the event names.

use serde_json::{Value, json};

wit_bindgen::generate!({ world: "handler", path: "wit" });

struct Function;

export!(Function);

impl Guest for Function {
    fn handle(event: String) -> Result<String, String> {
        let event: Value = serde_json::from_str(&event).map_err(|error| error.to_string())?;
        let name = event["name"].as_str().unwrap_or("world");
        // A line of `lambic function logs {{name}}`.
        log(&format!("greeting {name}"));
        Ok(json!({ "message": format!("hello {name}") }).to_string())
    }
}
