// A draft edit: operations collected in this tab, saved to the service with author and reason.

import { call, offers, part } from "./api.js";
import { button, failure, field, h, hint, plural, put } from "./dom.js";
import * as router from "./router.js";

const AUTHOR = "dncbm-author";

// Who edits here, as they said last.
export const author = () => sessionStorage.getItem(AUTHOR) ?? "";

const keyOf = (context, kind) => `dncbm-${kind} ${context.model.id}`;

function load(context, kind) {
  return JSON.parse(sessionStorage.getItem(keyOf(context, kind)) ?? "[]");
}

function store(context, kind, items) {
  sessionStorage.setItem(keyOf(context, kind), JSON.stringify(items));
}

export const operationsOf = (context) => load(context, "draft");

export function addOperation(context, operation) {
  store(context, "draft", [...operationsOf(context), operation]);
}

export const mergeParts = (context) => load(context, "merge");

// Marks a concept for merging, or unmarks it.
export function mergeInto(context, concept) {
  const marked = mergeParts(context);
  const left = marked.filter((one) => one !== concept);
  store(context, "merge", left.length < marked.length ? left : [...marked, concept]);
}

// An operation in words.
export function wordsOf(operation) {
  const { op, concept, concepts, name } = operation;
  if (op === "rename") return `Call #${concept} “${name}”`;
  if (op === "remove") return `Remove #${concept} from the model`;
  if (op === "block") return `Block the name of #${concept}`;
  if (op === "merge") return `Merge ${concepts.map((one) => `#${one}`).join(", ")} as “${name}”`;
  if (op === "set_weight") return `Set the weight of #${concept} for ${operation.class} to ${operation.weight}`;
  if (op === "refit") return "Fit the weights anew";
  return JSON.stringify(operation);
}

export function draftPanel(context) {
  const root = h("section", { class: "panel draft", "aria-label": "Draft edit" });
  draw(root, context);
  return root;
}

function draw(root, context) {
  const operations = operationsOf(context);
  root.hidden = operations.length === 0 || !offers("POST", "/v1/models/{}/edits");
  if (root.hidden) {
    put(root);
    return;
  }
  const keep = (items) => {
    store(context, "draft", items);
    draw(root, context);
  };
  const items = operations.map((operation, index) =>
    h(
      "li",
      {},
      wordsOf(operation),
      " ",
      button("×", () => keep(operations.filter((_, place) => place !== index)), {
        class: "small",
        "aria-label": `Take out: ${wordsOf(operation)}`,
      }),
    ),
  );
  put(
    root,
    h("h2", {}, `Draft: ${plural(operations.length, "operation")}`),
    h("ol", { class: "operations" }, items),
    saving(context, operations, keep),
  );
}

function saving(context, operations, keep) {
  const who = h("input", { type: "text", required: true, maxlength: 200, value: author() });
  const reason = h("input", { type: "text", required: true, maxlength: 1000 });
  const refit = operations.some((one) => one.op === "refit");
  const place = h("div", {});
  const save = async (event) => {
    event.preventDefault();
    sessionStorage.setItem(AUTHOR, who.value);
    try {
      const json = { operations, author: who.value, reason: reason.value };
      const edit = await call("POST", `/v1/models/${part(context.model.id)}/edits`, { json });
      keep([]);
      router.go("edits", edit.id);
    } catch (error) {
      put(place, failure(error));
    }
  };
  return h(
    "form",
    { on: { submit: save } },
    refit ? null : h("p", {}, button("Also fit the weights anew", () => keep([...operations, { op: "refit" }]))),
    h(
      "div",
      { class: "row" },
      field("Author", who),
      field("Reason", reason),
      h("button", { class: "main" }, "Save the draft"),
      button("Discard", () => keep([])),
    ),
    hint("Saved drafts are evaluated and activated under Edits."),
    place,
  );
}
