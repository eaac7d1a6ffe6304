/** The page: starts its parts, asks for the token, and has the keys that work everywhere. */

import { startComposer } from "./composer.js";
import { $ } from "./dom.js";
import { startLog } from "./log.js";
import { parameters, startParameters } from "./parameters.js";
import { startPresets } from "./presets.js";
import { served, startServed } from "./served.js";
import { startSidebar } from "./sidebar.js";
import { narrate, startStatus } from "./status.js";
import * as store from "./store.js";
import { token } from "./stream.js";
import { talk } from "./talk.js";
import { startTools, tools } from "./tools.js";
import { worker } from "./worker.js";

// ---- the token

worker.addEventListener("token", (event) => {
  $("gate-error").textContent = /** @type {CustomEvent} */ (event).detail ? "The worker refused this token." : "";
  if (!$("gate").open) $("gate").showModal();
  $("token").focus();
});
$("gate-form").addEventListener("submit", () => {
  token.set($("token").value.trim());
  $("token").value = "";
  worker.poll(true);
});
$("gate").addEventListener("close", () => {
  $("prompt").blur(); // Chromium gives the field its focus back, but then no key writes into it
  $("prompt").focus();
});
$("gate").addEventListener("cancel", (/** @type {Event} */ event) => event.preventDefault());

// ---- panels

/** One panel at a time where there is no room for both. @param {string} name @param {string} other */
function toggles(name, other) {
  $(`${name}-toggle`).addEventListener("click", () => {
    const open = $(name).classList.toggle("open");
    $(`${name}-toggle`).setAttribute("aria-expanded", String(open));
    if (!open) return;
    $(other).classList.remove("open");
    $(`${other}-toggle`).setAttribute("aria-expanded", "false");
  });
}
toggles("sidebar", "panel");
toggles("panel", "sidebar");

/** Close what lies over the conversation; false if nothing does. */
function closePanels() {
  let closed = false;
  for (const name of ["sidebar", "panel"]) {
    if (getComputedStyle($(name)).position === "absolute" && $(name).classList.contains("open")) {
      $(`${name}-toggle`).click();
      $(`${name}-toggle`).focus();
      closed = true;
    }
  }
  return closed;
}
talk.addEventListener("path", closePanels);

// ---- light and dark

/** @param {string} theme */
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme").value = theme;
}
$("theme").addEventListener("change", () => {
  paint($("theme").value);
  store.set("theme", $("theme").value);
});

// ---- keys

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (!closePanels()) talk.stop();
  } else if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    talk.fresh();
    $("prompt").focus();
  }
});
$("keys-open").addEventListener("click", () => $("keys").showModal());

// ---- begin

talk.parameters = () => ({ ...served(), ...tools(), ...parameters() });
startLog();
startStatus();
startComposer();
await startPresets();
await startParameters();
await startTools();
await startServed();
startSidebar(narrate);
paint((await store.setting("theme")) ?? "");
if (!(await store.keeps())) narrate("This browser keeps nothing here: conversations last until the page is closed.");
worker.poll(token.get() !== "");
const last = await store.setting("open");
if (last) await talk.open(last);
