//! `lambic __compile-component`: the child process in which a server compiles components, within limits.
//!
//! No command for people. A component on standard input becomes compiled code on standard output.

use std::{ffi::OsString, path::Path};

use lambic_functions::{Compiler, compile_stdin};

pub const NAME: &str = "__compile-component";

/// Ends the process: the one that started it reads its exit code.
pub fn run(memory_bytes_max: u64, cpu_s_max: u64) -> ! {
    std::process::exit(compile_stdin(memory_bytes_max, cpu_s_max).into())
}

/// How this program starts itself for that. `None`: it compiles by itself.
pub fn compiler() -> Option<Compiler> {
    // A program of tests has no commands.
    if cfg!(test) {
        return None;
    }
    // The very program that runs, also when its file was replaced meanwhile.
    let of_kernel = Path::new("/proc/self/exe");
    let program = match of_kernel.exists() {
        true => of_kernel.to_owned(),
        false => std::env::current_exe().ok()?,
    };
    Some(Compiler::new(program, [OsString::from(NAME)]))
}
