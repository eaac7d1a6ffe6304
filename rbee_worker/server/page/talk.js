/** The conversation that is shown, and what can be done with it. Views listen; they change nothing here. */

import { Answer } from "./answer.js";
import * as store from "./store.js";
import { Conversation } from "./tree.js";

/** @typedef {import("./types.js").Turn} Turn @typedef {import("./types.js").Attachment} Attachment @typedef {import("./types.js").Result} Result */

const SAVE_MS = 1000; // between two savings of an answer that grows

/**
 * Events: `path` (other turns are shown), `turn` (`detail`: the turn that is another), `busy` (an
 * answer begins or has ended), `answered` (`detail`: the turn), `kept` (the list of conversations is
 * another), `told` (`detail`: a narration or metrics), `trouble` (`detail`: a sentence).
 */
class Talk extends EventTarget {
  conversation = Conversation.fresh("");
  /** @type {Answer | null} */
  answer = null;
  /** What a request has beside the conversation. @type {() => Record<string, any>} */
  parameters = () => ({});
  /** The system message that a new conversation gets. @type {() => string} */
  system = () => "";
  #saved = 0;
  /** Conversations that are not to be kept again, whatever the end of their answer brings. @type {Set<string>} */
  #removed = new Set();

  /** Ask a question. @param {string} text @param {Attachment[]} files */
  async send(text, files = []) {
    if (this.answer) return;
    const parent = this.conversation.path().at(-1)?.id ?? null;
    this.#question(parent, text, files);
  }

  /** Hand the calls of an answer what they gave. @param {Turn} turn @param {Result[]} results */
  async give(turn, results) {
    if (this.answer) return;
    this.#question(turn.id, "", [], results);
  }

  /** Ask another question in the place of one: both are kept. @param {Turn} turn @param {string} text */
  async edit(turn, text) {
    await this.#free();
    this.#question(turn.parent, text, turn.files ?? []);
  }

  /** Another answer to the same question; the first is kept. @param {Turn} turn */
  async again(turn) {
    await this.#free();
    if (turn.state === "failed" && !turn.text) this.#make(turn, false); // there is nothing to keep
    else this.#make(this.conversation.add(turn.parent, { role: "assistant", text: "" }), false);
  }

  /** Go on with an answer that was cut. @param {Turn} turn */
  async goOn(turn) {
    await this.#free();
    this.#make(turn, true);
  }

  stop() {
    this.answer?.stop();
  }

  /** Show a sibling of `turn`. @param {Turn} turn @param {number} step */
  show(turn, step) {
    const { all, at } = this.conversation.siblings(turn);
    this.conversation.choose(all[at + step]);
    this.#save();
    this.#tell("path");
  }

  /** A new conversation; an answer that is being made is cancelled. */
  async fresh() {
    await this.#leave();
    this.conversation = Conversation.fresh(this.system());
    this.#tell("path");
  }

  /** Show a kept conversation. @param {string} id */
  async open(id) {
    if (id === this.conversation.id) return;
    const saved = await store.get(id);
    if (saved === undefined) return;
    await this.#leave();
    this.conversation = new Conversation(saved);
    store.set("open", id);
    this.#tell("path");
    for (const turn of this.conversation.turns.values()) {
      if (turn.state !== "waiting" && turn.state !== "writing") continue;
      if (turn.job && !this.answer) this.#run(turn, (answer) => answer.resume());
      else this.#cut(turn);
    }
  }

  /** Forget a conversation. @param {string} id */
  async remove(id) {
    this.#removed.add(id);
    if (id === this.conversation.id) await this.fresh();
    await store.remove(id);
    this.#tell("kept");
  }

  /** Forget all of them. */
  async clear() {
    this.#removed.add(this.conversation.id);
    await this.fresh();
    await store.clear();
    this.#tell("kept");
  }

  /** Give a conversation another title. @param {string} id @param {string} title */
  async rename(id, title) {
    const saved = id === this.conversation.id ? this.conversation.saved() : await store.get(id);
    if (!saved || !title) return;
    if (id === this.conversation.id) this.conversation.title = title;
    await store.put({ ...saved, title });
    this.#tell("kept");
  }

  /** The system message of this conversation. @param {string} text */
  setSystem(text) {
    this.conversation.system = text;
    if (this.conversation.turns.size > 0) this.#save();
  }

  /** @param {string | null} parent @param {string} text @param {Attachment[]} files @param {Result[]} [results] */
  #question(parent, text, files, results) {
    const question = this.conversation.add(parent, { role: "user", text, ...(files.length ? { files } : {}), ...(results ? { results } : {}) });
    this.#make(this.conversation.add(question.id, { role: "assistant", text: "" }), false);
  }

  /** @param {Turn} turn @param {boolean} goesOn */
  #make(turn, goesOn) {
    this.#run(turn, (answer) => answer.make(this.conversation, this.parameters, goesOn));
  }

  /** @param {Turn} turn @param {(answer: Answer) => Promise<void>} work */
  async #run(turn, work) {
    const { conversation } = this;
    const changed = () => {
      this.#tell("turn", turn);
      if (performance.now() - this.#saved > SAVE_MS) this.#keep(conversation);
    };
    const answer = new Answer(turn, changed, (event) => this.#tell("told", event));
    this.answer = answer;
    turn.state = "waiting"; // it is drawn so from the start, whatever comes before the next frame
    this.#tell("path");
    this.#tell("busy");
    this.#save(conversation);
    await work(answer);
    conversation.updated = Date.now();
    await this.#save(conversation);
    if (this.answer !== answer) return; // another conversation is shown
    this.answer = null;
    this.#tell("turn", turn);
    this.#tell("busy");
    this.#tell("answered", turn);
  }

  /** Whether nothing is being answered: one answer at a time. */
  async #free() {
    if (this.answer) await this.#leave();
  }

  async #leave() {
    const { answer } = this;
    if (answer === null) return;
    this.answer = null;
    answer.leave();
    this.#tell("busy");
  }

  /** @param {Turn} turn */
  #cut(turn) {
    Object.assign(turn, turn.text ? { state: "done" } : { state: "failed", error: "The page was closed before the answer came." });
    this.#save();
    this.#tell("turn", turn);
  }

  async #save(conversation = this.conversation) {
    await this.#keep(conversation);
    this.#tell("kept");
  }

  /** @param {Conversation} conversation */
  async #keep(conversation) {
    if (this.#removed.has(conversation.id)) return;
    this.#saved = performance.now();
    try {
      await store.put(conversation.saved());
      if (conversation === this.conversation) store.set("open", conversation.id);
    } catch (error) {
      this.#tell("trouble", `This conversation cannot be kept: ${/** @type {Error} */ (error).message}`);
    }
  }

  /** @param {string} name @param {any} [detail] */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

export const talk = new Talk();
