/** The turns that are shown, in order; follows the end while the reader is there. */

import { $ } from "./dom.js";
import { talk } from "./talk.js";
import { Question, Reply } from "./turn.js";
import { worker } from "./worker.js";

/** @typedef {import("./types.js").Turn} Turn */

const NEAR = 120; // pixels from the end that count as being there
const SPOKEN = 1000; // characters of an answer that are read aloud

/** @type {Map<string, Question | Reply>} */
let views = new Map();
/** @type {Set<string>} */
const stale = new Set();
let drawing = false;
/** Whether the reader is at the end, and the height of the log when that was looked at. */
let follows = true;
let height = 0;

/** Start following the conversation. */
export function startLog() {
  talk.addEventListener("path", path);
  talk.addEventListener("turn", (event) => changed(/** @type {CustomEvent<Turn>} */ (event).detail));
  talk.addEventListener("answered", (event) => announce(/** @type {CustomEvent<Turn>} */ (event).detail));
  worker.addEventListener("state", () => { if (talk.answer) changed(talk.answer.turn); });
  $("to-end").addEventListener("click", toEnd);
  $("log").addEventListener("scroll", () => {
    if ($("log").clientHeight !== height) return; // the window has another size: the observer below has a say first
    follows = atEnd();
    $("to-end").hidden = follows;
  });
  // A phone's keyboard, a turned phone, a longer question: who was at the end stays there.
  new ResizeObserver(() => {
    height = $("log").clientHeight;
    if (follows) toEnd();
  }).observe($("log"));
}

/** Show the conversation's path: turns that were shown before keep their elements. */
function path() {
  const kept = views;
  views = new Map();
  for (const turn of talk.conversation.path()) {
    const view = kept.get(turn.id) ?? (turn.role === "user" ? new Question(turn) : new Reply(turn));
    if (view.turn !== turn) views.set(turn.id, turn.role === "user" ? new Question(turn) : new Reply(turn));
    else {
      view.update();
      views.set(turn.id, view);
    }
  }
  $("turns").replaceChildren(...[...views.values()].map((view) => view.article));
  $("empty").hidden = views.size > 0;
  toEnd();
}

/** A turn is another: it is drawn once a frame at most. @param {Turn} turn */
function changed(turn) {
  stale.add(turn.id);
  if (drawing) return;
  drawing = true;
  const later = document.hidden ? (/** @type {() => void} */ f) => setTimeout(f, 200) : requestAnimationFrame;
  later(() => {
    drawing = false;
    for (const id of stale) views.get(id)?.update();
    stale.clear();
    if (follows) toEnd();
    else $("to-end").hidden = atEnd();
  });
}

function atEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
  follows = true;
  $("to-end").hidden = true;
}

/** Read a finished answer aloud, once, where a screen reader listens. @param {Turn} turn */
function announce(turn) {
  const text = turn.text.length > SPOKEN ? `${turn.text.slice(0, SPOKEN)} …` : turn.text;
  $("announcer").textContent = turn.state === "failed" ? `No answer: ${turn.error}` : `Assistant: ${text || "an empty answer"}`;
}
