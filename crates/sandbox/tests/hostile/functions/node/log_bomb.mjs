// A log of more than anybody reads.

export const handler = async () => {
    for (let number = 0; number < 200_000; number++) console.log(number, "x".repeat(100));
    return [];
};
