/** A conversation: a tree of turns, of which one path is shown. Data only. */

import { newId } from "./dom.js";

/** @typedef {import("./types.js").Turn} Turn @typedef {import("./types.js").Saved} Saved */

const TITLE = 60; // characters

export class Conversation {
  /** @param {Saved} saved */
  constructor(saved) {
    this.id = saved.id;
    this.title = saved.title;
    this.created = saved.created;
    this.updated = saved.updated;
    this.system = saved.system;
    /** @type {Map<string, Turn>} */
    this.turns = new Map(saved.turns.map((turn) => [turn.id, turn]));
    /** @type {Record<string, string>} */
    this.chosen = { ...saved.chosen };
  }

  /** An empty one. @param {string} system */
  static fresh(system) {
    const now = Date.now();
    return new Conversation({ id: newId(), title: "", created: now, updated: now, system, turns: [], chosen: {} });
  }

  /** @returns {Saved} */
  saved() {
    const { id, title, created, updated, system, chosen } = this;
    const turns = [...this.turns.values()].map(({ rate, ...kept }) => kept);
    return { id, title, created, updated, system, turns, chosen };
  }

  /** The turns that follow `parent`, oldest first. @param {string | null} parent */
  children(parent) {
    return [...this.turns.values()].filter((turn) => turn.parent === parent);
  }

  /** The turns that are shown, from the first. @returns {Turn[]} */
  path() {
    const shown = [];
    let parent = /** @type {string | null} */ (null);
    while (true) {
      const all = this.children(parent);
      const next = all.find((turn) => turn.id === this.chosen[parent ?? ""]) ?? all.at(-1);
      if (next === undefined) return shown;
      shown.push(next);
      parent = next.id;
    }
  }

  /** The turns before `turn`, from the first. @param {Turn} turn */
  before(turn) {
    const found = [];
    let id = turn.parent;
    while (id !== null) {
      const one = /** @type {Turn} */ (this.turns.get(id));
      found.unshift(one);
      id = one.parent;
    }
    return found;
  }

  /**
   * Add a turn after `parent`, and show it.
   *
   * @param {string | null} parent
   * @param {Omit<Turn, "id" | "parent">} what
   * @returns {Turn}
   */
  add(parent, what) {
    const turn = { id: newId(), parent, ...what };
    this.turns.set(turn.id, turn);
    this.choose(turn);
    if (!this.title && turn.role === "user") this.title = titled(turn.text || turn.files?.[0]?.name || "");
    this.updated = Date.now();
    return turn;
  }

  /** Show `turn` in the place of its siblings. @param {Turn} turn */
  choose(turn) {
    this.chosen[turn.parent ?? ""] = turn.id;
  }

  /** `turn` and its siblings, and its place among them. @param {Turn} turn */
  siblings(turn) {
    const all = this.children(turn.parent);
    return { all, at: all.indexOf(turn) };
  }

  /** Whether `words` (lower case) stand in the title or in a turn. @param {string} words */
  has(words) {
    return [this.title, ...[...this.turns.values()].map((turn) => turn.text)].some((t) => t.toLowerCase().includes(words));
  }
}

/** The first words of a text. @param {string} text */
export function titled(text) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > TITLE ? `${line.slice(0, TITLE - 1)}…` : line;
}
