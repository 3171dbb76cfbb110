// Leaves a process behind, in a session of its own, and answers.

import { spawn } from "node:child_process";

export const handler = async (event) => {
    spawn("/bin/sh", ["-c", "sleep 1000; exit", event.mark], { detached: true, stdio: "ignore" }).unref();
    return [];
};
