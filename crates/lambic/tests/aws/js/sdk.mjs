// The life of a function as AWS's unmodified SDK for JavaScript lives it.
// Usage: PACKAGES=folder node sdk.mjs URL

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { NODE, REGION, ROLE, connect, created, eventually, plain, refused, sdk, sha256, steps, succeeded, waits, zipped } from "./common.mjs";

function code(looks) {
    return {
        "index.js": `
            const { hello } = (() => { try { return require("greetings"); } catch { return {}; } })();
            const remembered = [];
            exports.handler = async (event, context) => {
                if (event.requestContext) return { statusCode: 201, headers: { "x-looks": "${looks}" }, body: event.rawPath };
                if (event.fail) throw new RangeError("no such luck");
                if (event.remember) remembered.push(event.remember);
                if (event.Records) { console.log("records", event.Records.map((one) => one.data.n).join()); return; }
                console.log("looking at", JSON.stringify(event));
                return {
                    looks: "${looks}", event, remembered, colour: process.env.COLOUR, version: context.functionVersion,
                    arn: context.invokedFunctionArn, custom: context.clientContext?.custom, hello: hello?.("you"),
                };
            };
        `,
    };
}

async function create(life) {
    const { client, name } = life;
    const zip = zipped(code("one"));
    const made = await client.createFunction({
        FunctionName: name, Role: ROLE, Code: { ZipFile: zip }, ...NODE, Description: "a life",
        Environment: { Variables: { COLOUR: "amber" } }, Tags: { team: "blue" },
    });
    life.arn = made.FunctionArn;
    assert.match(life.arn, new RegExp(`^arn:aws:lambda:${REGION}:\\d{12}:function:${name}$`));
    assert.deepEqual([made.CodeSha256, made.CodeSize, made.Version, made.Timeout], [sha256(zip), zip.length, "$LATEST", 3]);
    await waits(client, "waitUntilFunctionExists", { FunctionName: name });
    await waits(client, "waitUntilFunctionActiveV2", { FunctionName: name });
    const whole = await client.getFunction({ FunctionName: name });
    assert.deepEqual([whole.Configuration.State, whole.Tags], ["Active", { team: "blue" }]);
    assert.deepEqual(whole.Configuration.Environment, { Variables: { COLOUR: "amber" } });
    const names = [];
    for await (const page of sdk.paginateListFunctions({ client, pageSize: 1 }, {})) {
        names.push(...page.Functions.map((one) => one.FunctionName));
    }
    assert(names.includes(name), names.join());
    await refused("ResourceConflictException", 409, client.createFunction({ FunctionName: name, Role: ROLE, Code: { ZipFile: zip }, ...NODE }));
}

async function invoke(life) {
    const { client, name } = life;
    const context = Buffer.from(JSON.stringify({ custom: { shape: "round" } })).toString("base64");
    const event = { name: "Ünï", list: [1, 2.5, null, true] };
    const [value, answer] = await succeeded(client, name, event, { LogType: "Tail", ClientContext: context });
    assert.deepEqual(value, {
        looks: "one", event, remembered: [], colour: "amber", version: "$LATEST", arn: life.arn, custom: { shape: "round" },
    });
    assert.equal(answer.ExecutedVersion, "$LATEST");
    const log = Buffer.from(answer.LogResult, "base64").toString();
    for (const word of ["START RequestId: ", "looking at", "END RequestId: ", "REPORT RequestId: "]) assert(log.includes(word), log);
    const failed = await client.invoke({ FunctionName: name, Payload: '{"fail": true}' });
    assert.equal(failed.FunctionError, "Unhandled");
    const error = JSON.parse(failed.Payload.transformToString());
    assert.deepEqual([error.errorType, error.errorMessage], ["RangeError", "no such luck"]);
    await refused("InvalidRequestContentException", 400, client.invoke({ FunctionName: name, Payload: "{" }));
}

