// Lambic's runtime client for Node: asks AWS's Runtime API for events and calls the handler.
//
// It needs nothing but Node itself. Handlers, context, errors and log lines are those of AWS's own client.

import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { Writable } from "node:stream";
import { pathToFileURL } from "node:url";
import util from "node:util";

const API = "/2018-06-01/runtime";
// Asks for the next event with a response.
const NEXT = { "Lambic-Runtime-Next": "1" };
const [HOST, PORT] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const TASK_ROOT = process.env.LAMBDA_TASK_ROOT;
// Its idle connection does not count as something that a handler waits for.
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

let requestId;
// The response of the running event, if that is streamed.
let openStream;
let isBetweenEvents = true;
// What ends the running event when nothing is left to wait for.
let whenEmpty;

class RuntimeError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

function call(method, where, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { "Content-Length": Buffer.byteLength(body) };
    const options = { host: HOST, port: PORT, method, path: where, agent, headers: { ...headers, ...length } };
    const request = http.request(options, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(parts) }),
      );
    });
    request.on("error", reject);
    request.end(body);
  });
}

function shape(error) {
  if (util.types.isNativeError(error) || (error && error.name && error.message !== undefined && error.stack)) {
    return {
      errorType: whole(String(error.name)),
      errorMessage: whole(String(error.message)),
      trace: whole(String(error.stack)).split("\n"),
    };
  }
  return { errorType: typeof error, errorMessage: whole(text(error)), trace: [] };
}

// Half a character, as of a text that was cut, is in no JSON that all readers take.
function whole(value) {
  return Buffer.from(value, "utf8").toString("utf8");
}

function text(value) {
  try {
    return String(value);
  } catch {
    return "an error that has no text";
  }
}

function show(title, error) {
  const shaped = shape(error);
  const { trace, ...rest } = shaped;
  if (isLogJson()) {
    writeEntry(`${jsonEntry("ERROR", [{ ...rest, stackTrace: trace }])}\n`);
    return shaped;
  }
  console.error(title, JSON.stringify({ ...rest, stack: trace }));
  return shaped;
}

// What a header may have.
function headerText(value) {
  return value.replace(/[^\x20-\x7e]/g, "?").slice(0, 256);
}

function json(shaped) {
  const headers = { "Lambda-Runtime-Function-Error-Type": headerText(shaped.errorType) };
  return { body: JSON.stringify(shaped), headers };
}

async function postInvocationError(id, title, error, more = {}) {
  const { body, headers } = json(show(title, error));
  return call("POST", `${API}/invocation/${id}/error`, body, { ...headers, ...more });
}

// The last word of a process that cannot go on.
async function giveUp(title, error, status) {
  try {
    if (openStream?.isOpen) {
      // Its request is the way out, and nothing else can be asked before it has ended.
      await openStream.fail(show(title, error), true);
    } else if (requestId !== undefined) {
      await postInvocationError(requestId, title, error, { "Lambic-Runtime-Ends": "1" });
    } else if (isBetweenEvents === false) {
      const { body, headers } = json(show(title, error));
      await call("POST", `${API}/init/error`, body, headers);
    } else {
      show(title, error);
    }
  } finally {
    process.exit(status);
  }
}

function isLogJson() {
  return process.env.AWS_LAMBDA_LOG_FORMAT === "JSON";
}

function errorMembers(error) {
  const stackTrace = typeof error.stack === "string" ? error.stack.split("\n") : [];
  return { errorType: error.constructor?.name ?? "UnknownError", errorMessage: error.message, stackTrace };
}

// As AWS's client writes one: a value that stands alone stays what it is.
function jsonEntry(level, values) {
  const entry = { timestamp: new Date().toISOString(), level, requestId };
  if (values.length === 1) {
    const shown = (_, value) => (value instanceof Error ? { ...value, ...errorMembers(value) } : value);
    try {
      return JSON.stringify({ ...entry, message: values[0] }, shown);
    } catch {
      // It has no JSON.
    }
  }
  const error = values.length > 1 && values.find((value) => value instanceof Error);
  return JSON.stringify({ ...entry, message: util.format(...values), ...(error ? errorMembers(error) : {}) });
}

function writeEntry(line) {
  try {
    fs.writeSync(1, line);
  } catch {
    process.stdout.write(line);
  }
}

const LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

