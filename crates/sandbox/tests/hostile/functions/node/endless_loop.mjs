// Never ends, nor lets anything else run.

export const handler = async () => {
    for (;;);
};
