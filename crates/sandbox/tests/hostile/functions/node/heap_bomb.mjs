// As much memory as it can get, on the heap.

export const handler = async () => {
    let keep = {};
    for (;;) keep = { keep, more: [keep, 1, 2, 3, 4, 5, 6, 7, 8, 9] };
};
