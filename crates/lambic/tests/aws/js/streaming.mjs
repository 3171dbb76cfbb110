// Answers that stream, as AWS's unmodified SDK for JavaScript and a function URL are given them.
// Usage: PACKAGES=folder node streaming.mjs URL

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { connect, created, plain, refused, steps } from "./common.mjs";

const HANDLERS = {
    "index.mjs": `
        const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

        export const parts = awslambda.streamifyResponse(async (event, stream, context) => {
            console.log("streaming", context.awsRequestId);
            stream.setContentType("text/plain");
            stream.write("first,");
            await wait(event.wait ?? 0);
            stream.write(String(Date.now()));
            if (event.fail) throw new RangeError("no such luck");
            stream.end();
        });
        export const large = awslambda.streamifyResponse(async (event, stream) => {
            const part = Buffer.alloc(1 << 20, "x");
            for (let sent = 0; sent < event.parts; sent++) {
                if (!stream.write(part)) await new Promise((resolve) => stream.once("drain", resolve));
            }
            stream.end();
        });
        export const page = awslambda.streamifyResponse(async (event, stream) => {
            stream = awslambda.HttpResponseStream.from(stream, {
                statusCode: 201, headers: { "content-type": "text/html", "x-mine": "yes" }, cookies: ["a=1; Secure", "b=2"],
            });
            stream.write("<p>" + event.rawPath);
            await wait(500);
            stream.write("</p>");
            stream.end();
        });
        export const whole = async (event) => ({ event });
    `,
};

async function make(world, handler) {
    const name = `${world.name}-${handler}`;
    await created(world.client, name, HANDLERS, { Handler: `index.${handler}` });
    world.made.push(name);
    return name;
}

/** All that comes: the parts with the times when they came, and how it ended. */
async function streamed(world, name, event, more = {}) {
    const answer = await world.client.invokeWithResponseStream({ FunctionName: name, Payload: JSON.stringify(event), ...more });
    assert.equal(answer.StatusCode, 200);
    const parts = [];
    let complete;
    for await (const one of answer.EventStream) {
        assert.equal(complete, undefined, "something follows the end");
        if (one.PayloadChunk) parts.push({ at: Date.now(), bytes: Buffer.from(one.PayloadChunk.Payload) });
        if (one.InvokeComplete) complete = one.InvokeComplete;
    }
    assert(complete, "the stream has no end");
    return { answer, parts, complete, text: Buffer.concat(parts.map((part) => part.bytes)).toString() };
}

async function partsComeWhenTheyAreWritten(world) {
    const name = await make(world, "parts");
    const { answer, parts, complete, text } = await streamed(world, name, { wait: 2000 }, { LogType: "Tail" });
    const [first, written] = text.split(",");
    assert.equal(first, "first");
    assert(parts[0].at < Number(written), "the first part came only after the last was written");
    assert.equal(answer.ExecutedVersion, "$LATEST");
    assert.equal(answer.ResponseStreamContentType, "application/vnd.amazon.eventstream");
    assert.equal(complete.ErrorCode, undefined);
    const log = Buffer.from(complete.LogResult, "base64").toString();
    for (const word of ["START RequestId: ", "streaming", "END RequestId: ", "REPORT RequestId: "]) assert(log.includes(word), log);
}

async function anErrorMidway(world) {
    const name = `${world.name}-parts`;
    const { text, complete } = await streamed(world, name, { fail: true });
    assert(text.startsWith("first,"), text);
    assert.equal(complete.ErrorCode, "Unhandled");
    assert(complete.ErrorDetails.includes("no such luck"), complete.ErrorDetails);
    assert.equal((await streamed(world, name, {})).complete.ErrorCode, undefined);
}

async function moreThanAnAnswerMayHave(world) {
    const name = await make(world, "large");
    const { parts, complete } = await streamed(world, name, { parts: 20 });
    assert.equal(parts.reduce((sum, part) => sum + part.bytes.length, 0), 20 << 20);
    assert.equal(complete.ErrorCode, undefined);
    // Who does not ask for a stream gets it in one piece, within the usual limit.
    const failed = await world.client.invoke({ FunctionName: name, Payload: '{"parts": 20}' });
    assert.equal(failed.FunctionError, "Unhandled");
    const whole = await world.client.invoke({ FunctionName: name, Payload: '{"parts": 2}' });
    assert.deepEqual([whole.FunctionError, whole.Payload.length], [undefined, 2 << 20]);
}

async function aHandlerThatDoesNotStream(world) {
    const name = await make(world, "whole");
    const { text, complete } = await streamed(world, name, { a: 1 });
    assert.deepEqual(JSON.parse(text), { event: { a: 1 } });
    assert.equal(complete.ErrorCode, undefined);
    await refused("ResourceNotFoundException", 404, world.client.invokeWithResponseStream({ FunctionName: `${name}-nowhere` }));
    await refused("InvalidRequestContentException", 400, world.client.invokeWithResponseStream({ FunctionName: name, Payload: "{" }));
    const dry = await world.client.invokeWithResponseStream({ FunctionName: name, InvocationType: "DryRun" });
    assert.equal(dry.StatusCode, 204);
}

async function aUrlThatStreams(world) {
    const { client } = world, name = await make(world, "page");
    const made = await client.createFunctionUrlConfig({ FunctionName: name, AuthType: "NONE", InvokeMode: "RESPONSE_STREAM" });
    assert.equal(made.InvokeMode, "RESPONSE_STREAM");
    await client.addPermission({
        FunctionName: name, StatementId: "url", Action: "lambda:InvokeFunctionUrl", Principal: "*", FunctionUrlAuthType: "NONE",
    });
    await client.addPermission({
        FunctionName: name, StatementId: "through", Action: "lambda:InvokeFunction", Principal: "*", InvokedViaFunctionUrl: true,
    });
    const address = new URL(made.FunctionUrl);
    const answer = await plain(world.url, "GET", `${address.pathname}some/path`, { host: address.host });
    assert.deepEqual([answer.status, answer.body], [201, "<p>/some/path</p>"]);
    assert.deepEqual([answer.headers["content-type"], answer.headers["x-mine"]], ["text/html", "yes"]);
    assert.deepEqual(answer.headers["set-cookie"], ["a=1; Secure", "b=2"]);
    assert(answer.parts.length > 1, "it came in one piece");
    // In one piece where the URL says so. As on AWS, a response of the other mode is a body like any.
    await client.updateFunctionUrlConfig({ FunctionName: name, InvokeMode: "BUFFERED" });
    const whole = await plain(world.url, "GET", `${address.pathname}x`, { host: address.host });
    assert.deepEqual([whole.status, whole.parts.length], [200, 1]);
    assert(whole.body.endsWith(`}${"\0".repeat(8)}<p>/x</p>`), whole.body);
}

async function end(world) {
    for (const name of world.made) await world.client.deleteFunction({ FunctionName: name });
}

const world = { url: process.argv[2], client: connect(process.argv[2]), name: `stream-${randomUUID().slice(0, 8)}`, made: [] };
await steps(world, partsComeWhenTheyAreWritten, anErrorMidway, moreThanAnAnswerMayHave, aHandlerThatDoesNotStream, aUrlThatStreams, end);
