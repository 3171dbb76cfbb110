// The end of the stack.

export const handler = async () => {
    const down = (depth) => down(depth + 1) + 1;
    return down(0);
};
