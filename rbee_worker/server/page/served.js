/** Which of the worker's models answers: the base model, or it with an adapter. */

import { $, el } from "./dom.js";
import * as store from "./store.js";
import { ask } from "./stream.js";
import { worker } from "./worker.js";

/** Offer the adapters that the worker has loaded, if there are any. */
export async function startServed() {
  let kept = (await store.setting("served")) ?? "";
  const look = async () => {
    /** @type {{name: string}[]} */
    let found;
    try {
      found = (await (await ask("GET", "/v1/adapters")).json()).data;
    } catch {
      return; // the base model answers
    }
    const names = found.map(({ name }) => name);
    const option = (/** @type {string} */ name) => el("option", { value: name }, name);
    $("served").replaceChildren(el("option", { value: "" }, "none"), ...names.map(option));
    $("served").value = names.includes(kept) ? kept : "";
    $("served-field").hidden = names.length === 0;
  };
  $("served").addEventListener("focus", look); // adapters come and go while the page is open
  $("served").addEventListener("change", () => {
    kept = $("served").value;
    store.set("served", kept);
  });
  worker.addEventListener("info", look);
  if (worker.info) look();
}

/** The name of the adapter that answers the next request. @returns {{model?: string}} */
export const served = () => ($("served").value ? { model: $("served").value } : {});