async function invokeOtherwise(life) {
    const { client, name } = life;
    assert.equal((await client.invoke({ FunctionName: name, InvocationType: "DryRun" })).StatusCode, 204);
    // With one environment at a time, what an asynchronous invocation left in it is seen by a later one.
    await client.putFunctionConcurrency({ FunctionName: name, ReservedConcurrentExecutions: 1 });
    const queued = await client.invoke({ FunctionName: name, InvocationType: "Event", Payload: '{"remember": "me"}' });
    assert.deepEqual([queued.StatusCode, queued.Payload?.length ?? 0], [202, 0]);
    await eventually("the asynchronous invocation has run", async () => {
        try {
            return (await succeeded(client, name, {}))[0].remembered.includes("me");
        } catch (error) {
            if (error.name !== "TooManyRequestsException") throw error;
            return false;
        }
    });
    await client.putFunctionConcurrency({ FunctionName: name, ReservedConcurrentExecutions: 0 });
    const throttled = await refused("TooManyRequestsException", 429, client.invoke({ FunctionName: name }));
    assert.equal(throttled.Reason, "ReservedFunctionConcurrentInvocationLimitExceeded");
    await client.deleteFunctionConcurrency({ FunctionName: name });
    assert.equal((await client.getFunctionConcurrency({ FunctionName: name })).ReservedConcurrentExecutions, undefined);
}

async function update(life) {
    const { client, name } = life;
    const zip = zipped(code("two"));
    await client.publishVersion({ FunctionName: name });
    const dry = await client.updateFunctionCode({ FunctionName: name, ZipFile: zip, DryRun: true });
    assert.equal(dry.CodeSha256, sha256(zip));
    assert.equal((await succeeded(client, name, {}))[0].looks, "one");
    await refused("PreconditionFailedException", 412, client.updateFunctionCode({ FunctionName: name, ZipFile: zip, RevisionId: randomUUID() }));
    const published = await client.updateFunctionCode({ FunctionName: name, ZipFile: zip, Publish: true });
    assert.deepEqual([published.Version, published.CodeSha256], ["2", sha256(zip)]);
    await waits(client, "waitUntilFunctionUpdatedV2", { FunctionName: name });
    await waits(client, "waitUntilPublishedVersionActive", { FunctionName: name, Qualifier: "2" });
    const changed = await client.updateFunctionConfiguration({
        FunctionName: name, MemorySize: 256, Timeout: 7, Environment: { Variables: { COLOUR: "green" } },
    });
    assert.deepEqual([changed.MemorySize, changed.Timeout], [256, 7]);
    await waits(client, "waitUntilFunctionUpdated", { FunctionName: name });
    for (const [Qualifier, looks, colour] of [["1", "one", "amber"], ["2", "two", "amber"], ["$LATEST", "two", "green"]]) {
        const [value, answer] = await succeeded(client, name, {}, { Qualifier });
        assert.deepEqual([value.looks, value.colour, value.version, answer.ExecutedVersion], [looks, colour, Qualifier, Qualifier]);
    }
    const versions = (await client.listVersionsByFunction({ FunctionName: name })).Versions;
    assert.deepEqual(versions.map((one) => one.Version), ["$LATEST", "1", "2"]);
}

