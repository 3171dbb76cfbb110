// What the scripts of AWS's SDK for JavaScript share: the unmodified client, zips made in memory, waiting with a bound.
// PACKAGES is the folder that its npm packages are installed in.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import http from "node:http";
import zlib from "node:zlib";

export const sdk = createRequire(`${process.env.PACKAGES}/`)("@aws-sdk/client-lambda");
export const ROLE = "arn:aws:iam::123456789012:role/r";
export const REGION = "us-east-1";
// The machine's, whichever version that is.
export const NODE = { Runtime: `nodejs${process.versions.node.split(".")[0]}.x`, Handler: "index.handler" };
// Seconds; long enough for a busy machine, nothing waits this long on purpose.
export const PATIENCE = 120;

/** The client; it does not try again by itself. */
export function connect(url) {
    return new sdk.Lambda({
        endpoint: url,
        region: REGION,
        credentials: { accessKeyId: "AKIAIOSFODNN7EXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" },
        maxAttempts: 1,
    });
}

/** The bytes of a zip with these files, by path. */
export function zipped(files) {
    const local = [], central = [];
    let offset = 0;
    for (const [path, text] of Object.entries(files)) {
        const name = Buffer.from(path), content = Buffer.from(text), packed = zlib.deflateRawSync(content);
        const sizes = Buffer.alloc(16);
        sizes.writeUInt32LE(crc32(content), 0);
        sizes.writeUInt32LE(packed.length, 4);
        sizes.writeUInt32LE(content.length, 8);
        sizes.writeUInt16LE(name.length, 12);
        // Version 2.0, deflated, names in UTF-8, 1 January 2026.
        const common = Buffer.from([20, 0, 0, 8, 8, 0, 0, 0, 0x21, 0x5c]);
        const head = Buffer.concat([Buffer.from("PK\x03\x04"), common, sizes, name, packed]);
        const tail = Buffer.alloc(14);
        tail.writeUInt32LE((0o100644 << 16) >>> 0, 6);
        tail.writeUInt32LE(offset, 10);
        central.push(Buffer.concat([Buffer.from("PK\x01\x02"), Buffer.from([20, 3]), common, sizes, tail, name]));
        local.push(head);
        offset += head.length;
    }
    const directory = Buffer.concat(central), end = Buffer.alloc(22);
    end.write("PK\x05\x06");
    end.writeUInt16LE(central.length, 8);
    end.writeUInt16LE(central.length, 10);
    end.writeUInt32LE(directory.length, 12);
    end.writeUInt32LE(offset, 16);
    return Buffer.concat([...local, directory, end]);
}

// zlib has one only in newer versions of Node.
function crc32(bytes) {
    let crc = ~0;
    for (const byte of bytes) {
        crc ^= byte;
        for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc >>> 0;
}

/** As `CodeSha256` has it. */
export function sha256(content) {
    return createHash("sha256").update(content).digest("base64");
}

/** Asks until the answer is true, and gives that answer. */
export async function eventually(what, check) {
    const end = Date.now() + PATIENCE * 1000;
    for (;;) {
        const answer = await check();
        if (answer) return answer;
        assert(Date.now() < end, `still not after ${PATIENCE} s: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** Waits as the SDK's own waiters do. */
export async function waits(client, waiter, of) {
    const { state } = await sdk[waiter]({ client, maxWaitTime: PATIENCE, minDelay: 1, maxDelay: 2 }, of);
    assert.equal(state, "SUCCESS");
}

/** A new function that is active. */
export async function created(client, name, files, more = {}) {
    const function_ = await client.createFunction({
        FunctionName: name, Role: ROLE, Code: { ZipFile: zipped(files) }, Timeout: 30, ...NODE, ...more,
    });
    await waits(client, "waitUntilFunctionActiveV2", { FunctionName: name });
    return function_;
}

/** A synchronous invocation that must succeed: its payload, and the whole answer. */
export async function succeeded(client, name, event, more = {}) {
    const answer = await client.invoke({ FunctionName: name, Payload: JSON.stringify(event), ...more });
    const text = answer.Payload.transformToString();
    assert.equal(answer.FunctionError, undefined, text);
    assert.equal(answer.StatusCode, 200);
    return [JSON.parse(text), answer];
}

/** A call that must fail so; gives the error. */
export async function refused(name, status, call) {
    try {
        await call;
    } catch (error) {
        assert.deepEqual([error.name, error.$metadata?.httpStatusCode], [name, status], error.message);
        assert(error instanceof sdk.LambdaServiceException, `${error}`);
        return error;
    }
    assert.fail(`let through, not refused with ${name}`);
}

/** One HTTP request without a client's help. */
export function plain(url, method, path, headers = {}, body = "") {
    return new Promise((resolve, reject) => {
        const request = http.request(new URL(path, url), { method, headers }, (response) => {
            const parts = [];
            response.on("data", (part) => parts.push(part));
            response.on("end", () => resolve({
                status: response.statusCode, headers: response.headers, body: Buffer.concat(parts).toString(), parts,
            }));
        });
        request.on("error", reject);
        request.end(body);
    });
}

/** Runs the parts of a script in order, and says which one runs, so that a failure shows its place. */
export async function steps(world, ...functions) {
    for (const one of functions) {
        console.log(`${one.name.replace(/([A-Z])/g, " $1").toLowerCase()} …`);
        await one(world);
    }
    console.log(`${functions.length} parts passed`);
}
