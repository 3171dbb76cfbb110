// An answer that is over the cap.

export const handler = async () => "x".repeat(7 << 20);
