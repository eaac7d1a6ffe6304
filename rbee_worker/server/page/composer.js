/** Where questions are written: Enter sends, Up recalls, and the meter says how full the context is. */

import { startAttachments, taken } from "./attachments.js";
import { $ } from "./dom.js";
import { talk } from "./talk.js";
import { worker } from "./worker.js";

/** How many questions Up has gone back. */
let back = 0;

/** Listen to the composer's parts. */
export function startComposer() {
  startAttachments();
  $("ask").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    send();
  });
  $("prompt").addEventListener("input", () => { back = 0; grow(); });
  $("prompt").addEventListener("keydown", key);
  $("stop").addEventListener("click", () => talk.stop());
  for (const idea of document.querySelectorAll(".idea")) {
    idea.addEventListener("click", () => { write(idea.textContent ?? ""); send(); });
  }
  talk.addEventListener("busy", busy);
  for (const name of ["turn", "path"]) talk.addEventListener(name, meter);
  worker.addEventListener("info", meter);
}

function send() {
  const text = $("prompt").value.trim();
  if (talk.answer || $("send").disabled) return;
  const files = taken();
  if (!text && files.length === 0) return;
  write("");
  talk.send(text, files);
}

/** @param {string} text */
function write(text) {
  $("prompt").value = text;
  back = 0;
  grow();
}

/** @param {KeyboardEvent} event */
function key(event) {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("ask").requestSubmit();
  } else if (event.key === "ArrowUp" || event.key === "ArrowDown") recall(event);
}

/** Up in an empty field writes the last question, Up again the one before. @param {KeyboardEvent} event */
function recall(event) {
  const asked = talk.conversation.path().filter((turn) => turn.role === "user").map((turn) => turn.text);
  const step = event.key === "ArrowUp" ? 1 : -1;
  if (($("prompt").value !== "" && back === 0) || back + step < 0 || back + step > asked.length) return;
  event.preventDefault();
  const next = back + step;
  write(next === 0 ? "" : asked[asked.length - next]);
  back = next;
}

function grow() {
  const box = $("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function busy() {
  const yes = talk.answer !== null;
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  if (!yes && matchMedia("(hover: hover)").matches && !document.querySelector("dialog[open]")) $("prompt").focus();
}

/** How much of the context the conversation takes, as its last answer counted it. */
function meter() {
  const context = worker.info?.context;
  const last = /** @type {any} */ (talk.conversation.path().filter((turn) => turn.started).at(-1));
  const used = last ? last.started.prompt_tokens + (last.tokens ?? 0) : 0;
  $("context").hidden = !context;
  if (!context) return;
  $("context-meter").max = context;
  $("context-meter").value = used;
  $("context-meter").high = context * 0.9;
  $("context-text").textContent = `${used.toLocaleString("en")} of ${context.toLocaleString("en")} tokens of context`;
}
