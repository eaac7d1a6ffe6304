/** One answer: waits for the model, asks for a job, and writes its events into a turn. */

import { body } from "./request.js";
import { Refused, ask, events } from "./stream.js";
import { worker } from "./worker.js";

/** @typedef {import("./types.js").Turn} Turn @typedef {import("./tree.js").Conversation} Conversation */

const STEADY_S = 0.2; // a speed over less time says little

/** An answer while it is made. `changed` is called whenever its turn is another. */
export class Answer {
  #gone = new AbortController();
  #stopping = false;

  /** @param {Turn} turn @param {() => void} changed @param {(event: any) => void} told  narrations and metrics */
  constructor(turn, changed, told) {
    this.turn = turn;
    this.changed = changed;
    this.told = told;
  }

  /**
   * Make it; never raises. What went wrong is the turn's `error`.
   *
   * @param {Conversation} conversation
   * @param {() => Record<string, any>} parameters  raises what is wrong with them
   * @param {boolean} goesOn  the turn has a text that is to be continued
   */
  async make(conversation, parameters, goesOn) {
    const { turn } = this;
    const began = goesOn ? { ...turn } : null;
    Object.assign(turn, { state: "waiting", error: "", end: undefined, started: undefined, tokens: 0, rate: 0 });
    turn.before = goesOn ? turn.text : "";
    this.changed();
    await this.#guarded(async () => {
      const given = parameters();
      const asked = () => body(conversation.before(turn), conversation.system, given, worker.info?.chat_template !== false, began);
      const job = await this.#submitted(asked);
      turn.job = job.sse_url;
      turn.jobId = job.job_id;
      if (this.#stopping) this.#cancel();
      await this.#follow();
    });
  }

  /** Go on with one that was being made when the page was closed. */
  async resume() {
    const { turn } = this;
    const reasoning = turn.before ? turn.reasoning : "";
    Object.assign(turn, { text: turn.before ?? "", reasoning, calls: [], logprobs: [], tokens: 0, state: "waiting", prompt: "" });
    await this.#guarded(() => this.#follow());
  }

  /** Ask the worker to end it; its last words follow. */
  stop() {
    this.#stopping = true;
    if (this.turn.jobId) this.#cancel();
    else this.#gone.abort(new Error("Stopped before the model could answer."));
  }

  /** End it, and follow it no longer. */
  leave() {
    this.stop();
    this.#gone.abort(new Error("Stopped."));
  }

  /** @param {() => Promise<void>} work */
  async #guarded(work) {
    const { turn } = this;
    try {
      await work();
      turn.state = "done";
    } catch (error) {
      if (error instanceof Refused && error.status === 401) worker.dispatchEvent(new CustomEvent("token", { detail: true }));
      turn.state = this.#stopping && turn.text ? "done" : "failed";
      turn.error = turn.state === "failed" ? String(/** @type {Error} */ (error).message || error) : "";
    } finally {
      turn.job = turn.jobId = undefined;
      this.changed();
    }
  }

  #cancel() {
    ask("DELETE", `/v1/jobs/${this.turn.jobId}`).catch(() => {});
  }

  /** The created job; waits while the model loads and while the engine is restarted. @param {() => object} asked */
  async #submitted(asked) {
    const { signal } = this.#gone;
    while (true) {
      await worker.ready(signal);
      try {
        return await (await ask("POST", "/v1/jobs", asked(), {}, signal)).json();
      } catch (error) {
        if (!(error instanceof Refused && error.code === "not_ready")) throw error;
        await new Promise((done) => setTimeout(done, 1000)); // the next poll says why
        if (signal.aborted) throw signal.reason;
      }
    }
  }

  async #follow() {
    const { turn } = this;
    let first = 0;
    for await (const event of events(/** @type {string} */ (turn.job), this.#gone.signal)) {
      switch (event.type) {
        case "started":
          turn.started = event;
          break;
        case "token":
          if (event.i < 0 && event.t) {
            turn.prompt = event.t; // `echo`
            break;
          }
          turn.state = "writing";
          this.#add(event);
          first ||= performance.now();
          turn.tokens = (turn.tokens ?? 0) + event.ids.length;
          turn.rate = speed(turn.tokens ?? 0, (performance.now() - first) / 1000);
          break;
        case "end":
          this.#add({ ...event, t: event.text });
          turn.tokens = event.tokens_out;
          turn.end = event;
          break;
        case "error":
          throw new Error(event.message);
        default:
          this.told(event);
      }
      this.changed();
    }
  }

  /** @param {any} event */
  #add(event) {
    const { turn } = this;
    turn.text += event.t ?? "";
    if (event.reasoning) turn.reasoning = (turn.reasoning ?? "") + event.reasoning;
    for (const piece of event.calls ?? []) {
      turn.calls ??= [];
      const call = (turn.calls[piece.index] ??= { id: "", name: "", arguments: "" });
      call.id += piece.id ?? "";
      call.name += piece.name ?? "";
      call.arguments += piece.arguments ?? "";
    }
    if (event.logprobs) turn.logprobs = [...(turn.logprobs ?? []), ...event.logprobs];
  }
}

/** @param {number} tokens @param {number} seconds */
const speed = (tokens, seconds) => (seconds > STEADY_S ? (tokens - 1) / seconds : 0);

/** Tokens a second of a finished answer, 0 if too few. @param {any} end */
export function decodeRate(end) {
  const seconds = (end?.decode_time_ms ?? 0) / 1000;
  return seconds > 0 && end.tokens_out > 1 ? (end.tokens_out - 1) / seconds : 0;
}
