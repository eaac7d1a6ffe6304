/** Files that go with a question, texts and pictures: chosen, dropped or pasted. */

import { $, button, el } from "./dom.js";
import { isPicture, pictured, preview, takes } from "./pictures.js";
import { worker } from "./worker.js";

/** @typedef {import("./types.js").Attachment} Attachment */

const MOST = 8;
const LONGEST = 1 << 22; // bytes; what the model can read is less

/** @type {Attachment[]} */
let files = [];

/** Take files from the button, from a drop and from a paste. */
export function startAttachments() {
  worker.addEventListener("info", () => { $("attach").title = takes() ? "Attach text files and pictures" : "Attach text files"; });
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    take([...$("file").files]); // a copy: the next line empties the list itself
    $("file").value = "";
  });
  const zone = $("chat");
  zone.addEventListener("dragover", (/** @type {DragEvent} */ event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take([...(event.dataTransfer?.files ?? [])]);
  });
  $("prompt").addEventListener("paste", (/** @type {ClipboardEvent} */ event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    take([...event.clipboardData.files]);
  });
}

/** The files of the next question; there are none afterwards. */
export function taken() {
  const all = files;
  files = [];
  draw("");
  return all;
}

/** @param {File[]} chosen */
async function take(chosen) {
  let said = "";
  for (const file of chosen) {
    try {
      if (files.length >= MOST) throw new Error(`at most ${MOST} files go with a question`);
      files.push(isPicture(file) ? await pictured(file) : { name: file.name, text: await text(file) });
    } catch (error) {
      said = `${file.name}: ${/** @type {Error} */ (error).message}.`;
    }
  }
  draw(said);
  $("prompt").focus();
}

/** @param {File} file */
async function text(file) {
  const most = worker.info?.limits?.prompt_characters ?? LONGEST;
  if (file.size > LONGEST) throw new Error(`is larger than ${LONGEST >> 20} MiB`);
  let found;
  try {
    found = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`is no text in UTF-8; ${reads()}`);
  }
  if (found.includes("\0")) throw new Error(`is no text; ${reads()}`);
  if (found.length > most) throw new Error(`has ${found.length.toLocaleString("en")} characters; a prompt here has at most ${most.toLocaleString("en")}`);
  return found;
}

const reads = () => (takes() ? "this model reads text, PNG, JPEG and WebP" : "this model reads text only");

/** @param {string} said */
function draw(said) {
  $("files").replaceChildren(...files.map((file) => el("li", {}, file.picture ? preview(file) : file.name,
    button("×", () => { files = files.filter((other) => other !== file); draw(""); }, { "aria-label": `Remove ${file.name}` }))));
  $("file-error").textContent = said;
}
