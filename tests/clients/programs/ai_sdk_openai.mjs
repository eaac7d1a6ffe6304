// The AI SDK's own OpenAI provider, which speaks Responses.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { CALL, CHAT, FINAL, MODEL, SUNNY, THING, TOLD, WEATHER } from "./harness.mjs";
import { main, raises, same, token, url } from "./harness.mjs";

const model = createOpenAI({ baseURL: url + "/v1", apiKey: token })(MODEL);
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
  errors: () => raises(() => generateText({ ...once, prompt: CHAT, temperature: 9 })),
});
