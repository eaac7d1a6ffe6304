// Talking to the worker: requests with the token, and a job's events, resumed when a stream breaks.

const TOKEN = "rbee-token";
const TRIES = 6;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
};

export async function ask(method, path, body, headers = {}, signal = undefined) {
  const all = { ...headers };
  if (token.get()) all["Authorization"] = `Bearer ${token.get()}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers: all, signal, cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.ok || path === "/v1/ready") return response;
  let message = `HTTP ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* no JSON: the status must do */ }
  throw new Refused(response.status, message);
}

// Every event of the job exactly once, in order.
export async function* events(url) {
  let last = "";
  let failures = 0;
  while (true) {
    try {
      const response = await ask("GET", url, undefined, last ? { "Last-Event-ID": last } : {});
      for await (const frame of frames(response.body)) {
        if (frame.data === "[DONE]") return;
        if (frame.id) last = frame.id;
        failures = 0;
        yield JSON.parse(frame.data);
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    failures += 1;
    if (failures > TRIES) throw new Error("The connection broke and could not be resumed.");
    await new Promise((done) => setTimeout(done, 150 * 2 ** failures));
  }
}

async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const frame = {};
        for (const line of block.split("\n")) {
          const at = line.indexOf(":");
          if (at > 0) frame[line.slice(0, at)] = line.slice(at + 1).replace(/^ /, "");
        }
        if (frame.data !== undefined) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
