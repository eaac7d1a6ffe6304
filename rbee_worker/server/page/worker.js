/** The worker as the page sees it: its state, asked once a second, and what it says of its model. */

import { Refused, ask, frames } from "./stream.js";

const POLL_MS = 1000;

/**
 * Events: `state` (state, reason or progress changed), `stats` (new figures), `info` (the model is
 * described), `token` (the worker wants its token; `detail`: whether it has refused one).
 */
class Worker extends EventTarget {
  state = "connecting";
  reason = "";
  /** How far loading has come. @type {{stage: string, share: number | null} | null} */
  progress = null;
  /** @type {any} */
  info = null;
  /** @type {any} */
  stats = null;
  #timer = 0;
  #following = false;

  /** Ask now, and then once a second while the page can be seen. @param {boolean} hasToken */
  async poll(hasToken) {
    clearTimeout(this.#timer);
    try {
      this.stats = await (await ask("GET", "/v1/stats")).json();
      this.#become(this.stats.state, this.stats.reason);
      this.dispatchEvent(new Event("stats"));
      const whole = this.info?.purpose !== undefined;
      if (!whole && (this.info === null || this.state === "ready")) await this.#describe();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        this.dispatchEvent(new CustomEvent("token", { detail: hasToken }));
        return;
      }
      this.#become("unreachable", "the worker does not answer");
    }
    this.#timer = setTimeout(() => this.#whenSeen(hasToken), POLL_MS);
  }

  /** @param {boolean} hasToken */
  #whenSeen(hasToken) {
    if (!document.hidden) this.poll(hasToken);
    else document.addEventListener("visibilitychange", () => this.poll(hasToken), { once: true });
  }

  async #describe() {
    this.info = await (await ask("GET", "/info")).json();
    this.dispatchEvent(new Event("info"));
  }

  /** @param {string} state @param {string} reason */
  #become(state, reason) {
    if (state === this.state && reason === this.reason) return;
    this.state = state;
    this.reason = reason;
    if (state === "loading") this.#follow();
    else this.progress = null;
    this.dispatchEvent(new Event("state"));
  }

  /** Follow the progress of loading; what breaks is left to the polls. */
  async #follow() {
    if (this.#following) return;
    this.#following = true;
    try {
      const response = await ask("GET", "/v1/loading/progress");
      for await (const { data } of frames(response.body)) {
        if (data === "[DONE]" || this.state !== "loading") break;
        const { stage, layers_loaded: done, layers_total: all } = JSON.parse(data);
        const what = stage === "loading_to_vram" ? "weights" : stage.replaceAll("_", " ");
        this.progress = { stage: what, share: all ? done / all : null };
        this.dispatchEvent(new Event("state"));
      }
    } catch { /* the next poll says what the worker does */ }
    this.#following = false;
  }

  /**
   * Resolves once the model can answer. Raises if it never will, or when `signal` aborts.
   *
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
  ready(signal) {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.state === "ready") end(resolve);
        else if (this.state === "failed" || this.state === "draining") end(reject, new Error(sentence(this.reason)));
      };
      const stop = () => end(reject, signal.reason);
      const end = (/** @type {(value?: any) => void} */ settle, /** @type {any} */ value = undefined) => {
        this.removeEventListener("state", look);
        signal.removeEventListener("abort", stop);
        settle(value);
      };
      this.addEventListener("state", look);
      signal.addEventListener("abort", stop);
      if (signal.aborted) stop();
      else look();
    });
  }
}

/** @param {string} words */
export function sentence(words) {
  return words ? `${words[0].toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? "" : "."}` : "";
}

export const worker = new Worker();
