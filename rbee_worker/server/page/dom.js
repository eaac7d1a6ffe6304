/** Building elements without markup: text is always text. */

/**
 * An element. `on` has its listeners, `class` and `data-...` are attributes as they are written;
 * true and false set or leave out an attribute. Children are nodes or text.
 *
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  for (const child of children) if (child !== null && child !== undefined) made.append(child);
  return made;
}

/** The element with this id, which index.html has. @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/** A small button. @param {string} label @param {() => void} press @param {Record<string, any>} [more] */
export function button(label, press, more = {}) {
  return el("button", { type: "button", class: "small", ...more, on: { click: press } }, label);
}

/** A new id. (`crypto.randomUUID` exists only where the page came over TLS or from this machine.) */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** Offer `text` as a file. @param {string} name @param {string} type @param {string} text */
export function download(name, type, text) {
  const link = /** @type {HTMLAnchorElement} */ (el("a", { download: name }));
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Copy `text`, and let `button` say so for a moment. Where the page came over plain HTTP from
 * another machine, browsers have no clipboard object: a hidden field serves.
 *
 * @param {string} text
 * @param {HTMLElement} button
 */
export async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = /** @type {HTMLTextAreaElement} */ (el("textarea", { class: "hidden-text", "aria-hidden": "true" }));
    field.value = text;
    document.body.append(field);
    field.select();
    done = document.execCommand("copy");
    field.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}
