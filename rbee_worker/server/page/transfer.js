/** Conversations as files: written, and read again. What is read is checked, because anybody may have made it. */

import { newId } from "./dom.js";
import { checkedUrl } from "./pictures.js";
import { fenced } from "./request.js";
import { titled } from "./tree.js";

/** @typedef {import("./types.js").Saved} Saved @typedef {import("./types.js").Turn} Turn */

const FORMAT = "rbee-conversations";

/** @param {Saved[]} conversations */
export function written(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** What is shown of a conversation, with what tools were called for and gave. @param {import("./tree.js").Conversation} conversation */
export function asMarkdown(conversation) {
  const said = conversation.path().map((turn) => {
    const calls = (turn.calls ?? []).map((call) => `Calls ${call.name}:\n\n${fenced(call.arguments)}`);
    const results = (turn.results ?? []).map((one) => `Result of ${one.name}:\n\n${fenced(one.text)}`);
    const shown = (turn.files ?? []).filter((file) => file.picture).map((file) => `*Picture: ${file.name}*`);
    const parts = [...shown, turn.text, ...calls, ...results].filter(Boolean).join("\n\n");
    return `## ${turn.role === "user" ? "You" : "Assistant"}\n\n${parts}\n`;
  });
  const system = conversation.system ? [`> ${conversation.system.replaceAll("\n", "\n> ")}\n`] : [];
  return [`# ${conversation.title}\n`, ...system, ...said].join("\n");
}

/**
 * The conversations of a file: one of ours, what `/save` of `rbee-worker chat` writes, or a list of
 * messages. They get new ids, so none is overwritten. Raises an error that a person can read.
 *
 * @param {string} text
 * @returns {Saved[]}
 */
export function read(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("This file is no JSON.");
  }
  if (found?.format === FORMAT && Array.isArray(found.conversations)) return found.conversations.map(checked);
  const messages = Array.isArray(found) ? found : found?.messages;
  if (!Array.isArray(messages)) throw new Error("This file has no conversations.");
  return [ofMessages(messages)];
}

/** @param {any[]} messages @returns {Saved} */
function ofMessages(messages) {
  const saved = empty();
  let parent = /** @type {string | null} */ (null);
  for (const message of messages) {
    const { text, files } = said(message);
    if (message.role === "system") saved.system = text;
    else {
      const turn = turned({ ...message, text, files }, newId(), parent);
      saved.turns.push(turn);
      parent = turn.id;
    }
  }
  saved.title = titled(saved.turns[0]?.text ?? "");
  return saved;
}

/** The text of a message and its pictures, which `/save` writes as parts. @param {any} message */
function said(message) {
  if (!Array.isArray(message?.content)) return { text: string(message?.content, "A message has no text"), files: undefined };
  const texts = message.content.filter((/** @type {any} */ part) => part?.type === "text");
  const shown = message.content.filter((/** @type {any} */ part) => part?.type === "image_url");
  return {
    text: texts.map((/** @type {any} */ part) => string(part.text, "A part has no text")).join("\n"),
    files: shown.map((/** @type {any} */ part, /** @type {number} */ at) => ({ name: `picture ${at + 1}`, text: "", picture: part.image_url?.url })),
  };
}

/** @param {any} given @returns {Saved} */
function checked(given) {
  const saved = { ...empty(), title: titled(string(given?.title, "A conversation has no title")) };
  saved.system = string(given.system, "A conversation has no system message");
  if (Number.isFinite(given.created)) saved.created = given.created;
  if (!Array.isArray(given.turns)) throw new Error("A conversation has no turns.");
  /** @type {Map<any, string>} */
  const ids = new Map();
  for (const turn of given.turns) {
    const parent = turn?.parent == null ? null : ids.get(turn.parent);
    if (parent === undefined) throw new Error("A turn follows none that stands before it.");
    const id = newId();
    ids.set(turn.id, id);
    saved.turns.push(turned(turn, id, parent));
  }
  for (const [parent, child] of Object.entries(given.chosen ?? {})) {
    const [from, to] = [parent === "" ? "" : ids.get(parent), ids.get(child)];
    if (from !== undefined && to !== undefined) saved.chosen[from] = to;
  }
  return saved;
}

/** @param {any} given @param {string} id @param {string | null} parent @returns {Turn} */
function turned(given, id, parent) {
  if (given.role !== "user" && given.role !== "assistant") throw new Error(`A turn has the role ${given.role}.`);
  /** @type {Turn} */
  const turn = { id, parent, role: given.role, text: string(given.text, "A turn has no text") };
  if (Array.isArray(given.files)) {
    turn.files = given.files.map((/** @type {any} */ file) => ({
      name: string(file?.name, "A file has no name"), text: string(file?.text, "A file has no text"),
      ...(file.picture === undefined ? {} : { picture: checkedUrl(file.picture) }),
    }));
  }
  if (Array.isArray(given.results)) {
    turn.results = given.results.map((/** @type {any} */ one) => ({
      id: String(one?.id ?? ""), name: String(one?.name ?? ""), text: string(one?.text, "A result has no text"),
    }));
  }
  if (turn.role === "assistant") {
    turn.state = "done";
    if (typeof given.reasoning === "string") turn.reasoning = given.reasoning;
    if (Array.isArray(given.calls)) {
      turn.calls = given.calls.map((/** @type {any} */ call) => ({
        id: String(call?.id ?? ""), name: String(call?.name ?? ""), arguments: String(call?.arguments ?? ""),
      }));
    }
  }
  return turn;
}

/** @returns {Saved} */
function empty() {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system: "", turns: [], chosen: {} };
}

/** @param {any} value @param {string} otherwise @returns {string} */
function string(value, otherwise) {
  if (typeof value !== "string") throw new Error(`${otherwise}.`);
  return value;
}
