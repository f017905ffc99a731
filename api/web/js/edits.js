// Edits: drafts that were saved, what they do to the accuracy, which one is active, and the audit.

import { call, get, offers, part } from "./api.js";
import { button, conceptLabel, failure, h, hint, percent, plural, put, signed, when } from "./dom.js";
import { author, wordsOf } from "./draft.js";
import * as router from "./router.js";

export const title = "Edits";

export async function mount(root, context) {
  if (!offers("GET", "/v1/models/{}/edits")) {
    root.append(back(), h("h1", {}, title), hint("This service takes no edits."));
    return;
  }
  if (context.route.arg) await one(root, context);
  else await all(root, context);
}

const back = () =>
  h("p", { class: "back" }, h("a", { href: router.href("concepts") }, "All concepts"));

const base = (context) => `/v1/models/${part(context.model.id)}/edits`;

async function all(root, context) {
  root.append(back(), h("h1", {}, title));
  const { edits, total } = await get(base(context), { limit: 100 }, context.signal);
  root.append(edits.length ? editTable(edits) : hint("No edit yet. Open a concept to rename, merge, block or remove it."));
  if (total > edits.length) root.append(hint(`The first ${edits.length} of ${total}.`));
  if (offers("GET", "/v1/audit")) await audit(root, context);
}

function editTable(edits) {
  const rows = edits.map((edit) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: router.href("edits", edit.id) }, String(edit.id))),
      h("td", {}, badge(edit.status)),
      h("td", {}, edit.operations.map(wordsOf).join("; ")),
      h("td", { class: "number" }, edit.evaluation ? move(edit.evaluation) : "–"),
      h("td", {}, edit.author),
      h("td", {}, edit.reason),
      h("td", {}, when(edit.created)),
    ),
  );
  return table("Edits", ["Edit", "Status", "Operations", "#Accuracy", "Author", "Reason", "Saved"], rows);
}

// Heads that begin with # are columns of numbers.
export function table(label, heads, rows) {
  const cells = heads.map((text) =>
    h("th", { scope: "col", class: text.startsWith("#") ? "number" : "" }, text.replace("#", "")),
  );
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, cells)), h("tbody", {}, rows)),
  );
}

const badge = (status) => h("span", { class: `badge ${status}` }, status);

const move = (evaluation) =>
  `${percent(evaluation.accuracy_before)} → ${percent(evaluation.accuracy_after)}`;

async function one(root, context) {
  const place = h("div", {});
  root.append(
    h("p", { class: "back" }, h("a", { href: router.href("edits") }, "All edits")),
    h("h1", {}, `Edit ${context.route.arg}`),
    place,
  );
  const edit = await get(`${base(context)}/${part(context.route.arg)}`, {}, context.signal);
  drawEdit(place, context, edit);
}

function drawEdit(place, context, edit) {
  const problem = h("div", {});
  const act = (verb, done) => async (event) => {
    event.target.disabled = true;
    context.say("Working…");
    try {
      const path = `${base(context)}/${part(edit.id)}/${verb}`;
      drawEdit(place, context, await call("POST", path, { patient: true, json: author() ? { author: author() } : {} }));
      context.say(done);
    } catch (error) {
      event.target.disabled = false;
      context.say("");
      put(problem, failure(error));
    }
  };
  const live = edit.status === "active";
  put(
    place,
    h("p", { class: "row" }, badge(edit.status), h("span", {}, `${edit.author}, ${when(edit.created)}: ${edit.reason}`)),
    h("ol", { class: "operations" }, edit.operations.map((operation) => h("li", {}, wordsOf(operation)))),
    edit.parent ? hint(`Made on top of edit ${edit.parent}.`) : null,
    h(
      "div",
      { class: "row" },
      button("Evaluate", act("evaluate", "Evaluated."), { class: edit.evaluation ? "" : "main", disabled: live }),
      button("Activate", act("activate", "Active."), {
        class: edit.evaluation && !live ? "main" : "",
        disabled: !edit.evaluation || live,
      }),
      button("Revert", act("revert", "Reverted."), { disabled: !live }),
    ),
    edit.evaluation ? "" : hint("An edit can be activated once it is evaluated."),
    problem,
    edit.evaluation ? evaluation(edit.evaluation) : "",
  );
}

function evaluation(found) {
  const rows = found.per_class.map((one) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, one.class),
      h("td", { class: "number" }, one.images),
      h("td", { class: "number" }, percent(one.accuracy_before)),
      h("td", { class: "number" }, percent(one.accuracy_after)),
      h("td", { class: "number" }, points(one)),
    ),
  );
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, "Accuracy before and after"),
    h("p", {}, `${move(found)} on ${plural(found.images, "image")} (${found.split}): ${points(found)} points.`),
    table("Accuracy per class", ["Class", "#Images", "#Before", "#After", "#Change"], rows),
    found.heads?.length > 1 && heads(found.heads),
    found.removals?.length > 0 && removals(found.removals),
  );
}

function points({ accuracy_before: before, accuracy_after: after }) {
  return before == null || after == null ? "–" : signed(100 * (after - before), 1);
}

const headName = (head) => (head === "dense" ? "all" : head.replace(/^nec/, ""));

function heads(found) {
  const rows = found.map((one) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, headName(one.head)),
      h("td", { class: "number" }, percent(one.accuracy_before)),
      h("td", { class: "number" }, percent(one.accuracy_after)),
      h("td", { class: "number" }, points(one)),
    ),
  );
  return table("Accuracy by concepts per class", ["Concepts per class", "#Before", "#After", "#Change"], rows);
}

function removals(found) {
  const rows = found.map((one) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: router.href("concepts", one.concept) }, conceptLabel(one))),
      h("td", { class: "number" }, signed(-100 * one.cost, 1)),
    ),
  );
  return table("What each removal costs", ["Removed", "#Points"], rows);
}

async function audit(root, context) {
  const section = h("section", { class: "panel" }, h("h2", {}, "Audit"));
  root.append(section);
  try {
    if (offers("GET", "/v1/audit/verify")) {
      const state = await get("/v1/audit/verify", {}, context.signal);
      section.append(auditState(state));
    }
    const answer = await get("/v1/audit", { limit: 50 }, context.signal);
    const entries = answer.entries ?? answer.audit ?? [];
    if (entries.length) section.append(auditTable(entries));
  } catch (error) {
    section.append(hint(error.message));
  }
}

function auditState(state) {
  const words = state.intact
    ? `Intact: ${plural(state.entries, "entry", "entries")}, each fits the one before.`
    : `Broken at entry ${state.broken_at}: somebody changed the record.`;
  return h("p", { class: state.intact ? "" : "failure" }, words);
}

// What an entry holds is the service's business: a column per plain field that it has.
function auditTable(entries) {
  const names = Object.keys(entries[0]).filter((name) => !/hash|digest|previous/.test(name));
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  };
  const rows = entries.map((entry) =>
    h("tr", {}, names.map((name) => h("td", {}, /created|time/.test(name) ? when(entry[name]) : cell(entry[name])))),
  );
  return table("Audit", names, rows);
}
