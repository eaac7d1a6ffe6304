import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOLD, WEATHER } from "./harness.mjs";
import { main, raises, same, token, url, vectors } from "./harness.mjs";

const client = new OpenAI({ baseURL: url + "/v1", apiKey: token, maxRetries: 0 });
const tool = { type: "function", function: { name: "get_weather", parameters: WEATHER } };
const ask = (text, more = {}) =>
  client.chat.completions.create({
    model: MODEL,
    messages: [{ role: "user", content: text }],
    ...more,
  });

await main({
  async chat() {
    same((await ask(CHAT)).choices[0].message.content, SUNNY);
    same((await client.responses.create({ model: MODEL, input: CHAT })).output_text, SUNNY);
  },
  async stream() {
    let text = "";
    for await (const chunk of await ask(CHAT, { stream: true }))
      text += chunk.choices[0]?.delta?.content ?? "";
    same(text, SUNNY);
    const events = client.responses.stream({ model: MODEL, input: CHAT });
    same((await events.finalResponse()).output_text, SUNNY);
  },
  async structured() {
    const format = zodResponseFormat(z.object({ name: z.string(), size: z.number() }), "thing");
    const told = await client.chat.completions.parse({
      model: MODEL,
      messages: [{ role: "user", content: THING }],
      response_format: format,
    });
    same(told.choices[0].message.parsed, { name: "bee", size: 3 });
  },
  async tools() {
    const first = (await ask(CALL, { tools: [tool] })).choices[0].message;
    same(JSON.parse(first.tool_calls[0].function.arguments), { city: "Köln" });
    const result = { role: "tool", tool_call_id: first.tool_calls[0].id, content: TOLD };
    const messages = [{ role: "user", content: CALL }, first, result];
    const last = await client.chat.completions.create({ model: MODEL, messages, tools: [tool] });
    same(last.choices[0].message.content, FINAL);
  },
  async embeddings() {
    const other = new OpenAI({ baseURL: vectors + "/v1", apiKey: token, maxRetries: 0 });
    const told = await other.embeddings.create({ model: MODEL, input: ["a", "b"] });
    same(told.data.length, 2);
  },
  errors: () => raises(() => ask(CHAT, { temperature: 9 })),
});
