// Tries the host, the metadata address and private ranges: straight, and through the proxy. Says what answered.

import http from "node:http";
import net from "node:net";

const straight = (host, port) => new Promise((resolve) => {
    const socket = net.connect({ host, port, timeout: 200 });
    const end = (reached) => { socket.destroy(); resolve(reached && `${host} ${port}`); };
    socket.on("connect", () => end(true)).on("timeout", () => end(false)).on("error", () => end(false));
});

const through = (host, port, tunnel) => new Promise((resolve) => {
    if (!process.env.HTTP_PROXY) return resolve(false);
    const proxy = new URL(process.env.HTTP_PROXY), shown = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    const options = tunnel ? { method: "CONNECT", path: shown } : { path: `http://${shown}/` };
    const request = http.request({ host: proxy.hostname, port: proxy.port, timeout: 5_000, ...options });
    const end = (answer) => {
        request.destroy();
        const reached = answer && (tunnel ? answer.statusCode < 300 : ![400, 403, 502, 504].includes(answer.statusCode));
        resolve(reached && `${host} ${port} by the proxy`);
    };
    request.on("connect", end).on("response", end).on("timeout", () => end()).on("error", () => end());
    request.end();
});

export const handler = async (event) => {
    const all = event.targets.flatMap(([host, port]) => [straight(host, port), through(host, port, true), through(host, port, false)]);
    return (await Promise.all(all)).filter(Boolean);
};
