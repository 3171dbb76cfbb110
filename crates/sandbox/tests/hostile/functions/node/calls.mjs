// What takes rights that a function has not, by the programs that are there: says which of them went through.

import { spawnSync } from "node:child_process";
import fs from "node:fs";

export const handler = async () => {
    const made = [];
    const run = (program, ...rest) => {
        if (spawnSync(program, rest, { timeout: 2_000, stdio: "ignore" }).status === 0) made.push(`${program} ${rest.join(" ")}`);
    };
    run("mount", "-t", "tmpfs", "none", "/tmp");
    run("umount", "-l", "/tmp");
    for (const kind of ["-m", "-p", "-n", "-i", "-u", "-C", "-Ur"]) run("unshare", kind, "true");
    run("nsenter", "-t", "1", "-m", "true");
    run("chroot", "/tmp", "/bin/true");
    run("mknod", "/tmp/disk", "b", "254", "0");
    run("su", "-c", "true");
    run("setpriv", "--reuid", "0", "true");
    run("renice", "-20", "-p", String(process.pid));
    run("dmesg");
    run("hostname", "mine");
    for (const uid of [0, 1]) {
        try {
            process.setuid(uid);
            made.push(`setuid ${uid}`);
        } catch {
            // As it should be.
        }
    }
    if (fs.existsSync("/tmp/disk")) made.push("/tmp/disk");
    return made;
};
