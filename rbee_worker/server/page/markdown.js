/**
 * Markdown as nodes. `marked` only takes the text apart; every node is built here, and text is set as
 * text. So there is no markup in an answer that the browser could read: HTML in it is shown as it is
 * written, pictures are links (a picture would tell another site that it was looked at), and a link
 * leads to http, https or mailto only.
 */

import { codeBlock } from "./code.js";
import { el } from "./dom.js";
import { formula, mathRules } from "./math.js";
import { Marked } from "./vendor/marked.js";

const LONGEST = 400_000; // characters; a longer text is shown plain
const marked = new Marked({ gfm: true, extensions: mathRules });
const UNSEEN = new Set(["space", "def"]);
const LINKS = new Set(["http:", "https:", "mailto:"]);
const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", deg: "°", times: "×",
  middot: "·", hellip: "…", ndash: "–", mdash: "—", larr: "←", rarr: "→", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”",
};

/**
 * One answer's text in an element, drawn again as it grows. What is appended can change the last
 * block only, so the blocks before it are neither read nor drawn again, until the text is whole.
 */
export class Rendering {
  /** Characters of the blocks that stay, and their number. */
  #settled = 0;
  #blocks = 0;
  /** The text of each block that is drawn. @type {string[]} */
  #drawn = [];
  /** The whole text that is shown; null while it grows. @type {string | null} */
  #whole = null;

  /** @param {HTMLElement} place */
  constructor(place) {
    this.place = place;
  }

