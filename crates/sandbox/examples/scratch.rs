use lambic_sandbox::wasm::{Limits, Wasm};
use std::time::{Duration, Instant};
#[tokio::main]
async fn main() {
    let path = std::env::args().nth(1).unwrap();
    let event = std::env::args().nth(2).unwrap_or("{}".into());
    let rounds: u32 = std::env::args().nth(3).map_or(1, |n| n.parse().unwrap());
    let limits = Limits {
        timeout: Duration::from_secs(10),
        memory_mb: 256,
        log_bytes_max: 64 << 10,
    };
    let wasm = Wasm::new("/tmp/try-wasm/cache").unwrap();
    let start = Instant::now();
    let module = match wasm.load(&std::fs::read(path).unwrap(), limits) {
        Ok(m) => m,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    println!(
        "loaded in {:?}: {:?} {:?}",
        start.elapsed(),
        module.world(),
        module.signatures()
    );
    let start = Instant::now();
    let mut last = None;
    for _ in 0..rounds {
        last = Some(module.invoke("id", event.as_bytes(), &[], limits).await);
    }
    let last = last.unwrap();
    println!("{:?} each", start.elapsed() / rounds);
    match &last.outcome {
        lambic_model::Outcome::Success(b) => println!("{}", String::from_utf8_lossy(b)),
        lambic_model::Outcome::Failure { payload, .. } => {
            println!("FAILED {}", String::from_utf8_lossy(payload))
        }
    }
    println!("{:?} peak {}", last.duration, last.memory_peak_bytes);
    for line in last.lines {
        println!("| {}", line.line);
    }
}
