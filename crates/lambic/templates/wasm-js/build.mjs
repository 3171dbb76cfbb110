// Makes the component function.wasm.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const at = (name) => new URL(name, import.meta.url).pathname;
const { component } = await componentize(await readFile(at("function.js"), "utf8"), {
  witPath: at("wit"),
  worldName: "handler",
  // A component of this world has no network.
  disableFeatures: ["http", "fetch-event"],
});
await writeFile(at("function.wasm"), component);
