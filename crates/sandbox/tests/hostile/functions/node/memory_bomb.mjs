// As much memory as it can get, beside the heap.

export const handler = async () => {
    const keep = [];
    for (;;) keep.push(Buffer.alloc(1 << 20, "x"));
};
