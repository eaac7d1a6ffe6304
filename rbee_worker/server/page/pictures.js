/** Pictures that go with a question: read from files, shown small, sent as parts of a message. */

import { el } from "./dom.js";
import { worker } from "./worker.js";

/** @typedef {import("./types.js").Attachment} Attachment @typedef {import("./types.js").Turn} Turn */

const KINDS = ["image/png", "image/jpeg", "image/webp"];
const URL_FORM = /^data:image\/(?:png|jpeg|webp);base64,[A-Za-z0-9+/=]+$/;
const SIDE = 160; // pixels of a preview's longer edge

/** Does the model take pictures in a conversation? Without a chat template only a program can place them. */
export const takes = () => Boolean(worker.info?.purpose?.pictures) && worker.info?.chat_template !== false;

/** Is this a file that `pictured` reads? @param {File} file */
export const isPicture = (file) => file.type.startsWith("image/") && file.type !== "image/svg+xml";

/** A picture's file as an attachment. Raises an error that a person can read. @param {File} file @returns {Promise<Attachment>} */
export async function pictured(file) {
  const most = worker.info?.limits?.picture_bytes ?? Infinity;
  if (!takes()) throw new Error("is a picture; this model reads text only");
  if (!KINDS.includes(file.type)) throw new Error("is no PNG, JPEG or WebP");
  if (file.size > most) throw new Error(`is larger than ${(most / (1 << 20)).toLocaleString("en")} MiB`);
  return { name: file.name || "picture", text: "", picture: await url(file) };
}

/** @param {Blob} file @returns {Promise<string>} */
function url(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(new Error("cannot be read"));
    reader.readAsDataURL(file);
  });
}

/** A picture of an imported file, checked. @param {any} given @returns {string} */
export function checkedUrl(given) {
  if (typeof given !== "string" || !URL_FORM.test(given)) throw new Error("A picture is none.");
  return given;
}

/**
 * A small picture. It is drawn, not loaded, so that the page's policy allows no picture by address.
 *
 * @param {Attachment} file
 */
export function preview(file) {
  const canvas = /** @type {HTMLCanvasElement} */ (el("canvas", { class: "preview", role: "img", "aria-label": file.name, title: file.name }));
  canvas.width = canvas.height = 0;
  draw(canvas, file.picture ?? "").catch(() => canvas.replaceWith(el("span", {}, file.name)));
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @param {string} address */
async function draw(canvas, address) {
  const [head, text] = address.split(",");
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: head.slice(5).split(";")[0] }));
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
}

/** A turn's content: its text alone, or its pictures and then the text. @param {Turn} turn @param {string} text */
export function withPictures(turn, text) {
  const shown = (turn.files ?? []).filter((file) => file.picture);
  if (shown.length === 0) return text;
  const parts = shown.map((file) => ({ type: "image_url", image_url: { url: file.picture } }));
  return text ? [...parts, { type: "text", text }] : parts;
}
