/** From a conversation to the body of a job. */

import { withPictures } from "./pictures.js";

/** @typedef {import("./types.js").Turn} Turn */

/**
 * The body of the job that answers the turns `before`. continued: the answer so far, which the job
 * continues. Without a chat template the model continues the last question's own text.
 *
 * @param {Turn[]} before  ends with a question
 * @param {string} system
 * @param {Record<string, any>} parameters
 * @param {boolean} chats  the model has a chat template
 * @param {Turn | null} continued
 */
export function body(before, system, parameters, chats, continued) {
  if (!chats) {
    const last = before.at(-1);
    return { prompt: (last ? content(last) : "") + (continued?.text ?? ""), ...parameters };
  }
  /** @type {object[]} */
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of before) messages.push(...messagesOf(turn));
  if (!continued) return { messages, chat_defaults: true, ...parameters };
  const open = { role: "assistant", content: continued.text };
  const thought = continued.reasoning ? { reasoning_content: continued.reasoning } : {};
  messages.push({ ...open, ...thought });
  return { messages, continue_final_message: true, chat_defaults: true, ...parameters };
}

/** What the model gets of a turn: calls that it made, and what they gave. @param {Turn} turn @returns {object[]} */
function messagesOf(turn) {
  if (turn.results) return turn.results.map(({ id, text }) => ({ role: "tool", tool_call_id: id, content: text }));
  const message = { role: turn.role, content: withPictures(turn, content(turn)) };
  if (!turn.calls?.length) return [message];
  const calls = turn.calls.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
  return [{ ...message, tool_calls: calls }];
}

/** A turn's text as the model gets it: files first, each in a fence of its own. @param {Turn} turn */
export function content(turn) {
  const files = (turn.files ?? []).filter((file) => !file.picture).map(({ name, text }) => `File: ${name}\n${fenced(text)}\n`);
  return [...files, turn.text].filter(Boolean).join("\n");
}

/** A text in a fence that it cannot end. @param {string} text */
export function fenced(text) {
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map((m) => m[0].length + 1)));
  return `${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}