// Console: one entry is one line, with time, request and level before it, or an object, as in AWS's logs. What else the
// console has goes through one of these (`table`, `group`, `count`, `assert`, `timeEnd`), or, as on AWS, is written as it is
// (`dir`, `dirxml`).
function patchConsole() {
  const levels = {
    log: "INFO", info: "INFO", warn: "WARN", error: "ERROR", debug: "DEBUG", trace: "TRACE", fatal: "FATAL",
  };
  const isJson = isLogJson();
  const least = isJson ? LEVELS.indexOf(process.env.AWS_LAMBDA_LOG_LEVEL) : 0;
  for (const [name, level] of Object.entries(levels)) {
    console[name] = (...values) => {
      if (LEVELS.indexOf(level) < least) return;
      if (isJson) return writeEntry(`${jsonEntry(level, values)}\n`);
      const entry = util.format(...values).replaceAll("\n", "\r");
      writeEntry(`${new Date().toISOString()}\t${requestId ?? "undefined"}\t${level}\t${entry}\n`);
    };
  }
}

// A trailer has room for 16 KB, in base64.
function trailerText(shaped) {
  const fits = (error) => Buffer.byteLength(JSON.stringify(error)) <= 9_000;
  const tries = [shaped, { ...shaped, trace: [] }, { ...shaped, errorMessage: shaped.errorMessage.slice(0, 1_000), trace: [] }];
  return Buffer.from(JSON.stringify(tries.find(fits) ?? tries[2])).toString("base64");
}

// The response of a handler that streams: opened with its first bytes, so that what fails before is an error as any.
class ResponseStream extends Writable {
  #id;
  #request;
  #trailers;
  #resolve;
  #reject;
  #contentType = "application/octet-stream";

  constructor(id) {
    super();
    this.#id = id;
    // Settled when the Runtime API has all of it, or cannot get it any more.
    this.answered = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever waits for it hears of it; nobody may.
    this.answered.catch(() => {});
    this.on("error", () => {});
  }

  get isOpen() {
    return this.#request !== undefined;
  }

  setContentType(contentType) {
    if (this.isOpen) throw new RuntimeError("InvalidStreamingOperation", "Cannot set content-type, too late.");
    this.#contentType = contentType;
  }

  // As AWS's does: what is neither text nor bytes goes as JSON.
  write(chunk, ...more) {
    const isPlain = typeof chunk === "string" || chunk instanceof Uint8Array;
    return super.write(isPlain ? chunk : JSON.stringify(chunk), ...more);
  }

