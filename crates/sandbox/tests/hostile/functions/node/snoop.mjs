// Looks for what is not its own, everywhere: files, other processes, the kernel's. Says what it found and could write.

import fs from "node:fs";
import path from "node:path";

// What the system is made of.
const SKIPPED = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/proc"];
const WRITABLE = [
    "/", "/var", "/var/task", "/var/runtime", "/opt", "/etc", "/dev", "/usr", "/proc/sys/kernel", "/var/task/snoop.mjs",
    "/var/runtime/client.mjs", "/etc/passwd", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/dev/vda", "/dev/mem",
];
const KERNEL = ["/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/dev/vda", "/etc/shadow", "/sys/kernel", "/sys/fs/cgroup"];

export const handler = async (event) => {
    const found = [];
    const quietly = (act) => {
        try {
            return act();
        } catch {
            return undefined;
        }
    };
    const look = (file) => quietly(() => {
        const buffer = Buffer.alloc(1 << 16), opened = fs.openSync(file, "r");
        try {
            if (buffer.subarray(0, fs.readSync(opened, buffer)).includes(event.word)) found.push(file);
        } finally {
            fs.closeSync(opened);
        }
    });
    const walk = (top) => {
        for (const entry of quietly(() => fs.readdirSync(top, { withFileTypes: true })) ?? []) {
            const one = path.join(top, entry.name);
            if (SKIPPED.includes(one) || process.execPath.startsWith(one + "/")) continue;
            if (entry.isDirectory()) walk(one);
            if (entry.isFile()) look(one);
        }
    };
    walk("/");
    for (const number of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
        for (const name of ["environ", "cmdline", "mountinfo", "maps"]) look(`/proc/${number}/${name}`);
        if (Number(number) !== process.pid) walk(`/proc/${number}/root`);
    }
    for (const number of event.processes) {
        if (number > 64 && fs.existsSync(`/proc/${number}`)) found.push(`process ${number}`);
    }
    for (const one of event.paths) {
        if (fs.existsSync(one)) found.push(one);
    }
    for (const one of KERNEL) {
        quietly(() => {
            if (fs.statSync(one).isDirectory()) {
                found.push(...fs.readdirSync(one).map((name) => `${one}/${name}`));
            } else {
                fs.readSync(fs.openSync(one, "r"), Buffer.alloc(1));
                found.push(one);
            }
        });
    }
    for (const one of WRITABLE) {
        quietly(() => {
            const target = fs.statSync(one).isDirectory() ? path.join(one, "mine") : one;
            fs.closeSync(fs.openSync(target, "a"));
            found.push(`can write ${target}`);
        });
    }
    return found;
};
