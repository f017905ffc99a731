// Calls to the service: problem documents become errors, a missing key is asked for, a full house
// is asked again.

import { h, button } from "./dom.js";

const KEY = "dncbm-key";
const PATIENCE = 3;
let routes = new Set();
let asking = null;

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// The routes that this service has, as "GET /v1/models/{}/drift"; the shell is told them.
export function setRoutes(names) {
  routes = new Set(names);
}

export const offers = (method, template) => routes.has(`${method} ${template}`);

const key = () => sessionStorage.getItem(KEY);

export const hasKey = () => Boolean(key());

export const part = encodeURIComponent;

function address(path, query) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) {
    for (const one of [value].flat()) {
      if (one !== null && one !== undefined && one !== "") parameters.append(name, String(one));
    }
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

function body({ files, fields, json }) {
  if (json !== undefined) return JSON.stringify(json);
  if (!files) return undefined;
  const form = new FormData();
  for (const file of files) form.append("image", file, file.name || "image.png");
  for (const [name, value] of Object.entries(fields || {})) form.append(name, value);
  return form;
}

function headers(content, accept) {
  const found = { Accept: accept };
  if (key()) found["X-API-Key"] = key();
  if (typeof content === "string") found["Content-Type"] = "application/json";
  return found;
}

async function send(method, path, request, accept = "application/json") {
  const content = body(request);
  for (let attempt = 0; ; attempt += 1) {
    const response = await fetch(address(path, request.query), {
      method,
      body: content,
      headers: headers(content, accept),
      signal: request.signal,
    });
    if (response.status === 401 && (await askKey(key() !== null))) continue;
    if (response.status === 503 && request.patient && attempt < PATIENCE) {
      await pause(1000 * Number(response.headers.get("Retry-After") || 1));
      continue;
    }
    if (!response.ok) throw await problem(response);
    return response;
  }
}

async function problem(response) {
  let detail = `The service answered ${response.status} ${response.statusText}.`;
  try {
    const answer = await response.json();
    if (typeof answer.detail === "string") detail = answer.detail;
  } catch {
    // not a problem document: the status has to do
  }
  return new Problem(response.status, detail);
}

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// request: {query, json, files, fields, signal, patient}
export async function call(method, path, request = {}) {
  const response = await send(method, path, request);
  return response.status === 204 ? null : response.json();
}

export const get = (path, query, signal) => call("GET", path, { query, signal });

export const aborted = (error) => error.name === "AbortError";

// Sets the source of a picture; with a key it has to be fetched, since <img> sends no header.
export async function showPicture(image, path) {
  if (!hasKey()) {
    image.src = path;
    return;
  }
  const response = await send("GET", path, {}, "image/*");
  image.src = URL.createObjectURL(await response.blob());
  image.onload = () => URL.revokeObjectURL(image.src);
}

// Server-sent events over fetch, since EventSource sends no header: yields {event, data}.
export async function* events(path, signal) {
  const response = await send("GET", path, { signal }, "text/event-stream");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = parseEvent(block);
      if (found) yield found;
    }
  }
}

function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (event === "message" && !data.length) return null; // a comment that keeps the line open
  return { event, data: data.length ? JSON.parse(data.join("\n")) : null };
}

// One dialog for all calls that wait for a key; answers whether one was given.
export function askKey(wrong = false) {
  asking ??= openDialog(wrong).finally(() => {
    asking = null;
  });
  return asking;
}

function openDialog(wrong) {
  const input = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const cancel = button("Cancel", () => dialog.close("cancel"));
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "key-title" }, "API key"),
    h("p", {}, wrong ? "The service did not accept this key." : "This service asks for a key."),
    h("label", { class: "field", for: "key" }, h("span", {}, "Key"), input),
    h("p", { class: "hint" }, "Kept until this tab is closed, and sent to this service only."),
    h("div", { class: "row end" }, cancel, h("button", { class: "main", value: "use" }, "Use")),
  );
  const dialog = h("dialog", { "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "use" && input.value !== "";
      if (given) sessionStorage.setItem(KEY, input.value);
      dialog.remove();
      done(given);
    });
  });
}
