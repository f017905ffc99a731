// Models: what is served, under which aliases, and what it was made from.

import { call, get, offers, part } from "./api.js";
import { button, count, failure, field, h, hint, plural, put, select, when } from "./dom.js";
import { table } from "./edits.js";
import * as router from "./router.js";

export const title = "Models";
const CLASSES = 8;

export async function mount(root, context) {
  root.append(h("h1", {}, title), modelTable(context));
  if (offers("GET", "/v1/aliases")) root.append(aliases(context));
  if (offers("GET", "/v1/models/{}/lineage") && context.model) await lineage(root, context);
}

function modelTable({ models }) {
  const reports = new Set(JSON.parse(document.getElementById("view").dataset.reports));
  const rows = models.list.map((model) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: router.href("decide", "", { model: model.id, nec: "" }) }, model.id)),
      h("td", {}, classWords(model.classes)),
      h("td", { class: "number" }, count(model.num_concepts)),
      h("td", {}, model.effective_concepts.join(", ") || "–"),
      h("td", {}, names(models.aliases, model.id)),
      h("td", {}, reports.has(model.id) ? h("a", { href: `/report/${part(model.id)}` }, "open") : "none"),
    ),
  );
  if (!rows.length) return hint("No model is loaded.");
  return table("Models", ["Model", "Classes", "#Concepts", "Concepts per class", "Aliases", "Report"], rows);
}

function classWords(classes) {
  const shown = classes.slice(0, CLASSES).join(", ");
  return classes.length > CLASSES ? `${shown} and ${classes.length - CLASSES} more` : shown;
}

const names = (list, id) =>
  list.filter((one) => one.model === id).map((one) => one.alias).join(", ") || "–";

function aliases(context) {
  const section = h("section", { class: "panel" });
  const place = h("div", {});
  const act = async (method, alias, request) => {
    try {
      await call(method, `/v1/aliases/${part(alias)}`, request);
      context.models = await context.reload();
      draw();
      context.say(`Alias ${alias} ${method === "PUT" ? "set" : "removed"}.`);
    } catch (error) {
      put(place, failure(error));
    }
  };
  const draw = () => {
    const list = context.models.aliases.map((one) => aliasRow(one, () => act("DELETE", one.alias)));
    put(
    section,
      h("h2", {}, "Aliases"),
      hint("An alias stands for a model in addresses and programs, and can be pointed at another one."),
      list.length ? h("ul", { class: "plain" }, list) : hint("There is none."),
      aliasForm(context, (alias, json) => act("PUT", alias, { json })),
      place,
    );
  };
  draw();
  return section;
}

function aliasRow(one, remove) {
  return h(
    "li",
    { class: "row centred" },
    h("b", {}, one.alias),
    h("span", {}, `→ ${one.model}`),
    one.author && h("span", { class: "hint" }, [one.author, one.reason].filter(Boolean).join(": ")),
    offers("DELETE", "/v1/aliases/{}") && button("Remove", remove, { "aria-label": `Remove alias ${one.alias}` }),
  );
}

function aliasForm(context, set) {
  if (!offers("PUT", "/v1/aliases/{}")) return null;
  const alias = h("input", { type: "text", required: true, maxlength: 100 });
  const author = h("input", { type: "text", required: true, maxlength: 200 });
  const reason = h("input", { type: "text", required: true, maxlength: 1000 });
  const model = select(context.models.list.map((one) => [one.id, one.id]), context.model?.id, () => {});
  const submit = (event) => {
    event.preventDefault();
    set(alias.value.trim(), { model: model.value, author: author.value, reason: reason.value });
  };
  return h(
    "form",
    { class: "row", on: { submit } },
    field("Alias", alias),
    field("stands for", model),
    field("Author", author),
    field("Reason", reason),
    h("button", {}, "Set"),
  );
}

async function lineage(root, context) {
  const section = h("section", { class: "panel" }, h("h2", {}, `What ${context.model.id} was made from`));
  root.append(section);
  try {
    const found = await get(`/v1/models/${part(context.model.id)}/lineage`, {}, context.signal);
    section.append(h("ul", { class: "tree" }, artifact(found.lineage ?? found, context.model.id)));
  } catch (error) {
    section.append(hint(error.message));
  }
}

// An artifact and its inputs, however deep; inputs are a list, or a mapping by role.
function artifact(item, role) {
  const inputs = Array.isArray(item.inputs)
    ? item.inputs.map((one) => [one.role ?? one.kind ?? "", one])
    : Object.entries(item.inputs ?? {});
  return h(
    "li",
    {},
    h("b", {}, item.kind ?? role),
    item.fingerprint && h("code", {}, ` ${String(item.fingerprint).slice(0, 12)}`),
    item.created && h("span", { class: "hint" }, ` ${when(item.created)}`),
    inputs.length > 0 &&
      h("ul", { "aria-label": plural(inputs.length, "input") }, inputs.map(([name, one]) => input(name, one))),
  );
}

function input(name, one) {
  if (typeof one === "object" && one !== null) return artifact(one, name);
  return h("li", {}, `${name} `, h("code", {}, String(one).slice(0, 12)));
}
