// Large files, many files, open files: says where each of them ended.

import fs from "node:fs";

function ending(act) {
    try {
        for (let round = 0; ; round++) act(round);
    } catch (error) {
        return error.code;
    }
}

export const handler = async () => {
    const part = Buffer.alloc(1 << 20);
    const ended = ["/tmp/a", "/tmp/b"].map((path) => {
        const file = fs.openSync(path, "w");
        // What no longer fits whole is cut.
        const code = ending(() => { if (fs.writeSync(file, part) < part.length) fs.writeSync(file, part); });
        fs.closeSync(file);
        return code;
    });
    fs.unlinkSync("/tmp/a");
    fs.unlinkSync("/tmp/b");
    ended.push(ending((round) => fs.closeSync(fs.openSync(`/tmp/${round}`, "w"))));
    const opened = [];
    ended.push(ending(() => opened.push(fs.openSync("/dev/null", "r"))));
    for (const file of opened) fs.closeSync(file);
    return ended;
};
