import { Ollama } from "ollama";
import { CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOLD, WEATHER } from "./harness.mjs";
import { main, raises, same, token, url, vectors } from "./harness.mjs";

const made = (host) => new Ollama({ host, headers: { Authorization: `Bearer ${token}` } });
const client = made(url);
const tool = { type: "function", function: { name: "get_weather", parameters: WEATHER } };
const ask = (text, more = {}) =>
  client.chat({ model: MODEL, messages: [{ role: "user", content: text }], ...more });
const format = {
  type: "object",
  properties: { name: { type: "string" }, size: { type: "integer" } },
  required: ["name", "size"],
};

await main({
  chat: async () => same((await ask(CHAT)).message.content, SUNNY),
  async stream() {
    let text = "";
    for await (const part of await ask(CHAT, { stream: true })) text += part.message.content;
    same(text, SUNNY);
  },
  structured: async () =>
    same(JSON.parse((await ask(THING, { format })).message.content), { name: "bee", size: 3 }),
  async tools() {
    const first = (await ask(CALL, { tools: [tool] })).message;
    same(first.tool_calls[0].function.arguments, { city: "Köln" });
    const result = { role: "tool", tool_name: "get_weather", content: TOLD };
    const messages = [{ role: "user", content: CALL }, first, result];
    const last = await client.chat({ model: MODEL, messages, tools: [tool] });
    same(last.message.content, FINAL);
  },
  embeddings: async () =>
    same((await made(vectors).embed({ model: MODEL, input: ["a", "b"] })).embeddings.length, 2),
  errors: () => raises(() => ask(CHAT, { options: { temperature: 9 } })),
});
