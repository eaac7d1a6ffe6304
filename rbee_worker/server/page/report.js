/** How an answer came about: why it stopped, what it took, and every parameter with its origin. */

import { decodeRate } from "./answer.js";
import { el } from "./dom.js";

/** @typedef {import("./types.js").Turn} Turn */

/** @type {Record<string, (stop: any) => string>} */
const WHY = {
  EOS: (stop) => `end token ${stop.token_text ?? stop.token_id ?? ""}`.trim(),
  STOP_SEQUENCE: (stop) => `stop ${JSON.stringify(stop.sequence ?? stop.token_text)}`,
  MAX_TOKENS: () => "max tokens reached",
  CONTEXT_FULL: () => "context full",
  COMPLETE: () => "complete",
  CANCELLED: () => "stopped",
  TIMEOUT: () => "out of time",
};
const CUT = new Set(["MAX_TOKENS", "CANCELLED", "TIMEOUT", "STOP_SEQUENCE"]);

/** Why the answer ended, in words. @param {any} end */
export const why = (end) => WHY[end.stop_reason]?.(end.stop) ?? end.stop_reason;

/** Whether an answer could go on. @param {Turn} turn */
export function isCut(turn) {
  if (!turn.text) return false;
  if (turn.state === "failed") return true;
  return turn.state === "done" && (!turn.end || CUT.has(/** @type {any} */ (turn.end).stop_reason));
}

/** The line under an answer. @param {Turn} turn */
export function note(turn) {
  const end = /** @type {any} */ (turn.end);
  if (end) {
    const rate = decodeRate(end);
    return `${end.tokens_out} tokens${rate ? ` · ${rate.toFixed(1)} tok/s` : ""} · ${why(end)}`;
  }
  if (turn.state === "writing") return `${turn.tokens} tokens${turn.rate ? ` · ${turn.rate.toFixed(1)} tok/s` : ""}`;
  return "";
}

/** The folded report of a finished answer, or null. @param {Turn} turn */
export function report(turn) {
  const { started, end, logprobs } = /** @type {any} */ (turn);
  if (!started || !end) return null;
  const stop = Object.entries(end.stop).filter(([, value]) => value !== null);
  const times = [["prompt", `${end.prompt_tokens} tokens, ${end.cached_tokens} cached`]];
  if (end.reasoning_tokens) times.push(["reasoning", `${end.reasoning_tokens} tokens`]);
  if (end.drafted_tokens) times.push(["drafted", `${end.drafted_tokens} tokens, ${end.accepted_tokens} drawn`]);
  for (const phase of ["queue", "prefill", "decode"]) times.push([phase, `${end[`${phase}_time_ms`].toFixed(1)} ms`]);
  const sampling = Object.entries(started.sampling).map(([name, /** @type {any} */ { value, origin }]) => [name, value, origin]);
  const parts = [
    el("h3", {}, "Stop record"), table("stop", stop),
    el("h3", {}, "Times"), table("times", times),
    el("h3", {}, "Resolved parameters"), table("sampling", sampling, ["name", "value", "from"]),
  ];
  if (logprobs?.length) parts.push(el("h3", {}, "Log-probabilities"), table("logprobs", logprobs.map(scored), ["token", "log p", "likeliest"]));
  return el("details", { class: "report" }, el("summary", {}, "How it was made"), ...parts);
}

/** @param {any} entry */
const scored = (entry) => [entry.token, entry.logprob.toFixed(3), entry.top.map((/** @type {any} */ t) => `${JSON.stringify(t.token)} ${t.logprob.toFixed(2)}`).join(", ")];

/** @param {string} name @param {any[][]} rows @param {string[]} [head] */
function table(name, rows, head) {
  const cells = (/** @type {any[]} */ row) => row.map((cell) => el("td", {}, typeof cell === "string" ? cell : JSON.stringify(cell)));
  const asked = (/** @type {any[]} */ row) => (row[2] === "request" ? "asked" : null);
  const body = rows.map((row) => el("tr", { class: asked(row) }, ...cells(row)));
  const top = head ? el("thead", {}, el("tr", {}, ...head.map((word) => el("th", { scope: "col" }, word)))) : null;
  return el("div", { class: "table", tabindex: 0, role: "group", "aria-label": name }, el("table", { class: name }, top, el("tbody", {}, ...body)));
}
