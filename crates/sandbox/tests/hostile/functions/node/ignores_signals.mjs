// Ignores every signal that can be ignored, and waits for ever.

import os from "node:os";

export const handler = async () => {
    for (const name of Object.keys(os.constants.signals)) {
        try {
            process.on(name, () => {});
        } catch {
            // Some cannot be.
        }
    }
    await new Promise((resolve) => setTimeout(resolve, 1_000_000));
};