  /** @param {string} given @param {boolean} whole  nothing will follow */
  show(given, whole) {
    const text = given.replace(/\r\n?/g, "\n");
    if (whole && text === this.#whole) return;
    this.#whole = whole ? text : null;
    if (whole || text.length < this.#settled) this.#settled = this.#blocks = 0;
    if (whole) this.#drawn = []; // a definition at the end may have changed a link at the beginning
    const rest = text.slice(this.#settled);
    const tokens = taken(rest);
    const seen = tokens.filter((token) => !UNSEEN.has(token.type));
    seen.forEach((token, at) => this.#draw(this.#blocks + at, token, !whole && at === seen.length - 1));
    const count = this.#blocks + seen.length;
    this.#drawn.length = count;
    while (this.place.childNodes.length > count) this.place.lastChild?.remove();
    const before = tokens.slice(0, tokens.indexOf(seen.at(-1)));
    const read = tokens.reduce((sum, token) => sum + token.raw.length, 0);
    if (whole || seen.length < 2 || read !== rest.length) return;
    this.#settled += before.reduce((sum, token) => sum + token.raw.length, 0);
    this.#blocks = count - 1;
  }

  /** @param {number} at @param {any} token @param {boolean} growing */
  #draw(at, token, growing) {
    const mark = `${growing}:${token.raw}`;
    if (this.#drawn[at] === mark) return;
    const node = block(token, growing);
    const old = this.place.childNodes[at];
    if (old) old.replaceWith(node);
    else this.place.append(node);
    this.#drawn[at] = mark;
  }
}

/** The text's blocks; one plain block if it cannot be taken apart. @param {string} text @returns {any[]} */
function taken(text) {
  if (text.length <= LONGEST) {
    try {
      return marked.lexer(text);
    } catch { /* nested too deeply */ }
  }
  return [{ type: "plain", raw: text }];
}

/** @param {any} token @param {boolean} growing @returns {Node} */
function block(token, growing) {
  try {
    return made(token, growing);
  } catch {
    return el("p", { class: "plain" }, token.raw);
  }
}

/** @param {any} token @param {boolean} [growing] @returns {Node} */
function made(token, growing = false) {
  switch (token.type) {
    case "heading": // the page has the first two levels
      return el(`h${Math.min(6, token.depth + 2)}`, {}, ...inline(token.tokens));
    case "paragraph": return el("p", {}, ...inline(token.tokens));
    case "text": return token.tokens ? el("span", {}, ...inline(token.tokens)) : document.createTextNode(decoded(token.text));
    case "code": return codeBlock(token.text, token.lang ?? "", growing);
    case "blockquote": return el("blockquote", {}, ...blocks(token.tokens));
    case "list": return list(token);
    case "table": return table(token);
    case "hr": return el("hr");
    case "blockMath": return formula(token.text, true);
    case "space": case "def": return document.createTextNode(""); // within a list or a quotation
    case "html": return el("p", { class: "plain" }, token.raw.trimEnd());
    default: return el("p", { class: "plain" }, token.raw);
  }
}

/** @param {any[]} tokens @returns {Node[]} */
const blocks = (tokens) => tokens.map((token) => made(token));

/** @param {any} token */
function list(token) {
  const items = token.items.map((/** @type {any} */ item) => {
    const box = item.task && el("input", { type: "checkbox", disabled: true, checked: item.checked, "aria-label": item.checked ? "done" : "to do" });
    const inner = item.tokens.filter((/** @type {any} */ t) => t.type !== "checkbox");
    return el("li", { class: item.task ? "task" : null }, box || null, ...blocks(inner));
  });
  const start = token.ordered && token.start !== 1 ? token.start : null;
  return el(token.ordered ? "ol" : "ul", { start }, ...items);
}

/** @param {any} token */
function table(token) {
  const cell = (/** @type {string} */ tag) => (/** @type {any} */ part, /** @type {number} */ at) =>
    el(tag, { class: token.align[at] ? `to-${token.align[at]}` : null, scope: tag === "th" ? "col" : null }, ...inline(part.tokens));
  const head = el("tr", {}, ...token.header.map(cell("th")));
  const rows = token.rows.map((/** @type {any[]} */ row) => el("tr", {}, ...row.map(cell("td"))));
  const whole = el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
  return el("div", { class: "table", tabindex: 0, role: "group", "aria-label": "table" }, whole);
}

/** @param {any[]} [tokens] @returns {Node[]} */
function inline(tokens = []) {
  return tokens.map((token) => {
    switch (token.type) {
      case "strong": return el("strong", {}, ...inline(token.tokens));
      case "em": return el("em", {}, ...inline(token.tokens));
      case "del": return el("del", {}, ...inline(token.tokens));
      case "codespan": return el("code", {}, token.text);
      case "br": return el("br");
      case "link": return link(token.href, inline(token.tokens));
      case "image": return link(token.href, [`[image: ${token.text || token.href}]`]);
      case "inlineMath": return formula(token.text, token.display);
      case "escape": return document.createTextNode(decoded(token.text));
      case "html": return /^<br\s*\/?>$/i.test(token.raw) ? el("br") : document.createTextNode(token.raw);
      case "text": return token.tokens ? el("span", {}, ...inline(token.tokens)) : document.createTextNode(decoded(token.text));
      default: return document.createTextNode(token.raw);
    }
  });
}

/** @param {string} href @param {(Node | string)[]} children */
function link(href, children) {
  let target;
  try {
    target = new URL(decoded(href));
  } catch { /* no address of its own */ }
  if (target === undefined || !LINKS.has(target.protocol)) return el("span", { title: href }, ...children);
  return el("a", { href: target.href, target: "_blank", rel: "noopener noreferrer nofollow", title: target.href }, ...children);
}

/** Text with the entities that models write in place of characters. @param {string} text */
function decoded(text) {
  return text.replace(/&(#\d{1,7}|#x[\da-f]{1,6}|[a-z]{2,8});/gi, (whole, name) => {
    if (name[0] !== "#") return ENTITIES[/** @type {keyof ENTITIES} */ (name)] ?? whole;
    const point = name[1].toLowerCase() === "x" ? parseInt(name.slice(2), 16) : Number(name.slice(1));
    return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : whole;
  });
}