  #open() {
    if (this.#request) return this.#request;
    const headers = {
      "Content-Type": this.#contentType,
      "Lambda-Runtime-Function-Response-Mode": "streaming",
      "Transfer-Encoding": "chunked",
      Trailer: "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body, Lambic-Runtime-Ends",
    };
    const path = `${API}/invocation/${this.#id}/response`;
    this.#request = http.request({ host: HOST, port: PORT, method: "POST", path, agent, headers }, (response) => {
      response.on("error", this.#reject);
      response.on("end", this.#resolve);
      response.resume();
    });
    this.#request.on("error", this.#reject);
    // AWS's name of it; frameworks set it, too.
    this._onBeforeFirstWrite?.((chunk) => this.#request.write(chunk));
    return this.#request;
  }

  _write(chunk, encoding, done) {
    this.#open().write(chunk, encoding, done);
  }

  _final(done) {
    const request = this.#open();
    if (this.#trailers) request.addTrailers(this.#trailers);
    request.end(done);
  }

  _destroy(error, done) {
    // Its request stays open, so that the reason can be told.
    if (!this.writableFinished) {
      this.#reject(error ?? new RuntimeError("Runtime.StreamDestroyed", "The response stream was destroyed before its end."));
    }
    done(error);
  }

  // Tells of a failure after the first bytes, behind everything that was written before.
  async fail(shaped, ends) {
    this.#trailers = {
      "Lambda-Runtime-Function-Error-Type": headerText(shaped.errorType),
      "Lambda-Runtime-Function-Error-Body": trailerText(shaped),
      ...(ends ? { "Lambic-Runtime-Ends": "1" } : {}),
    };
    const told = new Promise((resolve) => this.#request.once("close", resolve));
    if (this.#request.destroyed) return;
    if (this.destroyed) {
      this.#request.addTrailers(this.#trailers);
      this.#request.end();
    } else if (!this.writableEnded) {
      this.end();
    }
    await told;
  }
}

const STREAMS = Symbol.for("aws.lambda.runtime.handler.streaming");

globalThis.awslambda = {
  streamifyResponse(handler, options) {
    handler[STREAMS] = "response";
    if (options?.highWaterMark !== undefined) handler.highWaterMark = options.highWaterMark;
    return handler;
  },
  HttpResponseStream: {
    // What comes before the body goes out with its first bytes: what fails before has an answer of its own.
    from(stream, metadata) {
      const prelude = JSON.stringify(metadata);
      stream.setContentType("application/vnd.awslambda.http-integration-response");
      stream._onBeforeFirstWrite = (write) => {
        write(prelude);
        write(Buffer.alloc(8));
      };
      return stream;
    },
  },
};

async function runStreaming(handler, event, context, id) {
  const stream = new ResponseStream(id);
  openStream = stream;
  whenEmpty = () => {
    const message =
      "The event loop is empty, but the response stream has not ended: nothing is left that could end it.";
    giveUp("Invoke Error", new RuntimeError("Runtime.NodeJsExit", message), 1);
  };
  try {
    await handler(event, stream, context);
    // It may go on after the handler has returned, until the stream is ended.
    await stream.answered;
  } catch (error) {
    if (!stream.isOpen) throw error;
    const shaped = show("Invoke Error", error);
    await (stream.writableFinished ? stream.answered : stream.fail(shaped, false));
  } finally {
    whenEmpty = undefined;
    openStream = undefined;
  }
}

function isModuleScope(file) {
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8")).type === "module";
    } catch (error) {
      if (error instanceof SyntaxError) return false;
    }
    if (folder === TASK_ROOT || folder === path.dirname(folder)) return false;
  }
}

function isFile(file) {
  try {
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

async function loadModule(folder, root, name) {
  const require = createRequire(path.join(folder, "index.js"));
  const stem = path.resolve(folder, root, name);
  const importFile = (file) => import(pathToFileURL(file).href);
  if (isFile(stem)) return require(stem);
  if (isFile(`${stem}.js`)) {
    return isModuleScope(`${stem}.js`) ? importFile(`${stem}.js`) : require(`${stem}.js`);
  }
  if (isFile(`${stem}.mjs`)) return importFile(`${stem}.mjs`);
  if (isFile(`${stem}.cjs`)) return require(`${stem}.cjs`);
  // A module of node_modules, or a folder with an index.
  return require(require.resolve(path.join(root, name), { paths: [folder, path.join(folder, root)] }));
}

async function load(handler, folder = TASK_ROOT) {
  const base = path.basename(handler);
  const root = handler.slice(0, handler.length - base.length);
  const parts = /^([^.]+)\.(.+)$/.exec(base);
  if (!parts || handler.includes("..")) {
    throw new RuntimeError("Runtime.MalformedHandlerName", `Bad handler '${handler}': write file.function`);
  }
  const [, name, exported] = parts;
  let module;
  try {
    module = await loadModule(folder, root, name);
  } catch (error) {
    if (error instanceof SyntaxError) {
      const syntax = new RuntimeError("Runtime.UserCodeSyntaxError", String(error));
      syntax.stack = error.stack;
      throw syntax;
    }
    if (error && (error.code === "MODULE_NOT_FOUND" || error.code === "ERR_MODULE_NOT_FOUND")) {
      const missing = new RuntimeError("Runtime.ImportModuleError", String(error));
      missing.stack = error.stack;
      throw missing;
    }
    throw error;
  }
  const find = (from) => exported.split(".").reduce((value, key) => value?.[key], from);
  // A CommonJS module that was imported has its exports below `default`.
  const found = find(module) ?? find(module?.default);
  if (found === undefined || found === null) {
    throw new RuntimeError("Runtime.HandlerNotFound", `${handler} is undefined or not exported`);
  }
  if (typeof found !== "function") {
    throw new RuntimeError("Runtime.HandlerNotFound", `${handler} is not a function`);
  }
  return found;
}

function parsed(header) {
  return header === undefined ? undefined : JSON.parse(Buffer.from(header, "latin1").toString("utf8"));
}

function makeContext(headers) {
  const deadline = Number(headers["lambda-runtime-deadline-ms"]);
  return {
    callbackWaitsForEmptyEventLoop: true,
    awsRequestId: headers["lambda-runtime-aws-request-id"],
    invokedFunctionArn: headers["lambda-runtime-invoked-function-arn"],
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    clientContext: parsed(headers["lambda-runtime-client-context"]),
    identity: parsed(headers["lambda-runtime-cognito-identity"]),
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
  };
}

function encode(answer) {
  // Functions and symbols have no JSON.
  return JSON.stringify(answer === undefined ? null : answer) ?? "null";
}

// The handler's answer, by whichever way it gives one.
function run(handler, event, context) {
  return new Promise((resolve, reject) => {
    let isDone = false;
    const settle = (way, value) => {
      if (isDone) return;
      isDone = true;
      const end = () => {
        whenEmpty = undefined;
        way(value);
      };
      if (context.callbackWaitsForEmptyEventLoop) {
        whenEmpty = end;
      } else {
        // After what the handler has still to do in this turn.
        setImmediate(end);
      }
    };
    const callback = (error, answer) =>
      error === undefined || error === null ? settle(resolve, answer) : settle(reject, error);
    context.done = callback;
    context.succeed = (answer) => settle(resolve, answer);
    context.fail = (error) => settle(reject, error ?? new Error("handled"));
    // Neither called back nor anything left that could: the answer is null.
    whenEmpty = () => {
      isDone = true;
      whenEmpty = undefined;
      resolve(null);
    };
    const returned = handler(event, context, callback);
    if (returned !== null && typeof returned === "object" && typeof returned.then === "function") {
      whenEmpty = () => {
        const message =
          "The event loop is empty, but the handler's promise is not settled: nothing is left that could settle it.";
        giveUp("Invoke Error", new RuntimeError("Runtime.NodeJsExit", message), 1);
      };
      returned.then(
        (answer) => {
          isDone = true;
          whenEmpty = undefined;
          resolve(answer);
        },
        (error) => {
          isDone = true;
          whenEmpty = undefined;
          reject(error);
        },
      );
    }
  });
}

// Loads and runs handlers of its own, of both kinds of modules: what Node does for the first time takes it three times as
// long, and now nobody waits for it.
async function rehearse() {
  // What many functions import.
  await Promise.all(["node:crypto", "node:https", "node:url", "node:zlib"].map((name) => import(name)));
  // Nobody is there: it is refused.
  await call("POST", "/lambic/rehearsal", "{}", { "Content-Type": "application/json", ...NEXT });
  const folder = fs.mkdtempSync("/tmp/lambic-rehearsal-");
  try {
    fs.writeFileSync(path.join(folder, "a.js"), "exports.handler = async (event) => event;\n");
    fs.writeFileSync(path.join(folder, "b.mjs"), "export const handler = async (event) => event;\n");
    for (const name of ["a", "b"]) {
      const handler = await load(`${name}.handler`, folder);
      const context = makeContext({ "lambda-runtime-deadline-ms": "0" });
      encode(await run(handler, JSON.parse(Buffer.from("{}").toString("utf8")), context));
    }
    util.format("%s %o", new Date().toISOString(), {});
  } finally {
    // A function that looks around finds nothing of it.
    delete createRequire(import.meta.url).cache[path.join(folder, "a.js")];
    fs.rmSync(folder, { recursive: true });
  }
}

// Waits until this process belongs to a function, and takes its variables.
async function takeAssignment() {
  // Without it the function only has to wait for more.
  await rehearse().catch(() => {});
  const { body } = await call("GET", "/lambic/assignment");
  const variables = JSON.parse(body.toString("utf8"));
  for (const name of Object.keys(process.env)) if (!(name in variables)) delete process.env[name];
  // What is the same stays as it is: when the time zone is taken away, Node looks for another one in all files that tell of
  // some, which takes some 10 ms.
  for (const [name, value] of Object.entries(variables)) if (process.env[name] !== value) process.env[name] = value;
  // The folder that was here is covered by the code.
  process.chdir(TASK_ROOT);
}

async function main() {
  if (process.env.LAMBIC_SPARE) await takeAssignment();
  patchConsole();
  isBetweenEvents = false;
  // In a turn of its own: what it starts keeps the process alive.
  process.on("beforeExit", () => whenEmpty && setImmediate(() => whenEmpty?.()));
  process.on("uncaughtException", (error) => giveUp("Uncaught Exception", error, 129));
  process.on("unhandledRejection", (reason) => {
    const error = new RuntimeError("Runtime.UnhandledPromiseRejection", text(reason));
    if (reason?.stack) error.stack = reason.stack;
    error.reason = reason;
    giveUp("Unhandled Promise Rejection", error, 128);
  });
  let handler;
  try {
    handler = await load(process.env._HANDLER);
  } catch (error) {
    return giveUp("Init Error", error, 1);
  }
  isBetweenEvents = true;
  let next;
  for (;;) {
    // The answer to a response is the next event, if the response was taken.
    if (next?.status !== 200) next = await call("GET", `${API}/invocation/next`);
    const { status, headers, body } = next;
    next = undefined;
    if (status !== 200) {
      console.error(`the Runtime API answered ${status}`);
      process.exit(1);
    }
    const id = headers["lambda-runtime-aws-request-id"];
    requestId = id;
    const trace = headers["lambda-runtime-trace-id"];
    if (trace) process.env._X_AMZN_TRACE_ID = trace;
    else delete process.env._X_AMZN_TRACE_ID;
    try {
      const context = makeContext(headers);
      if (handler[STREAMS]) {
        await runStreaming(handler, JSON.parse(body.toString("utf8")), context, id);
        requestId = undefined;
        continue;
      }
      const answer = await run(handler, JSON.parse(body.toString("utf8")), context);
      let encoded;
      try {
        encoded = encode(answer);
      } catch (error) {
        throw new RuntimeError("Runtime.MarshalError", `Unable to marshal response: ${error.message}`);
      }
      requestId = undefined;
      next = await call("POST", `${API}/invocation/${id}/response`, encoded, { "Content-Type": "application/json", ...NEXT });
    } catch (error) {
      if (requestId === undefined) throw error;
      const answered = postInvocationError(id, "Invoke Error", error, NEXT);
      requestId = undefined;
      next = await answered;
    }
  }
}

main();
