// The official JavaScript client in a loop of turns: every message it was given is sent back as it is.
// Usage: node conversation.mjs PACKAGE BASE_URL KEY. Prints one JSON object; fails on any refusal.

const [, , path, baseURL, apiKey] = process.argv;
const { default: OpenAI } = await import(path);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = "smollm2";
const ask = { role: "user", content: "Hum" };
const settings = { model, max_tokens: 6, seed: 1 };

const messages = [ask];
for (let turn = 0; turn < 3; turn += 1) {
  const answer = await client.chat.completions.create({ ...settings, messages });
  messages.push(answer.choices[0].message, ask);
}
const whole = await client.chat.completions.create({ ...settings, messages });

let streamed = "";
const options = { include_usage: true };
const stream = await client.chat.completions.create({
  ...settings, messages, stream: true, stream_options: options,
});
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

// the client's own helper gathers a stream into a message, with fields of its own
const runner = client.chat.completions.stream({ ...settings, messages });
const final = await runner.finalMessage();
const after = await client.chat.completions.create({
  ...settings, messages: [...messages, final, ask],
});

let refusal = null;
try {
  await client.chat.completions.create({ ...settings, messages, temperature: 9 });
} catch (error) {
  refusal = { name: error.constructor.name, status: error.status, param: error.param };
}
const models = [];
for await (const found of client.models.list()) models.push(found.id);

console.log(JSON.stringify({
  turns: messages.length,
  whole: whole.choices[0].message.content,
  streamed,
  final: final.content,
  after: after.usage.prompt_tokens,
  before: whole.usage.prompt_tokens,
  usage,
  refusal,
  models,
}));
