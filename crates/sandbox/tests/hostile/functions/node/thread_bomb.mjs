// As many threads as it can get.

import { Worker } from "node:worker_threads";

export const handler = async () => {
    for (;;) {
        try {
            new Worker("setInterval(() => {}, 1000)", { eval: true }).on("error", () => {});
        } catch {
            // No more for now.
        }
        await new Promise(setImmediate);
    }
};
