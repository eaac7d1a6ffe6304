/** The system message, and texts for it that can be chosen: a few of the page's, and one's own. */

import { $, el } from "./dom.js";
import * as store from "./store.js";
import { talk } from "./talk.js";

/** @type {Record<string, string>} */
const OURS = {
  "Short answers": "Answer briefly and to the point. Use a list only where it helps.",
  "Teacher": "You are a patient teacher. Explain step by step, with an example, and end with one question that checks understanding.",
  "Programmer": "You are an experienced programmer. Give working code first, then a short explanation. Say what you are not sure of.",
  "Translator": "Translate what the user writes into English; translate English into the language that the user names. Answer with the translation only.",
};

/** One's own, by name. @type {Record<string, string>} */
let own = {};

/** Show the presets and the system message of the conversation. */
export async function startPresets() {
  own = (await store.setting("presets")) ?? {};
  const first = (await store.setting("system")) ?? "";
  $("system").value = first;
  talk.setSystem(first);
  talk.system = () => $("system").value.trim();
  list();
  talk.addEventListener("path", () => { if (document.activeElement !== $("system")) $("system").value = talk.conversation.system; });
  $("system").addEventListener("input", changed);
  $("preset").addEventListener("change", () => {
    const name = $("preset").value;
    if (name) $("system").value = own[name] ?? OURS[name];
    $("preset-remove").hidden = !(name in own);
    changed();
  });
  $("preset-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const name = $("preset-name").value.trim();
    if (!name || !$("system").value.trim()) return;
    own[name] = $("system").value.trim();
    store.set("presets", own);
    $("preset-name").value = "";
    list(name);
  });
  $("preset-remove").addEventListener("click", () => {
    delete own[$("preset").value];
    store.set("presets", own);
    list();
  });
}

function changed() {
  const text = $("system").value.trim();
  talk.setSystem(text);
  store.set("system", text);
}

/** @param {string} [chosen] */
function list(chosen = "") {
  const options = (/** @type {Record<string, string>} */ texts) => Object.keys(texts).map((name) => el("option", { value: name, selected: name === chosen }, name));
  $("preset").replaceChildren(el("option", { value: "" }, "choose"), ...options(OURS),
    ...(Object.keys(own).length ? [el("optgroup", { label: "Your own" }, ...options(own))] : []));
  $("preset-remove").hidden = !(chosen in own);
}
