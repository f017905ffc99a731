// The shell: which view is shown for which model. A view is a function mount(root, context) that
// may answer {update(context)}, called when only its query changed.

import { aborted, askKey, get, hasKey, offers, setRoutes } from "./api.js";
import { failure, h, hint, put, select } from "./dom.js";
import * as router from "./router.js";
import * as decide from "./decide.js";
import * as concepts from "./concepts.js";
import * as edits from "./edits.js";
import * as classes from "./classes.js";
import * as map from "./map.js";
import * as jobs from "./jobs.js";
import * as drift from "./drift.js";
import * as models from "./models.js";

const VIEWS = { decide, concepts, edits, classes, map, jobs, drift, models };
const OF_SERVICE = new Set(["jobs", "models"]); // views that need no model
const shell = document.getElementById("view");
const status = document.getElementById("status");
const SHOWN_FOR = 5000; // milliseconds
let quiet = 0;
let known = null;
let shown = null;

// Said aloud, and shown for a while unless the view shows it anyway.
function say(text, { shown: seen = true } = {}) {
  clearTimeout(quiet);
  status.textContent = text;
  status.classList.toggle("unseen", !seen);
  if (text && !text.endsWith("…")) quiet = setTimeout(say, SHOWN_FOR, "");
}

async function loadModels() {
  const { models: list } = await get("/v1/models", { limit: 500 });
  const aliases = offers("GET", "/v1/aliases") ? await loadAliases() : [];
  return { list, aliases };
}

async function loadAliases() {
  try {
    return (await get("/v1/aliases", { limit: 500 })).aliases;
  } catch {
    return []; // the registry is off: models go by their own names
  }
}

function chosenModel(wanted) {
  const alias = known.aliases.find((one) => one.alias === wanted);
  const model = known.list.find((one) => one.id === (alias ? alias.model : wanted));
  return model ?? (wanted ? null : (known.list[0] ?? null));
}

function drawSwitcher(model, wanted) {
  const groups = [
    h("optgroup", { label: "Models" }, known.list.map((one) => option(one.id, one.id, wanted))),
  ];
  const ids = new Set(known.list.map((one) => one.id));
  const aliases = known.aliases.filter((one) => ids.has(one.model));
  if (aliases.length) {
    const options = aliases.map((one) => option(one.alias, `${one.alias} → ${one.model}`, wanted));
    groups.push(h("optgroup", { label: "Aliases" }, options));
  }
  const chooser = select([], "", (value) => router.change({ model: value, nec: "" }), {
    id: "model",
  });
  chooser.append(...groups);
  if (!wanted && model) chooser.value = model.id;
  put(
    document.getElementById("switcher"),
    h("label", { for: "model" }, "Model"),
    chooser,
  );
}

function option(value, text, chosen) {
  const node = h("option", { value }, text);
  node.selected = value === chosen;
  return node;
}

function markPlace(view) {
  const place = view === "edits" ? "concepts" : view;
  for (const link of document.querySelectorAll("#places a")) {
    const here = link.dataset.view === place;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.href = router.href(link.dataset.view);
  }
}

async function show() {
  const route = router.read();
  const view = VIEWS[route.view];
  const wanted = route.query.get("model") ?? "";
  const model = chosenModel(wanted);
  markPlace(route.view);
  drawSwitcher(model, wanted);
  const id = [route.view, route.arg, model?.id].join("\n");
  if (shown?.id === id && shown.update) {
    shown.update({ ...shown.context, route });
    return;
  }
  shown?.stop.abort();
  const stop = new AbortController();
  const context = { route, model, say, models: known, reload, signal: stop.signal };
  const first = shown === null;
  shown = { id, stop, context, update: null };
  say("");
  const root = h("div", { class: `view ${route.view}` });
  put(shell, root);
  await mount(view, root, context, shown, wanted);
  if (!first && shown.context === context) focusTitle(root);
}

async function mount(view, root, context, place, wanted) {
  if (!view) {
    root.append(h("h1", {}, "Nothing here"), hint(`There is no view “${context.route.view}”.`));
    return;
  }
  document.title = `${view.title} · dncbm`;
  if (!context.model && !OF_SERVICE.has(context.route.view)) {
    root.append(h("h1", {}, view.title), hint(missing(wanted)));
    return;
  }
  try {
    place.update = (await view.mount(root, context))?.update ?? null;
  } catch (error) {
    if (aborted(error)) return;
    if (!root.querySelector("h1")) root.append(h("h1", {}, view.title));
    root.append(failure(error));
  }
}

function missing(wanted) {
  if (wanted) return `No model or alias is called “${wanted}”. Choose another one above.`;
  return "No model is loaded. Make one with dncbm quickstart --out DIR, then start the service with dncbm serve DIR.";
}

function focusTitle(root) {
  const title = root.querySelector("h1");
  if (!title || root.contains(document.activeElement)) return;
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
  scrollTo(0, 0);
}

// Reads models and aliases again, after something changed them.
async function reload() {
  known = await loadModels();
  const route = router.read();
  drawSwitcher(chosenModel(route.query.get("model") ?? ""), route.query.get("model") ?? "");
  return known;
}

async function start() {
  setRoutes(shell.dataset.routes.split(";").map((text) => text.trim()));
  const keyButton = document.getElementById("ask-key");
  keyButton.addEventListener("click", async () => {
    if (await askKey()) location.reload();
  });
  keyButton.hidden = !hasKey() && !shell.dataset.key;
  try {
    known = await loadModels();
  } catch (error) {
    put(shell, h("h1", {}, "dncbm"), failure(error));
    return;
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is the view's
    shell.focus();
  });
  addEventListener("hashchange", show);
  await show();
  performance.mark("dncbm-ready");
}

start();
