exports.handler = async (event) => ({ said: `${process.env.GREETING} ${event.name}`, stage: process.env.STAGE });
