/** Tools that the model may call: the field that describes them, and the form that takes what they gave. */

import { $, button, el } from "./dom.js";
import * as store from "./store.js";
import { talk } from "./talk.js";
import { worker } from "./worker.js";

/** @typedef {import("./types.js").Turn} Turn */

/** Show the field where the model can call tools, and keep what is written in it. */
export async function startTools() {
  $("tools").value = (await store.setting("tools")) ?? "";
  $("tools").addEventListener("input", () => store.set("tools", $("tools").value));
  const shown = () => { $("tools-section").hidden = !worker.info?.tool_format; };
  worker.addEventListener("info", shown);
  shown();
}

/** The tools of the next request. Raises what a person can read. @returns {{tools?: object[]}} */
export function tools() {
  const text = $("tools").value.trim();
  if (!text || !worker.info?.tool_format) return {};
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("The tools are no JSON.");
  }
  const all = Array.isArray(found) ? found : [found];
  return all.length ? { tools: all.map((one) => (one?.type === "function" ? one : { type: "function", function: one })) } : {};
}

/** A field for the result of each call of an answer; sending them asks the model to go on. @param {Turn} turn */
export function resultsForm(turn) {
  const fields = (turn.calls ?? []).map((call) => ({ call, field: el("textarea", { rows: 2, "aria-label": `result of ${call.name}`, placeholder: `result of ${call.name}` }) }));
  const send = () => talk.give(turn, fields.map(({ call, field }) => ({
    id: call.id, name: call.name, text: /** @type {HTMLTextAreaElement} */ (field).value,
  })));
  return el("div", { class: "results" }, ...fields.map(({ field }) => field), button("Send results", send, { class: "small strong" }));
}
