// What the programs share: see harness.py.
export const [url, token, vectors] = process.argv.slice(2);
export const MODEL = "smollm2";
export const CHAT = "#0 How is it?", CALL = "#1 How is the weather?", TOLD = "#2 sunny", THING = "#3 A thing?";
export const SUNNY = "It is sunny.", FINAL = "Köln is sunny.";
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
};

export function same(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted))
    throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
}

export async function raises(call) {
  try {
    await call();
  } catch (error) {
    if (!String(error).includes("temperature")) throw error;
    return;
  }
  throw new Error("no error");
}

export async function main(features) {
  const found = {};
  for (const [name, check] of Object.entries(features)) {
    try {
      await check();
      found[name] = "works";
    } catch (error) {
      const line = String(error).replace(/\s+/g, " ");
      found[name] = `${line.includes("Fix: ") ? "refused" : "failed"}: ${line.slice(0, 300)}`;
    }
  }
  console.log(JSON.stringify(found));
}
