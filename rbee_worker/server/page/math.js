/** Formulas: found in markdown, drawn as MathML by Temml, which is loaded with the first of them. */

import { el } from "./dom.js";

const LONGEST = 4000; // characters of one formula
const SIZES = { maxExpand: 500, maxSize: [20, 20] };

/** @type {Promise<any> | null} */
let temml = null;

/**
 * The element of a formula: its source at first, the formula once Temml is there.
 *
 * @param {string} tex
 * @param {boolean} display  on a line of its own
 */
export function formula(tex, display) {
  const place = el(display ? "div" : "span", { class: display ? "math block" : "math" }, tex);
  if (display) for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", "formula"]]) place.setAttribute(name, value);
  if (tex.length <= LONGEST) draw(tex, display, place);
  return place;
}

/** @param {string} tex @param {boolean} display @param {HTMLElement} place */
async function draw(tex, display, place) {
  try {
    temml ??= import("./vendor/temml.js");
    const { default: library } = await temml;
    const drawn = document.createElement("span");
    library.render(tex, drawn, { displayMode: display, throwOnError: true, trust: false, strict: false, ...SIZES });
    place.replaceChildren(...drawn.childNodes);
  } catch {
    place.classList.add("source"); // no formula that Temml knows: the source stays
  }
}

// Dollars are money more often than they open a formula: within a line they stand next to its first
// and last character, and no digit follows.
const DOLLARS = /^\$(?![\s$])((?:\\[^\n]|[^\\$\n]){1,500}?)(?<!\s)\$(?![\d$])/;
const TWO_DOLLARS = /^\$\$([^$]{1,4000})\$\$/;
const ROUND = /^\\\(([\s\S]{1,4000}?)\\\)/;
const SQUARE = /^\\\[([\s\S]{1,4000}?)\\\]/;

/** Rules for `marked`, one for formulas within a line and one for those on lines of their own. */
export const mathRules = [
  {
    name: "blockMath",
    level: /** @type {"block"} */ ("block"),
    start: (/** @type {string} */ source) => found(source.search(/(?:^|\n) {0,3}(?:\$\$|\\\[)/)),
    tokenizer(/** @type {string} */ source) {
      const match = /^ {0,3}(?:\$\$([^$]{1,4000})\$\$|\\\[([\s\S]{1,4000}?)\\\])[ \t]*(?:\n|$)/.exec(source);
      return match ? { type: "blockMath", raw: match[0], text: (match[1] ?? match[2]).trim() } : undefined;
    },
  },
  {
    name: "inlineMath",
    level: /** @type {"inline"} */ ("inline"),
    start: (/** @type {string} */ source) => found(source.search(/\$|\\[([]/)),
    tokenizer(/** @type {string} */ source) {
      const wide = TWO_DOLLARS.exec(source) ?? SQUARE.exec(source);
      const match = wide ?? ROUND.exec(source) ?? DOLLARS.exec(source);
      return match ? { type: "inlineMath", raw: match[0], text: match[1].trim(), display: wide !== null } : undefined;
    },
  },
];

/** @param {number} at */
const found = (at) => (at < 0 ? undefined : at);
