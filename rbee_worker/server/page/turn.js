/** One turn on the page: a question, or an answer that may still grow. */

import { button, copy, el } from "./dom.js";
import { Rendering } from "./markdown.js";
import { preview } from "./pictures.js";
import { isCut, note, report } from "./report.js";
import { talk } from "./talk.js";
import { resultsForm } from "./tools.js";
import { worker } from "./worker.js";

/** @typedef {import("./types.js").Turn} Turn */

const INTERRUPTED = "The page lost this answer.";

/** Buttons to the turn's siblings, or null if it has none. @param {Turn} turn */
function siblings(turn) {
  const { all, at } = talk.conversation.siblings(turn);
  if (all.length < 2) return null;
  const what = turn.role === "user" ? "question" : "answer";
  return el("span", { class: "siblings", role: "group", "aria-label": `${what}s` },
    button("‹", () => talk.show(turn, -1), { disabled: at === 0, "aria-label": `previous ${what}` }),
    el("span", {}, `${at + 1}/${all.length}`),
    button("›", () => talk.show(turn, 1), { disabled: at === all.length - 1, "aria-label": `next ${what}` }));
}

/** A folded part. @param {string} key @param {string} title @param {string} text */
function folded(key, title, text) {
  return el("details", { class: "part", "data-part": key }, el("summary", {}, title), el("pre", { tabindex: 0 }, text));
}

/** A question; its `update` is called when its siblings are others. */
export class Question {
  /** @param {Turn} turn */
  constructor(turn) {
    this.turn = turn;
    this.tools = el("p", { class: "tools" });
    this.shown = el("div", { class: "text" }, turn.text);
    const files = (turn.files ?? []).map((file) => file.picture ? preview(file) : folded("file", `${file.name} (${file.text.length.toLocaleString("en")} characters)`, file.text));
    const results = (turn.results ?? []).map((one) => folded("result", `Result of ${one.name}`, one.text));
    this.body = el("div", { class: "bubble" }, ...files, ...results, turn.text ? this.shown : null);
    this.article = el("article", { class: "turn user" }, el("h2", { class: "visually-hidden" }, "You"), this.body, this.tools);
    this.update();
  }

  update() {
    const press = button("Copy", () => copy(this.turn.text, press), { "aria-label": "Copy question" });
    const edit = button("Edit", () => this.#edit(), { "aria-label": "Edit question" });
    this.tools.replaceChildren(...(this.turn.results ? [] : [press, edit]), siblings(this.turn) ?? "");
  }

  #edit() {
    const field = /** @type {HTMLTextAreaElement} */ (el("textarea", { rows: 4, "aria-label": "the question", class: "editing" }));
    field.value = this.turn.text;
    const end = () => { form.replaceWith(this.body); this.tools.hidden = false; };
    const send = () => {
      const text = field.value.trim();
      end();
      if (text && text !== this.turn.text) talk.edit(this.turn, text);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") end();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const form = el("div", { class: "edit" }, field, el("p", { class: "tools" }, button("Send", send, { class: "small strong" }), button("Cancel", end)));
    this.body.replaceWith(form);
    this.tools.hidden = true;
    field.focus();
  }
}

/** An answer. */
export class Reply {
  /** @param {Turn} turn */
  constructor(turn) {
    this.turn = turn;
    this.parts = el("div", { class: "parts" });
    this.shown = el("div", { class: "text markdown" });
    this.rendering = new Rendering(this.shown);
    this.card = el("div", { class: "card", hidden: true });
    this.results = el("div");
    this.note = el("p", { class: "note" });
    this.tools = el("p", { class: "tools" });
    this.report = el("div");
    this.article = el("article", { class: "turn answer" }, el("h2", { class: "visually-hidden" }, "Assistant"),
      this.parts, this.shown, this.results, this.card, this.note, this.tools, this.report);
    this.update();
  }

  /** Show the turn as it is now. */
  update() {
    const { turn } = this;
    const live = turn.state === "waiting" || turn.state === "writing";
    this.article.classList.toggle("busy", live);
    this.article.classList.toggle("failed", turn.state === "failed");
    this.article.setAttribute("aria-busy", String(live));
    this.#parts();
    this.rendering.show(turn.text, !live);
    this.shown.hidden = turn.text === "" && !live;
    this.#results(live);
    this.note.textContent = turn.state === "waiting" ? this.#waiting() : note(turn);
    this.#card();
    if (live) {
      if (this.tools.childNodes.length) this.tools.replaceChildren();
      this.report.replaceChildren();
    } else this.#ended();
  }

  #waiting() {
    if (worker.state === "ready" || worker.state === "connecting") return this.turn.jobId ? "" : "sending";
    const { progress } = worker;
    const done = progress?.share != null ? ` · ${progress.stage} ${Math.round(100 * progress.share)} %` : "";
    return `waiting: ${worker.reason}${done}`;
  }

  #parts() {
    const { turn } = this;
    const wanted = [];
    if (turn.prompt) wanted.push(["prompt", "The prompt, as the model got it", turn.prompt]);
    if (turn.reasoning) wanted.push(["reasoning", "Reasoning", turn.reasoning]);
    (turn.calls ?? []).forEach((call, at) => wanted.push([`call-${at}`, `Calls ${call.name}`, call.arguments]));
    for (const [key, title, text] of wanted) {
      const old = this.parts.querySelector(`[data-part="${key}"]`);
      if (old === null) this.parts.append(folded(key, title, text));
      else {
        /** @type {any} */ (old.firstChild).textContent = title;
        /** @type {any} */ (old.lastChild).textContent = text;
      }
    }
    if (wanted.length === 0) this.parts.replaceChildren();
  }

  /** Where results of calls are written, while nothing follows the answer. @param {boolean} live */
  #results(live) {
    const open = !live && Boolean(this.turn.calls?.length) && talk.conversation.children(this.turn.id).length === 0;
    if (open === this.results.hasChildNodes()) return;
    this.results.replaceChildren(...(open ? [resultsForm(this.turn)] : []));
  }

  #card() {
    const { turn } = this;
    this.card.hidden = turn.state !== "failed";
    if (this.card.hidden || this.card.dataset.said === turn.error) return;
    this.card.dataset.said = turn.error ?? "";
    this.card.replaceChildren(el("p", { role: "alert" }, turn.error || INTERRUPTED),
      button("Try again", () => talk.again(turn), { class: "small strong" }));
  }

  #ended() {
    const { turn } = this;
    const press = button("Copy", () => copy(turn.text, press), { "aria-label": "Copy answer" });
    const buttons = [];
    if (turn.text) buttons.push(press);
    if (turn.state !== "failed" || turn.text) buttons.push(button("Regenerate", () => talk.again(turn), { "aria-label": "Regenerate answer" }));
    if (isCut(turn)) buttons.push(button("Continue", () => talk.goOn(turn), { "aria-label": "Continue answer" }));
    const others = siblings(turn);
    if (others) buttons.push(others);
    this.tools.replaceChildren(...buttons);
    if (this.report.childNodes.length === 0) this.report.replaceChildren(report(turn) ?? "");
  }
}
