// One row of the waterfall: a name, a bar from the running sum to the next, a number, controls.

import { conceptLabel, h, number, plainName, signed } from "./dom.js";

const WORDS = { bias: "bias of the class", remainder: "all other concepts", logit: "sum = logit" };

export function waterfallRow({ step, before, was, span, changes, changed, seen }) {
  const { row, kind } = step;
  const moved = before && Math.abs(before.value - step.value) > 1e-9;
  return h(
    "li",
    { class: `step ${kind}${moved ? " moved" : ""}` },
    row ? nameButton(row, seen) : h("span", { class: "name" }, WORDS[kind]),
    bar(step, moved ? before : null, span),
    h(
      "span",
      { class: "number" },
      moved && h("s", {}, signed(before.value)),
      moved && " ",
      signed(step.value),
    ),
    row && changes && controls(row, was, changes, changed),
  );
}

// Pointing at a name shows where it is in the photo, and training images that have it.
function nameButton(row, seen) {
  const show = () => seen(row);
  return h(
    "button",
    {
      type: "button",
      class: "name",
      "data-control": `name ${row.key}`,
      on: { focus: show, mouseenter: show, click: show },
    },
    conceptLabel(row),
  );
}

const place = (value, span) => (100 * (value - span.low)) / span.range;

function bar(step, before, span) {
  return h(
    "div",
    { class: "track", "aria-hidden": "true" },
    h("div", { class: "zero-line", style: { left: `${place(0, span)}%` } }),
    before && h("div", { class: "bar before", style: position(before, span) }),
    h("div", { class: `bar ${kindOf(step)}`, style: position(step, span) }),
  );
}

function kindOf(step) {
  if (step.kind === "logit") return "sum";
  return step.value < 0 ? "against" : "for";
}

function position(step, span) {
  const left = place(Math.min(step.from, step.to), span);
  const width = (100 * Math.abs(step.to - step.from)) / span.range;
  return { left: `${left}%`, width: `max(${width}%, 1px)` };
}

function controls(row, was, changes, changed) {
  const change = changes.of(row);
  const name = plainName(row);
  const current = valueOf(change, was);
  const output = h("output", { class: "number" }, number(current));
  const slider = h("input", {
    type: "range",
    min: 0,
    max: mostOf(row, was),
    step: mostOf(row, was) / 200,
    value: current,
    "aria-label": `Code of ${name}`,
    "data-control": `slider ${row.key}`,
    on: {
      input: () => {
        changes.set(was, Number(slider.value));
        output.textContent = number(Number(slider.value));
        changed();
      },
    },
  });
  const toggle = h("button", {
    type: "button",
    role: "switch",
    "aria-checked": String(!change?.remove),
    "aria-label": `${name} counts`,
    "data-control": `switch ${row.key}`,
    on: {
      click: () => {
        const on = toggle.getAttribute("aria-checked") === "true";
        toggle.setAttribute("aria-checked", String(!on));
        if (on) changes.remove(was);
        else changes.restore(was);
        changed();
      },
    },
  });
  const undo = h(
    "button",
    {
      type: "button",
      class: "undo",
      "aria-label": `Undo the change of ${name}`,
      "data-control": `undo ${row.key}`,
      disabled: !change,
      on: {
        click: () => {
          changes.restore(was);
          changed();
        },
      },
    },
    "↺",
  );
  return h("div", { class: "controls" }, toggle, slider, output, undo);
}

function valueOf(change, was) {
  if (!change) return was.code;
  if (change.remove) return 0;
  return change.scale === undefined ? change.set : change.scale * was.code;
}

function mostOf(row, was) {
  return Math.max(was.most ?? 0, 2 * was.code, 1e-3);
}