async function aliases(life) {
    const { client, name } = life;
    const made = await client.createAlias({ FunctionName: name, Name: "live", FunctionVersion: "1" });
    assert.equal(made.AliasArn, `${life.arn}:live`);
    const weighted = await client.updateAlias({
        FunctionName: name, Name: "live", RevisionId: made.RevisionId, RoutingConfig: { AdditionalVersionWeights: { 2: 0.5 } },
    });
    assert.deepEqual(weighted.RoutingConfig, { AdditionalVersionWeights: { 2: 0.5 } });
    const seen = new Set();
    for (let round = 0; round < 200 && seen.size < 2; round++) {
        const [value, answer] = await succeeded(client, name, {}, { Qualifier: "live" });
        assert.equal({ 1: "one", 2: "two" }[answer.ExecutedVersion], value.looks);
        seen.add(answer.ExecutedVersion);
    }
    assert.equal(seen.size, 2, `half of the invocations go to each version, but 200 went to ${[...seen]}`);
    await client.updateAlias({ FunctionName: name, Name: "live", FunctionVersion: "2", RoutingConfig: { AdditionalVersionWeights: {} } });
    assert.equal((await succeeded(client, name, {}, { Qualifier: "live" }))[0].looks, "two");
    const listed = (await client.listAliases({ FunctionName: name })).Aliases;
    assert.deepEqual(listed.map((one) => [one.Name, one.FunctionVersion]), [["live", "2"]]);
}

async function url(life) {
    const { client, name } = life;
    const made = await client.createFunctionUrlConfig({ FunctionName: name, Qualifier: "live", AuthType: "NONE" });
    const address = new URL(made.FunctionUrl);
    const ask = () => plain(life.url, "GET", `${address.pathname}some/path`, { host: address.host });
    assert.equal((await ask()).status, 403);
    await client.addPermission({
        FunctionName: name, Qualifier: "live", StatementId: "url", Action: "lambda:InvokeFunctionUrl", Principal: "*",
        FunctionUrlAuthType: "NONE",
    });
    await client.addPermission({
        FunctionName: name, Qualifier: "live", StatementId: "through", Action: "lambda:InvokeFunction", Principal: "*",
        InvokedViaFunctionUrl: true,
    });
    const answer = await ask();
    assert.deepEqual([answer.status, answer.headers["x-looks"], answer.body], [201, "two", "/some/path"]);
    const policy = JSON.parse((await client.getPolicy({ FunctionName: name, Qualifier: "live" })).Policy);
    assert.deepEqual(policy.Statement.map((one) => one.Sid).sort(), ["through", "url"]);
    await client.deleteFunctionUrlConfig({ FunctionName: name, Qualifier: "live" });
    await refused("ResourceNotFoundException", 404, client.getFunctionUrlConfig({ FunctionName: name, Qualifier: "live" }));
}

async function layers(life) {
    const { client, name } = life;
    const zip = zipped({ "nodejs/node_modules/greetings/index.js": "exports.hello = (who) => `hello, ${who}`;\n" });
    const layer = await client.publishLayerVersion({ LayerName: name, Content: { ZipFile: zip }, CompatibleRuntimes: [NODE.Runtime] });
    assert.deepEqual([layer.Version, layer.Content.CodeSha256], [1, sha256(zip)]);
    await client.updateFunctionConfiguration({ FunctionName: name, Layers: [layer.LayerVersionArn] });
    await waits(client, "waitUntilFunctionUpdatedV2", { FunctionName: name });
    assert.equal((await succeeded(client, name, {}))[0].hello, "hello, you");
    await client.deleteLayerVersion({ LayerName: name, VersionNumber: 1 });
    await refused("ResourceNotFoundException", 404, client.getLayerVersion({ LayerName: name, VersionNumber: 1 }));
}

