/** The form of every parameter that the worker's `/info` names, in its groups, with the default that holds. */

import { $, el } from "./dom.js";
import * as store from "./store.js";
import { worker } from "./worker.js";

/** @typedef {{name: string, kind: string, range: string, default: any, chat_default?: any, meaning: string, group: string, role: string, surfaces: string[]}} Parameter */

const JSON_OF = new Set(["json_schema", "choice"]);
const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh"];
const FORMATS = ["auto", "none"];
const CHAT = "worker default (chat)"; // the origin of what holds for conversations
const OPEN = "Sampling"; // the group that is unfolded at first

/** What the form has, as text by name; kept from visit to visit. @type {Record<string, string>} */
let given = {};

/** Build the form when the worker has described itself. */
export async function startParameters() {
  given = (await store.setting("parameters")) ?? {};
  worker.addEventListener("info", build);
  if (worker.info) build();
  $("parameters").addEventListener("input", () => {
    given = {};
    for (const [name, value] of new FormData($("parameters"))) if (value !== "") given[name] = String(value);
    store.set("parameters", given);
    mark();
  });
  $("defaults").addEventListener("click", () => {
    given = {};
    store.set("parameters", given);
    build();
  });
}

function build() {
  /** @type {Parameter[]} */
  const all = worker.info.parameters.filter((/** @type {Parameter} */ p) => p.group && p.surfaces.includes("job"));
  const open = new Set([...$("parameters").querySelectorAll("details[open]")].map((d) => d.dataset.group));
  const groups = new Map(all.map((p) => [p.group, all.filter((other) => other.group === p.group)]));
  $("parameters").replaceChildren(...[...groups].sort(([a], [b]) => Number(b === OPEN) - Number(a === OPEN)).map(([name, rows]) =>
    el("details", { class: "group", "data-group": name, open: open.has(name) || (open.size === 0 && name === OPEN) },
      el("summary", {}, name, el("span", { class: "count" })), ...rows.map(row))));
  mark();
}

/** @param {Parameter} p */
function row(p) {
  const { value, origin } = worker.info.defaults?.chat?.[p.name] ?? { value: p.chat_default ?? p.default, origin: "default" };
  const about = `about-${p.name}`;
  const field = input(p, `set-${p.name}`, about);
  field.value = given[p.name] ?? "";
  const shown = p.name === "max_tokens" && origin === CHAT ? p.chat_default : text(value);
  return el("div", { class: "parameter" },
    el("label", { for: `set-${p.name}` }, p.name),
    field,
    el("p", { class: "default" }, `${shown || "none"} · ${origin}`),
    el("p", { class: "about", id: about }, p.meaning + (p.range ? ` · ${p.range}` : "")));
}

/** @param {Parameter} p @param {string} id @param {string} about @returns {any} */
function input(p, id, about) {
  const common = { name: p.name, id, "aria-describedby": about };
  const choice = (/** @type {string[]} */ words) => el("select", common, el("option", { value: "" }, "default"), ...words.map((w) => el("option", { value: w }, w)));
  if (p.kind === "boolean") return choice(["true", "false"]);
  if (p.name === "reasoning_effort") return choice(EFFORTS);
  if (p.name === "reasoning_format") return choice(FORMATS);
  if (p.kind === "integer" || p.kind === "number") return el("input", { ...common, type: "number", step: p.kind === "integer" ? 1 : "any", placeholder: "default" });
  if (p.kind === "ids") return el("input", { ...common, placeholder: "2, 13" });
  const examples = { strings: "one a line", biases: "id=bias, one a line" };
  return el("textarea", { ...common, rows: 2, placeholder: examples[/** @type {keyof examples} */ (p.kind)] ?? "none" });
}

/** How many parameters of each group are set. */
function mark() {
  for (const group of $("parameters").querySelectorAll("details.group")) {
    const n = [...group.querySelectorAll("[name]")].filter((/** @type {any} */ field) => field.value !== "").length;
    group.querySelector(".count").textContent = n ? ` ${n} set` : "";
  }
  for (const field of $("parameters").querySelectorAll("[name]")) field.closest(".parameter").classList.toggle("set", field.value !== "");
  $("defaults").hidden = Object.keys(given).length === 0;
}

/** @param {any} value */
function text(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? (Object.keys(value).length ? JSON.stringify(value) : "") : String(value);
}

/** The parameters of the next request: those that are set. Raises what a person can read. */
export function parameters() {
  /** @type {Record<string, any>} */
  const found = {};
  for (const p of worker.info?.parameters ?? []) {
    if (p.group && p.surfaces.includes("job") && given[p.name]) found[p.name] = parsed(p, given[p.name].trim());
  }
  return found;
}

/** @param {Parameter} p @param {string} value @returns {any} */
function parsed(p, value) {
  switch (p.kind) {
    // A large integer (a seed has 64 bits) is more than a number of JavaScript's can hold.
    case "integer": case "number": return exact(p.name, value);
    case "boolean": return value === "true";
    case "strings": return value.split("\n").filter(Boolean).map((line) => line.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
    case "ids": return value.split(/[\s,]+/).map((id) => exact(p.name, id));
    case "biases": return Object.fromEntries(value.split("\n").filter(Boolean).map((line) => {
      const [id, bias] = line.split("=");
      return [id.trim(), exact(p.name, bias ?? "")];
    }));
    default:
      if (!JSON_OF.has(p.name)) return value;
      if (p.name === "choice" && value[0] !== "[") return value.split("\n").filter(Boolean);
      try {
        return JSON.parse(value);
      } catch {
        throw new Error(`${p.name} is no JSON.`);
      }
  }
}

/** @param {string} name @param {string} value */
function exact(name, value) {
  const number = Number(value);
  if (value.trim() === "" || Number.isNaN(number)) throw new Error(`${name}: "${value}" is no number.`);
  if (Number.isInteger(number) && !Number.isSafeInteger(number)) throw new Error(`${name}: the page sends whole numbers up to ${Number.MAX_SAFE_INTEGER}.`);
  return number;
}
