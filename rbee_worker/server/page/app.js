// The page: a conversation, what the worker is doing, and how each answer came about.

import { Refused, ask, events, token } from "./stream.js";

const $ = (id) => document.getElementById(id);
const POLL_MS = 1000;
const FEED_MAX = 60;
const history = [];
let current = null; // the job that is being answered
let chats = true; // does the model have a chat template
let known = false; // is it known what the model is for
const MADE_FOR = {
  embed: "This model makes vectors of texts: POST /v1/embeddings, /v1/score or /v1/rerank.",
  classify: "This model sorts texts into classes: POST /v1/classify, /v1/score or /v1/rerank.",
};

// ---- the state of the worker

let counted = null; // {tokens, time} of the last poll
let timer = 0;

async function poll() {
  clearTimeout(timer);
  try {
    const stats = await (await ask("GET", "/v1/stats")).json();
    show(stats);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return openGate(token.get() !== "");
    state("away", "unreachable");
  }
  timer = setTimeout(pollWhenSeen, POLL_MS);
}

function pollWhenSeen() {
  if (document.hidden) document.addEventListener("visibilitychange", poll, { once: true });
  else poll();
}

function show(stats) {
  state(stats.state, stats.state);
  $("model").textContent = stats.model;
  const now = performance.now();
  if (counted !== null && stats.tokens_out >= counted.tokens) {
    const rate = (stats.tokens_out - counted.tokens) / ((now - counted.time) / 1000);
    if (current === null) $("rate").textContent = rate.toFixed(rate < 10 ? 1 : 0);
  }
  counted = { tokens: stats.tokens_out, time: now };
  $("running").textContent = stats.running;
  $("queue").textContent = stats.queue_depth;
  kv(stats.kv_usage);
  if (stats.gpu) {
    const gb = (bytes) => (bytes / 1e9).toFixed(1);
    $("gpu").hidden = false;
    $("gpu-text").textContent = `${gb(stats.gpu.memory_used_bytes)} of ${gb(stats.gpu.memory_total_bytes)} GB, `
      + `${(stats.utilisation * 100).toFixed(0)} % busy, ${(stats.gpu.floor_share * 100).toFixed(0)} % of the floor`;
  }
  narrate(stats.state === "ready" ? `${stats.model} is ready.` : stats.reason, true);
  if (stats.state === "ready" && !known) describe().catch((error) => narrate(error.message));
}

