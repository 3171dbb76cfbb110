// As many processes as it can get.

import { spawn } from "node:child_process";

export const handler = async () => {
    for (;;) {
        for (let round = 0; round < 20; round++) {
            try {
                spawn("/bin/sleep", ["1000"], { stdio: "ignore" }).on("error", () => {});
            } catch {
                // No more for now.
            }
        }
        await new Promise(setImmediate);
    }
};
