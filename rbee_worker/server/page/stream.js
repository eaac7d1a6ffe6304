/** Talking to the worker: requests with the token, and a job's events, resumed when a stream breaks. */

const TOKEN = "rbee-token";
const TRIES = 8;
const LONGEST_PAUSE_MS = 5000;

/** The worker's answer to a request that it did not take. */
export class Refused extends Error {
  /** @param {number} status @param {string} code @param {string} message @param {number} retryAfter  seconds */
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The worker's token: kept in this tab only. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  /** @param {string} value */
  set: (value) => sessionStorage.setItem(TOKEN, value),
};

/**
 * One request. Raises Refused, or what `fetch` raises if the worker cannot be reached.
 *
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @param {Record<string, string>} [headers]
 * @param {AbortSignal} [signal]
 */
export async function ask(method, path, body, headers = {}, signal = undefined) {
  const all = { ...headers };
  if (token.get()) all["Authorization"] = `Bearer ${token.get()}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers: all, signal, cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.ok) return response;
  let message = `HTTP ${response.status}`;
  let code = "";
  try {
    const { error } = await response.json();
    message = error.message;
    code = String(error.code ?? "");
  } catch { /* no JSON: the status must do */ }
  throw new Refused(response.status, code, message, Number(response.headers.get("Retry-After")) || 0);
}

/**
 * Every event of a job exactly once, in order.
 *
 * @param {string} url
 * @param {AbortSignal} [signal]
 */
export async function* events(url, signal) {
  let last = "";
  let failures = 0;
  while (true) {
    try {
      const response = await ask("GET", url, undefined, last ? { "Last-Event-ID": last } : {}, signal);
      for await (const frame of frames(response.body)) {
        if (frame.data === "[DONE]") return;
        if (frame.id) last = frame.id;
        failures = 0;
        yield JSON.parse(frame.data);
      }
    } catch (error) {
      if (error instanceof Refused || signal?.aborted) throw error;
    }
    failures += 1;
    if (failures > TRIES) throw new Error("The connection broke and could not be resumed.");
    await new Promise((done) => setTimeout(done, Math.min(150 * 2 ** failures, LONGEST_PAUSE_MS)));
  }
}

/**
 * The frames of a server-sent stream: their fields, as text.
 *
 * @param {ReadableStream<Uint8Array> | null} body
 * @returns {AsyncGenerator<Record<string, string>>}
 */
export async function* frames(body) {
  if (body === null) return;
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        /** @type {Record<string, string>} */
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
