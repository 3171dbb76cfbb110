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

/// A file of the folder `functions`; behind `#`, what the event asks of it.
pub const ATTACKS: [(&str, Ends); 69] = [
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
    (
        "python/file_bomb.py",
        Answers(r#"["ENOSPC","ENOSPC","ENOSPC","EMFILE"]"#),
    ),
    ("python/log_bomb.py", NOTHING),
    (
        "python/large_answer.py",
        Fails(&["Function.ResponseSizeTooLarge"]),
    ),
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
    ("node/thread_bomb.mjs", TOO_MUCH),
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
    (
        "node/file_bomb.mjs",
        Answers(r#"["ENOSPC","ENOSPC","ENOSPC","EMFILE"]"#),
    ),
    ("node/log_bomb.mjs", NOTHING),
    (
        "node/large_answer.mjs",
        Fails(&["Function.ResponseSizeTooLarge"]),
    ),
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
    (
        "bash/large_answer.sh",
        Fails(&["Function.ResponseSizeTooLarge"]),
    ),
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
    ("c/bombs.c#sockets", Answers("[]")),
    ("c/bombs.c#signals", TIME),
    ("c/bombs.c#stack", Fails(&["Runtime.ExitError"])),
    ("c/bombs.c#crash", Fails(&["Runtime.ExitError"])),
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
    ("wasm/deep_recursion.wat", Fails(&["Runtime.Trap"])),
    ("wasm/log_bomb.wat", TIME),
    ("wasm/host_calls.wat", TIME),
    (
        "wasm/large_answer.wat",
        Fails(&["Function.ResponseSizeTooLarge"]),
    ),
    ("wasm/answer_from_nowhere.wat", Fails(&["Runtime.Trap"])),
    ("wasm/out_of_bounds.wat", Fails(&["Runtime.Trap"])),
    ("wasm/trap.wat", Fails(&["Runtime.Trap"])),
    ("wasm/not_json.wat", Fails(&["Runtime.MarshalError"])),
    ("wasm/not_text.wat", Fails(&["Runtime.Trap"])),
];
