//! The attacks: which file, and how it must end.

/// How an attack ends.
pub enum Ends {
    /// As a failure of one of these types.
    Fails(&'static [&'static str]),
    /// With this answer. Those that look for something give a list of what they found.
    Answers(&'static str),
}

use Ends::{Answers, Fails};

const NOTHING: Ends = Answers("[]");
const TIME: Ends = Fails(&["Sandbox.Timedout"]);
/// Whichever limit it meets first.
const TOO_MUCH: Ends = Fails(&[
    "Runtime.TooManyProcesses",
    "Runtime.OutOfMemory",
    "Sandbox.Timedout",
]);
const MEMORY: Ends = Fails(&["Runtime.OutOfMemory"]);
const FILES: Ends = Answers(r#"["ENOSPC","ENOSPC","ENOSPC","EMFILE"]"#);
const TRAP: Ends = Fails(&["Runtime.Trap"]);
const TOO_LARGE: Ends = Fails(&["Function.ResponseSizeTooLarge"]);

/// A file of the folder `functions`; behind `#`, what the event asks of it. Those below `image` are programs of `c` that
/// are in a container image; those of `wasi_http`, `wasi_command` and `services` are bodies for `components`.
pub const ATTACKS: &[(&str, Ends)] = &[
    ("python/fork_bomb.py", TOO_MUCH),
    ("python/thread_bomb.py", TOO_MUCH),
    (
        "python/memory_bomb.py",
        Fails(&["MemoryError", "Runtime.OutOfMemory"]),
    ),
    ("python/memory_of_many.py", MEMORY),
    ("python/endless_loop.py", TIME),
    ("python/ignores_signals.py", TIME),
    ("python/orphan.py", NOTHING),
    ("python/waits_with_an_orphan.py", TIME),
    ("python/file_bomb.py", FILES),
    ("python/log_bomb.py", NOTHING),
    ("python/large_answer.py", TOO_LARGE),
    (
        "python/deep_recursion.py",
        Fails(&[
            "Runtime.ExitError",
            "Runtime.OutOfMemory",
            "MemoryError",
            "RecursionError",
        ]),
    ),
    ("python/calls.py", NOTHING),
    ("python/snoop.py", NOTHING),
    ("python/network.py", NOTHING),
    ("python/spoof.py", NOTHING),
    ("node/fork_bomb.mjs", TOO_MUCH),
    (
        "node/thread_bomb.mjs",
        Fails(&[
            "Runtime.TooManyProcesses",
            "Runtime.OutOfMemory",
            "Sandbox.Timedout",
            // V8 ends itself where it gets no thread of its own.
            "Runtime.ExitError",
        ]),
    ),
    (
        "node/memory_bomb.mjs",
        Fails(&["Runtime.OutOfMemory", "Runtime.ExitError"]),
    ),
    (
        "node/heap_bomb.mjs",
        Fails(&["Runtime.OutOfMemory", "Runtime.ExitError"]),
    ),
    ("node/endless_loop.mjs", TIME),
    ("node/ignores_signals.mjs", TIME),
    ("node/orphan.mjs", NOTHING),
    ("node/file_bomb.mjs", FILES),
    ("node/log_bomb.mjs", NOTHING),
    ("node/large_answer.mjs", TOO_LARGE),
    ("node/deep_recursion.mjs", Fails(&["RangeError"])),
    ("node/calls.mjs", NOTHING),
    ("node/snoop.mjs", NOTHING),
    ("node/network.mjs", NOTHING),
    ("node/spoof.mjs", NOTHING),
    ("bash/fork_bomb.sh", TOO_MUCH),
    (
        "bash/memory_bomb.sh",
        Fails(&["Runtime.OutOfMemory", "Runtime.ExitError"]),
    ),
    ("bash/endless_loop.sh", TIME),
    ("bash/ignores_signals.sh", TIME),
    ("bash/orphan.sh", NOTHING),
    (
        "bash/file_bomb.sh",
        Answers(r#"["full","full","full","full"]"#),
    ),
    ("bash/log_bomb.sh", NOTHING),
    ("bash/large_answer.sh", TOO_LARGE),
    ("bash/calls.sh", NOTHING),
    ("bash/snoop.sh", NOTHING),
    ("bash/network.sh", NOTHING),
    ("bash/spoof.sh", NOTHING),
    ("c/calls.c", NOTHING),
    ("c/bombs.c#fork", TOO_MUCH),
    ("c/bombs.c#vfork", TOO_MUCH),
    ("c/bombs.c#thread", TOO_MUCH),
    ("c/bombs.c#memory", MEMORY),
    ("c/bombs.c#shared memory", MEMORY),
    ("c/bombs.c#memory file", MEMORY),
    ("c/bombs.c#sockets", NOTHING),
    ("c/bombs.c#signals", TIME),
    ("c/bombs.c#stack", Fails(&["Runtime.ExitError"])),
    ("c/bombs.c#crash", Fails(&["Runtime.ExitError"])),
    ("c/bombs.c#loop", TIME),
    ("c/bombs.c#files", FILES),
    ("c/bombs.c#log", TIME),
    ("c/bombs.c#orphan", NOTHING),
    ("c/looks.c#snoop", NOTHING),
    ("c/looks.c#network", NOTHING),
    ("c/looks.c#spoof", NOTHING),
    ("c/looks.c#flood", TIME),
    ("image/calls.c", NOTHING),
    ("image/bombs.c#fork", TOO_MUCH),
    ("image/bombs.c#vfork", TOO_MUCH),
    ("image/bombs.c#thread", TOO_MUCH),
    ("image/bombs.c#memory", MEMORY),
    ("image/bombs.c#shared memory", MEMORY),
    ("image/bombs.c#memory file", MEMORY),
    ("image/bombs.c#sockets", NOTHING),
    ("image/bombs.c#signals", TIME),
    ("image/bombs.c#stack", Fails(&["Runtime.ExitError"])),
    ("image/bombs.c#crash", Fails(&["Runtime.ExitError"])),
    ("image/bombs.c#loop", TIME),
    ("image/bombs.c#files", FILES),
    ("image/bombs.c#log", TIME),
    ("image/bombs.c#orphan", NOTHING),
    ("image/looks.c#snoop", NOTHING),
    ("image/looks.c#network", NOTHING),
    ("image/looks.c#spoof", NOTHING),
    ("image/looks.c#flood", TIME),
    ("wasm/endless_loop.wat", TIME),
    ("wasm/endless_start.wat", TIME),
    (
        "wasm/memory_bomb.wat",
        Fails(&["Runtime.OutOfMemory", "Sandbox.Timedout"]),
    ),
    ("wasm/memory_at_once.wat", MEMORY),
    (
        "wasm/many_memories.wat",
        Fails(&["Runtime.OutOfMemory", "Sandbox.Timedout"]),
    ),
    (
        "wasm/table_bomb.wat",
        Fails(&["Runtime.OutOfMemory", "Sandbox.Timedout"]),
    ),
    ("wasm/deep_recursion.wat", TRAP),
    ("wasm/log_bomb.wat", TIME),
    ("wasm/host_calls.wat", TIME),
    ("wasm/large_answer.wat", TOO_LARGE),
    ("wasm/answer_from_nowhere.wat", TRAP),
    ("wasm/out_of_bounds.wat", TRAP),
    ("wasm/trap.wat", TRAP),
    ("wasm/not_json.wat", Fails(&["Runtime.MarshalError"])),
    ("wasm/not_text.wat", TRAP),
    ("wasi_http/endless_loop.wat", TIME),
    ("wasi_http/endless_after_head.wat", TIME),
    ("wasi_http/memory_bomb.wat", MEMORY),
    ("wasi_http/large_answer.wat", TOO_LARGE),
    ("wasi_http/sets_of_headers.wat", TRAP),
    ("wasi_http/growing_header.wat", TRAP),
    ("wasi_http/bodies.wat", TRAP),
    ("wasi_http/not_text.wat", TRAP),
    ("wasi_http/out_of_bounds.wat", TRAP),
    ("wasi_command/endless_loop.wat", TIME),
    ("wasi_command/memory_bomb.wat", MEMORY),
    ("wasi_command/large_answer.wat", TOO_LARGE),
    ("wasi_command/log_bomb.wat", TIME),
    ("wasi_command/trap.wat", TRAP),
    ("services/not_text.wat", TRAP),
    ("services/out_of_bounds.wat", TRAP),
    ("services/buckets.wat", TRAP),
    ("services/values.wat", TIME),
    ("services/large_list.wat", MEMORY),
    ("services/silent_host.wat", TIME),
];
