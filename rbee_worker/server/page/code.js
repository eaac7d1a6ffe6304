/** Blocks of code: the language's name, a button that copies, and words told apart by highlight.js. */

import { button, copy, el } from "./dom.js";

const LONGEST = 100_000; // characters; longer code stays in one colour
/** The names that models write, and the language file that serves them. */
const FILES = {
  bash: "bash", sh: "bash", shell: "bash", zsh: "bash", console: "bash", c: "c", h: "c", cpp: "cpp", "c++": "cpp",
  hpp: "cpp", css: "css", diff: "diff", patch: "diff", go: "go", golang: "go", html: "xml", xml: "xml", svg: "xml",
  java: "java", javascript: "javascript", js: "javascript", jsx: "javascript", mjs: "javascript", json: "json",
  jsonl: "json", markdown: "markdown", md: "markdown", python: "python", py: "python", python3: "python",
  rust: "rust", rs: "rust", sql: "sql", typescript: "typescript", ts: "typescript", tsx: "typescript",
  yaml: "yaml", yml: "yaml",
};

/** @type {Promise<any> | null} */
let core = null;
/** @type {Map<string, Promise<void>>} */
const languages = new Map();

/**
 * @param {string} text
 * @param {string} info  what stands behind the fence
 * @param {boolean} growing  more of it will follow: it is coloured when it is whole
 */
export function codeBlock(text, info, growing) {
  const name = info.trim().split(/[\s{,:]/)[0].toLowerCase();
  const code = el("code", {}, text);
  const press = button("Copy", () => copy(text, press), { "aria-label": "Copy code" });
  const file = Object.hasOwn(FILES, name) ? FILES[/** @type {keyof FILES} */ (name)] : null;
  if (file !== null && !growing && text.length <= LONGEST) colour(code, text, file);
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, name || "text"), press),
    el("pre", { tabindex: 0, role: "group", "aria-label": `${name || "text"} code` }, code));
}

/** @param {HTMLElement} code @param {string} text @param {string} file */
async function colour(code, text, file) {
  try {
    core ??= import("./vendor/highlight.js");
    const { default: library } = await core;
    if (!languages.has(file)) {
      languages.set(file, import(`./vendor/languages/${file}.js`).then((found) => library.registerLanguage(file, found.default)));
    }
    await languages.get(file);
    // The tree of scopes, not the HTML that the library would make of it.
    code.replaceChildren(...nodes(library.highlight(text, { language: file, ignoreIllegals: true })._emitter.rootNode.children));
  } catch { /* it stays in one colour */ }
}

/** @param {any[]} children @returns {(Node | string)[]} */
function nodes(children) {
  return children.map((child) => (typeof child === "string" ? child
    : el("span", { class: child.scope ? `hl-${child.scope.split(".")[0]}` : null }, ...nodes(child.children))));
}
