throw new Error("not a part of any function");
