// One concept: the evidence for its name, what it does in the classes, and edits to it.

import { get, offers, part } from "./api.js";
import { histogram, scoreBars, weightBars } from "./charts.js";
import { button, conceptLabel, field, h, hint, number, percent } from "./dom.js";
import { addOperation, draftPanel, mergeInto, mergeParts } from "./draft.js";
import { exampleImages } from "./photo.js";
import * as router from "./router.js";

const IMAGES = 24;

export async function mount(root, context) {
  const { dictionary } = context.model;
  const path = `/v1/dictionaries/${part(dictionary)}/concepts/${part(context.route.arg)}`;
  const item = await get(path, {}, context.signal);
  const images = h("div", { class: "thumbs many" });
  root.append(
    h("p", { class: "back" }, h("a", { href: router.href("concepts") }, "All concepts")),
    h("h1", {}, conceptLabel(item)),
    facts(item),
    h(
      "div",
      { class: "columns" },
      h("section", { class: "panel wide" }, h("h2", {}, "Images in which it is strongest"), images),
      h("section", { class: "panel" }, h("h2", {}, "What else it could be called"), alternatives(item)),
      codes(item),
      classes(item, context),
      editing(item, context),
    ),
  );
  images.append(...(await exampleImages(dictionary, item.concept, IMAGES, context.signal)));
  if (!images.childNodes.length) images.append(hint("No image was kept."));
}

function facts(item) {
  const pairs = [
    ["Status", item.status],
    ["Score", number(item.score)],
    ["Margin", number(item.margin, 3)],
    ["Active in", percent(item.density)],
    ["Mean code", number(item.mean_code)],
    ["Largest code", number(item.max_code)],
  ];
  return h(
    "ul",
    { class: "figures" },
    pairs.map(([name, value]) => h("li", {}, h("span", {}, name), " ", h("b", {}, value))),
  );
}

function alternatives(item) {
  if (!item.alternatives.length) return hint("No other word came near.");
  return scoreBars(item.alternatives.map((one) => ({ name: one.name, value: one.score })));
}

function codes(item) {
  if (item.histogram === undefined) return null;
  const chart = item.histogram
    ? histogram({ label: "Codes of the training images", xName: "code, where it is active", ...item.histogram })
    : hint("The codes of the training images were not kept.");
  return h("section", { class: "panel" }, h("h2", {}, "Codes"), chart);
}

function classes(item) {
  if (!item.classes) return null;
  const rows = item.classes.slice(0, 12).map((one) => ({
    name: h("a", { href: router.href("classes", one.class) }, one.class),
    value: one.weight,
  }));
  const shown = rows.length ? weightBars(rows) : hint("No class has a weight for it.");
  return h("section", { class: "panel" }, h("h2", {}, "Classes it speaks for and against"), shown);
}

function editing(item, context) {
  if (!offers("POST", "/v1/models/{}/edits")) {
    return h("section", { class: "panel" }, h("h2", {}, "Edit"), hint("This service takes no edits."));
  }
  const redraw = () => {
    const fresh = draftPanel(context);
    panel.replaceWith(fresh);
    panel = fresh;
  };
  let panel = draftPanel(context);
  const add = (operation) => {
    addOperation(context, operation);
    redraw();
    context.say("Added to the draft.");
  };
  return h(
    "section",
    { class: "panel wide" },
    h("h2", {}, "Edit"),
    hint("Edits are collected in a draft. Nothing changes before the draft is evaluated and activated."),
    renaming(item, add),
    h(
      "div",
      { class: "row" },
      button("Remove from the model", () => add({ op: "remove", concept: item.concept })),
      button("Block the name", () => add({ op: "block", concept: item.concept })),
    ),
    merging(item, context, add),
    panel,
  );
}

function renaming(item, add) {
  const list = h("datalist", { id: "other-names" }, item.alternatives.map((one) => h("option", { value: one.name })));
  const input = h("input", { type: "text", list: "other-names", required: true, maxlength: 200 });
  return h(
    "form",
    {
      class: "row",
      on: {
        submit: (event) => {
          event.preventDefault();
          if (input.value.trim()) {
            add({ op: "rename", concept: item.concept, name: input.value.trim() });
            input.value = "";
          }
        },
      },
    },
    field("New name", input),
    list,
    h("button", {}, "Rename"),
  );
}

// Merging takes several concepts: they are collected while one looks at them.
function merging(item, context, add) {
  const name = h("input", { type: "text", required: true, maxlength: 200, value: item.name });
  const chosen = () => mergeParts(context);
  const words = h("p", { class: "hint", "aria-live": "polite" });
  const draw = () => {
    const others = chosen();
    words.textContent = others.length
      ? `To merge: ${others.map((one) => `#${one}`).join(", ")}`
      : "Mark two or more concepts to give them one name.";
    merge.disabled = others.length < 2;
    mark.textContent = others.includes(item.concept) ? "Unmark" : "Mark for merging";
  };
  const mark = button("", () => {
    mergeInto(context, item.concept);
    draw();
  });
  const merge = h("button", {}, "Merge");
  const form = h(
    "form",
    {
      class: "row",
      on: {
        submit: (event) => {
          event.preventDefault();
          add({ op: "merge", concepts: chosen(), name: name.value.trim() });
          for (const one of chosen()) mergeInto(context, one);
          draw();
        },
      },
    },
    mark,
    field("Common name", name),
    merge,
  );
  draw();
  return h("div", {}, form, words);
}
