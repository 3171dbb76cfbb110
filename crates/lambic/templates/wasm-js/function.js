// Greets whom the event names.
import log from "log";

export function handle(event) {
  const { name = "world" } = JSON.parse(event);
  log(`greeting ${name}`); // a line of `lambic function logs {{name}}`
  return JSON.stringify({ message: `hello ${name}` });
}
