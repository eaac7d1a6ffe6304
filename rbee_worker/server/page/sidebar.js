/** The kept conversations: a list that can be searched, renamed, exported, imported and deleted. */

import { $, button, download, el } from "./dom.js";
import * as store from "./store.js";
import { talk } from "./talk.js";
import { asMarkdown, read, written } from "./transfer.js";
import { Conversation } from "./tree.js";

const SURE_MS = 4000;
const LARGEST = 64 << 20; // bytes of a file that is imported

/** Show the list, and follow it. @param {(words: string) => void} tell */
export function startSidebar(tell) {
  talk.addEventListener("kept", soon);
  talk.addEventListener("path", soon);
  $("search").addEventListener("input", soon);
  $("new").addEventListener("click", () => talk.fresh());
  $("export").addEventListener("click", async () => download("conversations.json", "application/json", written(await store.all())));
  $("export-one").addEventListener("click", () => download(`${name(talk.conversation.title)}.md`, "text/markdown", asMarkdown(talk.conversation)));
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", () => load($("import-file").files[0], tell));
  $("clear").addEventListener("click", () => $("clear-sure").showModal());
  $("clear-sure").addEventListener("close", async () => {
    if ($("clear-sure").returnValue !== "yes") return;
    $("clear-sure").returnValue = "";
    await talk.clear();
  });
  soon();
}

let waiting = false;
/** What the list shows now. */
let listed = "";

/** The list is read again, once for many changes. */
function soon() {
  if (waiting) return;
  waiting = true;
  setTimeout(async () => {
    waiting = false;
    const words = $("search").value.trim().toLowerCase();
    const found = (await store.all()).map((saved) => new Conversation(saved)).filter((one) => one.has(words));
    const now = JSON.stringify(found.map(({ id, title }) => [id, title, id === talk.conversation.id]));
    if (now !== listed) $("conversations").replaceChildren(...found.map(entry)); // or a title that is written would be lost
    listed = now;
    $("none").hidden = found.length > 0;
    $("none").textContent = words ? "Nothing found." : "Nothing here yet.";
  }, 60);
}

/** @param {Conversation} conversation */
function entry(conversation) {
  const { id } = conversation;
  const title = conversation.title || "Untitled";
  const shown = id === talk.conversation.id;
  const open = el("button", { type: "button", class: "open", "aria-current": shown ? "true" : null, on: { click: () => choose(id) } }, title);
  const item = el("li", { class: shown ? "shown" : null }, open,
    button("Rename", () => rename(item, id, title), { "aria-label": `Rename ${title}` }),
    sure(`Delete ${title}`, () => talk.remove(id)));
  return item;
}

/** A button that deletes when it is pressed twice. @param {string} label @param {() => void} remove */
function sure(label, remove) {
  const press = button("Delete", () => {
    if (press.classList.contains("strong")) return remove();
    press.textContent = "Sure?";
    press.classList.add("strong");
    setTimeout(() => { press.textContent = "Delete"; press.classList.remove("strong"); }, SURE_MS);
  }, { "aria-label": label });
  return press;
}

/** @param {string} id */
function choose(id) {
  talk.open(id);
  $("sidebar").classList.remove("open");
  $("sidebar-toggle").setAttribute("aria-expanded", "false");
}

/** @param {HTMLElement} item @param {string} id @param {string} title */
function rename(item, id, title) {
  const field = /** @type {HTMLInputElement} */ (el("input", { "aria-label": "title" }));
  field.value = title;
  let done = false;
  const end = (/** @type {string} */ words) => {
    if (done) return;
    done = true;
    listed = "";
    if (words && words !== title) talk.rename(id, words);
    else soon();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(field.value.trim());
    else if (event.key === "Escape") { event.stopPropagation(); end(""); }
  });
  field.addEventListener("blur", () => end(field.value.trim()));
  item.replaceChildren(field);
  field.select();
}

/** @param {File | undefined} file @param {(words: string) => void} tell */
async function load(file, tell) {
  $("import-file").value = "";
  if (!file) return;
  try {
    if (file.size > LARGEST) throw new Error(`The file is larger than ${LARGEST >> 20} MiB.`);
    const found = read(await file.text());
    for (const saved of found) await store.put(saved);
    tell(`${found.length} conversation${found.length === 1 ? "" : "s"} imported from ${file.name}.`);
    if (found.length === 1) talk.open(found[0].id);
    soon();
  } catch (error) {
    tell(`${file.name} was not imported: ${/** @type {Error} */ (error).message}`);
  }
}

/** A title as the name of a file. @param {string} title */
const name = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "conversation";
