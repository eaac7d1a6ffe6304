import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOLD, WEATHER } from "./harness.mjs";
import { main, raises, same, token, url, vectors } from "./harness.mjs";

const made = (base) =>
  createOpenAICompatible({
    name: "rbee",
    baseURL: base + "/v1",
    apiKey: token,
    supportsStructuredOutputs: true,
  });
const model = made(url).chatModel(MODEL);
const once = { model, maxRetries: 0 };
const get_weather = tool({ inputSchema: jsonSchema(WEATHER), execute: async () => TOLD });
const schema = jsonSchema({
  type: "object",
  properties: { name: { type: "string" }, size: { type: "integer" } },
  required: ["name", "size"],
  additionalProperties: false,
});

await main({
  chat: async () => same((await generateText({ ...once, prompt: CHAT })).text, SUNNY),
  async stream() {
    let text = "";
    for await (const part of streamText({ ...once, prompt: CHAT }).textStream) text += part;
    same(text, SUNNY);
  },
  structured: async () =>
    same((await generateObject({ ...once, prompt: THING, schema })).object, { name: "bee", size: 3 }),
  async tools() {
    const asked = { ...once, prompt: CALL, tools: { get_weather }, stopWhen: stepCountIs(3) };
    same((await generateText(asked)).text, FINAL);
  },
  async embeddings() {
    const embedder = made(vectors).embeddingModel(MODEL);
    const told = await embedMany({ model: embedder, values: ["a", "b"], maxRetries: 0 });
    same(told.embeddings.length, 2);
  },
  errors: () => raises(() => generateText({ ...once, prompt: CHAT, temperature: 9 })),
});
