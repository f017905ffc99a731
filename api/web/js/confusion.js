// The confusion matrix; a cell tells which concepts led from one class to the other.

import { conceptLabel, h, hint, percent, plural, put } from "./dom.js";
import { weightBars } from "./charts.js";
import * as router from "./router.js";

const MOST = 40; // larger tables are read as the list of mistakes

export function confusion(found, classHref) {
  const matrix = found.confusion;
  if (!matrix) return null;
  const place = h("div", { class: "confused-by", "aria-live": "polite" });
  const pick = (row, column) =>
    put(place, ...confusedBy(found, matrix.classes[row], matrix.classes[column], matrix.counts[row][column]));
  const mistakes = found.confused_by ?? [];
  if (mistakes.length) place.append(...reasons(mistakes[0]));
  return h(
    "section",
    { class: "panel wide" },
    h("h2", {}, "Confusion"),
    matrix.classes.length <= MOST ? grid(matrix, pick, classHref) : mistakeList(mistakes, place),
    place,
  );
}

function grid(matrix, pick, classHref) {
  const totals = matrix.counts.map((row) => row.reduce((sum, one) => sum + one, 0));
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "true \\ predicted"),
    matrix.classes.map((name) => h("th", { scope: "col", class: "slant" }, name)),
  );
  const rows = matrix.counts.map((row, r) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: classHref(matrix.classes[r]) }, matrix.classes[r])),
      row.map((value, c) => cell(matrix, totals, value, r, c, pick)),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" },
    h("table", { class: "matrix" }, h("thead", {}, head), h("tbody", {}, rows)),
  );
}

function cell(matrix, totals, value, row, column, pick) {
  const share = totals[row] ? value / totals[row] : 0;
  const right = row === column;
  const style = { "--share": Math.sqrt(share).toFixed(2) };
  const words = `${matrix.classes[row]} taken for ${matrix.classes[column]}: ${plural(value, "image")}, ${percent(share)}`;
  const content =
    right || value === 0
      ? String(value)
      : h("button", { type: "button", title: words, "aria-label": words, on: { click: () => pick(row, column) } }, value);
  return h("td", { class: right ? "right" : "wrong", style, title: words }, content);
}

function confusedBy(found, truth, predicted, images) {
  const known = (found.confused_by ?? []).find(
    (one) => one.true === truth && one.predicted === predicted,
  );
  if (known) return reasons(known);
  return [
    h("h3", {}, `${truth} taken for ${predicted}`),
    hint(`${plural(images, "image")}; which concepts led there was not kept.`),
  ];
}

function reasons(one) {
  const rows = one.concepts.map((item) => ({
    name: h("a", { href: router.href("concepts", item.concept) }, conceptLabel(item)),
    value: item.contribution,
  }));
  return [
    h("h3", {}, `${one.true} taken for ${one.predicted}: ${plural(one.images, "image")}`),
    hint(`Concepts that add more to ${one.predicted} than to ${one.true}.`),
    weightBars(rows),
  ];
}

function mistakeList(mistakes, place) {
  const items = mistakes.map((one) =>
    h(
      "li",
      {},
      h(
        "button",
        { type: "button", on: { click: () => put(place, ...reasons(one)) } },
        `${one.true} taken for ${one.predicted}: ${one.images}`,
      ),
    ),
  );
  return h("ol", { class: "mistakes" }, items);
}