async function settings(life) {
    const { client, name } = life;
    await client.tagResource({ Resource: life.arn, Tags: { stage: "test" } });
    await client.untagResource({ Resource: life.arn, TagKeys: ["team"] });
    assert.deepEqual((await client.listTags({ Resource: life.arn })).Tags, { stage: "test" });
    await client.putFunctionConcurrency({ FunctionName: name, ReservedConcurrentExecutions: 5 });
    assert.equal((await client.getFunction({ FunctionName: name })).Concurrency.ReservedConcurrentExecutions, 5);
    await client.deleteFunctionConcurrency({ FunctionName: name });
    await client.putFunctionEventInvokeConfig({ FunctionName: name, MaximumRetryAttempts: 0, MaximumEventAgeInSeconds: 60 });
    const asynchronous = await client.getFunctionEventInvokeConfig({ FunctionName: name });
    assert.deepEqual([asynchronous.MaximumRetryAttempts, asynchronous.MaximumEventAgeInSeconds], [0, 60]);
    assert(asynchronous.LastModified instanceof Date, `${asynchronous.LastModified}`);
    await client.deleteFunctionEventInvokeConfig({ FunctionName: name });
    await client.putProvisionedConcurrencyConfig({ FunctionName: name, Qualifier: "live", ProvisionedConcurrentExecutions: 1 });
    await eventually("provisioned concurrency is ready", async () => {
        const has = await client.getProvisionedConcurrencyConfig({ FunctionName: name, Qualifier: "live" });
        return has.Status === "READY";
    });
    await client.deleteProvisionedConcurrencyConfig({ FunctionName: name, Qualifier: "live" });
    assert.equal((await client.getAccountSettings({})).AccountLimit.ConcurrentExecutions, 1000);
}

async function mapping(life) {
    const { client, name } = life;
    const stream = `s${randomUUID().replaceAll("-", "").slice(0, 12)}`;
    await sql(life, `CREATE STREAM ${stream} (at timestamptz NOT NULL, n bigint) WITH (event_time = 'at', partitions = '1')`);
    const made = await client.createEventSourceMapping({
        FunctionName: name, EventSourceArn: `arn:aws:lambic:local:000000000000:stream/${stream}`, BatchSize: 7, StartingPosition: "TRIM_HORIZON",
    });
    const becomes = (state) => eventually(`the mapping is ${state}`, async () =>
        (await client.getEventSourceMapping({ UUID: made.UUID })).State === state);
    await becomes("Enabled");
    await sql(life, `INSERT INTO ${stream} (at, n) VALUES (now(), 1), (now(), 2)`);
    await eventually("the function was given the records", async () =>
        (await client.getEventSourceMapping({ UUID: made.UUID })).LastProcessingResult === "OK");
    const listed = (await client.listEventSourceMappings({ FunctionName: name })).EventSourceMappings;
    assert.deepEqual(listed.map((one) => [one.UUID, one.BatchSize]), [[made.UUID, 7]]);
    await client.updateEventSourceMapping({ UUID: made.UUID, Enabled: false });
    await becomes("Disabled");
    await client.deleteEventSourceMapping({ UUID: made.UUID });
    await eventually("the mapping is gone", () =>
        client.getEventSourceMapping({ UUID: made.UUID }).then(() => false, (error) => error.name === "ResourceNotFoundException"));
    await sql(life, `DROP STREAM ${stream}`);
}

async function sql(life, text) {
    const answer = await plain(life.url, "POST", "/v1/sql", { "content-type": "text/plain" }, text);
    assert.equal(answer.status, 200, answer.body);
}

async function end(life) {
    const { client, name } = life;
    await refused("ResourceConflictException", 409, client.deleteFunction({ FunctionName: name, Qualifier: "2" }));
    await client.deleteAlias({ FunctionName: name, Name: "live" });
    await client.deleteFunction({ FunctionName: name, Qualifier: "1" });
    await client.deleteFunction({ FunctionName: name });
    for (const call of ["getFunction", "invoke", "deleteFunction"]) {
        const error = await refused("ResourceNotFoundException", 404, client[call]({ FunctionName: name }));
        assert.match(error.message, /^Function not found: /);
        assert.equal(error.Type, "User");
    }
    await refused("ValidationException", 400, client.getFunction({ FunctionName: "not a name" }));
    await created(client, name, code("again"));
    assert.equal((await succeeded(client, name, {}))[0].looks, "again");
    await client.deleteFunction({ FunctionName: name });
}

const life = { url: process.argv[2], client: connect(process.argv[2]), name: `js-${randomUUID().slice(0, 8)}` };
await steps(life, create, invoke, invokeOtherwise, update, aliases, url, layers, settings, mapping, end);
