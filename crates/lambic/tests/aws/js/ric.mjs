// AWS's own client of the Runtime API, in JavaScript, which a zip brings and starts. Its native part, which takes cmake and minutes
// to build, is replaced by as few lines.
// Usage: PACKAGES=folder node ric.mjs URL

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";

import { connect, created, steps, succeeded } from "./common.mjs";

// The client asks for it by the name that the native part has.
const NATIVE = `
    const { request } = require("node:http");

    const [hostname, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
    let sent = Promise.resolve();
    const ask = (method, path, body, headers = {}) => new Promise((resolve, reject) => {
        const asked = request({ hostname, port, method, path: "/2018-06-01/runtime/invocation/" + path, headers }, (response) => {
            let text = "";
            response.setEncoding("utf8").on("data", (part) => (text += part));
            response.on("end", () => resolve({ bodyJson: text, headers: response.headers }));
        });
        asked.on("error", reject).end(body);
    });
    exports.next = () => sent.then(() => ask("GET", "next"));
    exports.done = (id, body) => (sent = ask("POST", id + "/response", body));
    exports.error = (id, body, xray) => (sent = ask("POST", id + "/error", body, { "Lambda-Runtime-Function-XRay-Error-Cause": xray }));
`;

// The handler that the platform knows, and which never comes to be: AWS's client takes the events.
const BEGIN = `
    import Module from "node:module";

    Module._extensions[".node"] = Module._extensions[".js"];
    process.env._HANDLER = "real.handler";
    process.argv.splice(2, Infinity, "real.handler");
    await import("./ric/index.mjs");
    await new Promise(() => {});
`;

const REAL = `
    export const handler = async (event, context) => {
        console.log("by AWS's client");
        if (event.fail) throw new RangeError("no such luck");
        return [event, context.awsRequestId, context.functionName, context.invokedFunctionArn];
    };
`;

async function eventsAreAnswered(world) {
    for (let number = 0; number < 3; number++) {
        const [value, answer] = await succeeded(world.client, world.name, { number, name: "Ünï" }, { LogType: "Tail" });
        assert.deepEqual(value, [{ number, name: "Ünï" }, answer.$metadata.requestId, world.name, world.arn]);
        const log = Buffer.from(answer.LogResult, "base64").toString();
        assert(log.includes("by AWS's client"), log);
    }
}

async function aFailureIsTold(world) {
    const answer = await world.client.invoke({ FunctionName: world.name, Payload: '{"fail": true}' });
    const value = JSON.parse(answer.Payload.transformToString());
    assert.equal(answer.FunctionError, "Unhandled");
    assert.deepEqual([value.errorType, value.errorMessage], ["RangeError", "no such luck"]);
    assert(Array.isArray(value.trace), JSON.stringify(value));
    await eventsAreAnswered(world);
}

async function end(world) {
    await world.client.deleteFunction({ FunctionName: world.name });
}

const world = { client: connect(process.argv[2]), name: `ric-${randomUUID().slice(0, 8)}` };
const ric = await readFile(`${process.env.PACKAGES}/node_modules/aws-lambda-ric/index.mjs`, "utf8");
const files = { "index.mjs": BEGIN, "real.mjs": REAL, "ric/index.mjs": ric, "ric/rapid-client.node": NATIVE };
world.arn = (await created(world.client, world.name, files)).FunctionArn;
await steps(world, eventsAreAnswered, aFailureIsTold, end);
