// Greets whom the event names.
export const handler = async (event) => {
  const name = event.name ?? "world";
  console.log(`greeting ${name}`); // a line of `lambic function logs {{name}}`
  return { message: `hello ${name}` };
};
