/** The worker's state and figures in the header, and what happens in the feed. */

import { $, el } from "./dom.js";
import { talk } from "./talk.js";
import { sentence, worker } from "./worker.js";

const FEED_MAX = 60;
/** @type {Record<string, string>} */
const MADE_FOR = {
  embed: "This model makes vectors of texts: POST /v1/embeddings, /v1/score or /v1/rerank.",
  classify: "This model sorts texts into classes: POST /v1/classify, /v1/score or /v1/rerank.",
};

/** @type {{tokens: number, time: number} | null} */
let counted = null;
const warned = new Set();

/** Follow the worker and the conversation. */
export function startStatus() {
  worker.addEventListener("state", state);
  worker.addEventListener("stats", stats);
  worker.addEventListener("info", info);
  talk.addEventListener("told", (event) => told(/** @type {CustomEvent} */ (event).detail));
  talk.addEventListener("trouble", (event) => narrate(/** @type {CustomEvent} */ (event).detail));
  talk.addEventListener("turn", (event) => {
    const { rate, state: at } = /** @type {CustomEvent} */ (event).detail;
    if (at === "writing" && rate) $("rate").textContent = rate.toFixed(1);
  });
  talk.addEventListener("answered", (event) => {
    const { end, error, started } = /** @type {CustomEvent} */ (event).detail;
    warn(started?.warnings ?? []);
    narrate(end ? `Answered with ${end.tokens_out} tokens.` : error);
  });
}

function state() {
  const { progress } = worker;
  $("state").textContent = worker.state;
  $("state").className = `pill ${worker.state}`;
  $("loading").hidden = worker.state !== "loading" && worker.state !== "restarting";
  const share = progress?.share ?? null;
  $("loading-text").textContent = sentence(progress && worker.state === "loading" ? `the model is being loaded: ${progress.stage}` : worker.reason);
  if (share === null) $("loading-bar").removeAttribute("value");
  else $("loading-bar").value = share;
  narrate(worker.state === "ready" ? `${worker.stats.model} is ready.` : sentence(worker.reason));
}

function stats() {
  const { stats: now } = worker;
  const time = performance.now();
  if (counted && now.tokens_out >= counted.tokens && talk.answer === null) {
    const rate = (now.tokens_out - counted.tokens) / ((time - counted.time) / 1000);
    $("rate").textContent = rate.toFixed(rate < 10 ? 1 : 0);
  }
  counted = { tokens: now.tokens_out, time };
  $("model").textContent = worker.info?.model_id ?? now.model;
  $("running").textContent = now.running;
  $("queue").textContent = now.queue_depth;
  cache(now.kv_usage);
  if (now.gpu) gpu(now);
}

/** @param {any} now */
function gpu(now) {
  const gb = (/** @type {number} */ bytes) => (bytes / 1e9).toFixed(1);
  const percent = (/** @type {number} */ share) => `${(share * 100).toFixed(0)} %`;
  $("gpu").hidden = false;
  $("gpu-text").textContent = `${gb(now.gpu.memory_used_bytes)} of ${gb(now.gpu.memory_total_bytes)} GB, `
    + `${percent(now.utilisation)} busy, ${percent(now.gpu.floor_share)} of the floor`;
}

/** @param {number} share */
function cache(share) {
  $("kv").value = share;
  $("kv-text").textContent = `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

function info() {
  const { info: found } = worker;
  $("model").textContent = found.model_id;
  $("model").title = [found.model_id, found.arch, found.dtype, found.backend].filter(Boolean).join(" · ");
  warn(found.notes ?? []);
  const other = MADE_FOR[found.purpose?.task];
  $("prompt").disabled = $("send").disabled = $("attach").disabled = Boolean(other);
  if (!other) return;
  $("empty").querySelector("p").textContent = other;
  $("ideas").hidden = true;
}

/** @param {any} event  a narration, or metrics */
function told(event) {
  if (event.type === "narration") narrate(event.human);
  else if (event.type === "metrics") cache(event.kv_usage);
}

/** What happens goes on top; the same words twice in a row only once. @param {string} words */
export function narrate(words) {
  const feed = $("feed");
  if (!words || feed.firstChild?.dataset.said === words) return;
  feed.prepend(el("li", { "data-said": words }, el("time", {}, new Date().toTimeString().slice(0, 8)), words));
  while (feed.children.length > FEED_MAX) feed.lastChild.remove();
}

/** What there is to know of the model, once each, however often answers repeat it. @param {string[]} words */
function warn(words) {
  for (const word of words) {
    if (warned.has(word)) continue;
    warned.add(word);
    narrate(`Note: ${word}`);
  }
}