function kv(share) {
  $("kv").value = share;
  $("kv-text").textContent = `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

function state(kind, words) {
  $("state").textContent = words;
  $("state").className = `pill ${kind}`;
}

let lastState = "";

// What happens goes on top; the worker's own state (repeated with every poll) only when it changes.
function narrate(words, ofState = false) {
  if (!words || (ofState && words === lastState)) return;
  if (ofState) lastState = words;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toTimeString().slice(0, 8);
  item.append(time, words);
  $("feed").prepend(item);
  while ($("feed").children.length > FEED_MAX) $("feed").lastChild.remove();
}

const warned = new Set();

// What there is to know of the model, once each, however often answers repeat it.
function warn(words) {
  for (const word of words) {
    if (warned.has(word)) continue;
    warned.add(word);
    narrate(`Note: ${word}`);
  }
}

// ---- the token

function openGate(wrong) {
  $("gate-error").textContent = wrong ? "The worker refused this token." : "";
  if (!$("gate").open) $("gate").showModal();
  $("token").focus();
}

$("gate-form").addEventListener("submit", () => {
  token.set($("token").value.trim());
  $("token").value = "";
  begin();
});
$("gate").addEventListener("cancel", (event) => event.preventDefault());

// What the worker says of its model; the purpose comes once that is loaded.
async function describe() {
  const info = await (await ask("GET", "/info")).json();
  chats = info.chat_template !== false;
  $("model").textContent = info.model_id;
  warn(info.notes ?? []);
  known = info.purpose !== undefined;
  const other = MADE_FOR[info.purpose?.task];
  if (!other) return;
  $("empty").querySelector("p").textContent = other;
  $("ideas").hidden = $("prompt").disabled = $("send").disabled = true;
  $("ideas").style.display = "none";
}

async function begin() {
  try {
    await describe();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return openGate(token.get() !== "");
  }
  poll();
}

// ---- a conversation

function turn(kind, text) {
  $("empty").hidden = true;
  $("empty").style.display = "none";
  const article = $(`turn-${kind}`).content.firstElementChild.cloneNode(true);
  article.querySelector(".text").textContent = text;
  $("log").append(article);
  $("log").scrollTop = $("log").scrollHeight;
  return article;
}

function parameters() {
  const found = {};
  for (const [name, value] of new FormData($("params"))) {
    if (name !== "system" && value !== "") found[name] = Number(value);
  }
  return found;
}

function question(text) {
  const system = $("params").elements.system.value.trim();
  if (!chats) return { prompt: text };
  const turns = [...history, { role: "user", content: text }];
  return { messages: system ? [{ role: "system", content: system }, ...turns] : turns };
}

async function answer(text) {
  turn("user", text);
  const article = turn("answer", "");
  const shown = article.querySelector(".text");
  article.classList.add("busy");
  busy(true);
  let said = "";
  const parts = { reasoning: "", calls: [] };
  try {
    const asked = question(text);
    const body = { ...asked, ...parameters(), ...(asked.messages ? { chat_defaults: true } : {}) };
    current = await (await ask("POST", "/v1/jobs", body)).json();
    let first = 0;
    let tokens = 0;
    for await (const event of events(current.sse_url)) {
      if (event.type === "token") {
        beside(article, event, parts);
        said += event.t;
        tokens += event.ids.length;
        first ||= performance.now();
        shown.append(event.t);
        const seconds = (performance.now() - first) / 1000;
        if (seconds > 0.2) {
          $("rate").textContent = ((tokens - 1) / seconds).toFixed(1);
          article.querySelector(".note").textContent = `${tokens} tokens`;
        }
        const log = $("log");
        if (log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
      } else if (event.type === "narration") narrate(event.human);
      else if (event.type === "metrics") kv(event.kv_usage);
      else if (event.type === "started") sampling(article, event);
      else if (event.type === "end") {
        beside(article, event, parts);
        said += event.text;
        shown.append(event.text);
        ended(article, event);
      } else if (event.type === "error") throw new Error(event.message);
    }
    history.push({ role: "user", content: text }, { role: "assistant", content: said });
  } catch (error) {
    if (error instanceof Refused && error.status === 401) openGate(true);
    article.classList.add("failed");
    article.querySelector(".note").textContent = error.message;
    narrate(error.message);
  } finally {
    article.classList.remove("busy");
    current = null;
    busy(false);
    $("log").scrollTop = $("log").scrollHeight;
  }
}

// Reasoning and tool calls stand above the answer, folded.
function beside(article, event, parts) {
  if (event.reasoning) {
    parts.reasoning += event.reasoning;
    fold(article, "reasoning", "Reasoning").textContent = parts.reasoning;
  }
  for (const piece of event.calls ?? []) {
    const call = (parts.calls[piece.index] ??= { name: "", arguments: "" });
    call.name += piece.name ?? "";
    call.arguments += piece.arguments ?? "";
    fold(article, `call-${piece.index}`, `Calls ${call.name}`).textContent = call.arguments;
  }
}

function fold(article, key, title) {
  let found = article.querySelector(`[data-part="${key}"]`);
  if (found === null) {
    found = document.createElement("details");
    found.className = "part";
    found.dataset.part = key;
    found.append(document.createElement("summary"), document.createElement("pre"));
    article.querySelector(".text").before(found);
  }
  found.querySelector("summary").textContent = title;
  return found.querySelector("pre");
}

function busy(yes) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  if (!yes && matchMedia("(hover: hover)").matches) $("prompt").focus();
}

// ---- how an answer came about

function row(article, table, cells, asked = false) {
  const line = document.createElement("tr");
  if (asked) line.className = "asked";
  for (const cell of cells) {
    const part = document.createElement("td");
    part.textContent = typeof cell === "string" ? cell : JSON.stringify(cell);
    line.append(part);
  }
  article.querySelector(`.${table} tbody`).append(line);
}

function sampling(article, started) {
  for (const [name, { value, origin }] of Object.entries(started.sampling)) {
    row(article, "sampling", [name, value, origin], !origin.includes("default"));
  }
  warn(started.warnings);
}

const WHY = {
  EOS: (s) => `end token ${s.token_text ?? s.token_id}`,
  STOP_SEQUENCE: (s) => `stop ${JSON.stringify(s.sequence ?? s.token_text)}`,
  MAX_TOKENS: () => "max tokens reached",
  CONTEXT_FULL: () => "context full",
  COMPLETE: () => "complete",
  CANCELLED: () => "stopped",
  TIMEOUT: () => "out of time",
};

function ended(article, end) {
  const seconds = end.decode_time_ms / 1000;
  const rate = seconds > 0 && end.tokens_out > 1 ? ` · ${((end.tokens_out - 1) / seconds).toFixed(1)} tok/s` : "";
  const why = WHY[end.stop_reason]?.(end.stop) ?? end.stop_reason;
  article.querySelector(".note").textContent = `${end.tokens_out} tokens${rate} · ${why}`;
  for (const [name, value] of Object.entries(end.stop)) {
    if (value !== null) row(article, "stop", [name, value]);
  }
  row(article, "times", ["prompt", `${end.prompt_tokens} tokens, ${end.cached_tokens} cached`]);
  if (end.reasoning_tokens) row(article, "times", ["reasoning", `${end.reasoning_tokens} tokens`]);
  if (end.drafted_tokens) {
    row(article, "times", ["drafted", `${end.drafted_tokens} tokens, ${end.accepted_tokens} drawn`]);
  }
  for (const phase of ["queue", "prefill", "decode"]) {
    row(article, "times", [phase, `${end[`${phase}_time_ms`].toFixed(1)} ms`]);
  }
  article.querySelector("details:not(.part)").classList.add("done");
  narrate(`Answered with ${end.tokens_out} tokens: ${why}.`);
}

// ---- hands

function grow() {
  const box = $("prompt");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || current !== null || $("send").hidden) return;
  $("prompt").value = "";
  grow();
  answer(text);
});
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => {
  if (current !== null) ask("DELETE", `/v1/jobs/${current.job_id}`).catch(() => {});
});
$("reset").addEventListener("click", () => {
  history.length = 0;
  for (const article of document.querySelectorAll(".turn")) article.remove();
  $("empty").hidden = false;
  $("empty").style.display = "";
  $("panel").classList.remove("open");
});
$("panel-toggle").addEventListener("click", () => {
  const open = $("panel").classList.toggle("open");
  $("panel-toggle").setAttribute("aria-expanded", String(open));
  $("panel-toggle").textContent = open ? "Chat" : "Panel";
});
for (const idea of document.querySelectorAll(".idea")) {
  idea.addEventListener("click", () => {
    $("prompt").value = idea.textContent;
    $("ask").requestSubmit();
  });
}
begin();
