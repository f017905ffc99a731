// Concepts as cards or as a table. Pictures, and numbers that a search does not bring along, are
// asked for when an item comes into sight, a few at a time.

import { get, part } from "./api.js";
import { conceptLabel, h, number, percent, put } from "./dom.js";
import { exampleImages } from "./photo.js";
import * as router from "./router.js";

const AT_ONCE = 4;
const waiting = [];
let running = 0;

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      sight.unobserve(entry.target);
      waiting.push(entry.target.inSight);
    }
    work();
  },
  { rootMargin: "200px" },
);

function whenSeen(node, task) {
  node.inSight = task;
  sight.observe(node);
}

async function work() {
  if (running >= AT_ONCE || !waiting.length) return;
  running += 1;
  const task = waiting.shift();
  work();
  try {
    await task();
  } catch {
    // a picture that does not come leaves its place empty
  }
  running -= 1;
  work();
}

export function conceptCard(item, context) {
  const images = h("div", { class: "thumbs four" });
  const facts = h("p", { class: "facts" });
  const card = h(
    "a",
    { class: `card ${item.status ?? ""}`, href: router.href("concepts", item.concept) },
    h("span", { class: "title" }, conceptLabel(item)),
    images,
    facts,
  );
  facts.append(...factsOf(item));
  whenSeen(card, async () => {
    if (context.signal.aborted) return;
    const { dictionary } = context.model;
    images.append(...(await exampleImages(dictionary, item.concept, 4, context.signal)));
    if (item.density !== undefined) return;
    const full = await details(dictionary, item.concept, context.signal);
    card.classList.add(full.status);
    put(facts, ...factsOf({ ...full, measure: item.measure }));
  });
  return card;
}

const details = (dictionary, concept, signal) =>
  get(`/v1/dictionaries/${part(dictionary)}/concepts/${concept}`, {}, signal);

function factsOf(item) {
  const facts = [];
  if (item.measure) facts.push([item.measure[0], number(item.measure[1])]);
  if (item.density !== undefined) facts.push(["in", percent(item.density)]);
  if (item.score !== undefined) facts.push(["score", number(item.score)]);
  if (item.margin !== undefined) facts.push(["margin", number(item.margin, 3)]);
  const words = facts.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value)));
  if (item.status && item.status !== "named") words.push(h("span", { class: "badge" }, item.status));
  return words;
}

const COLUMNS = [
  ["density", (item) => percent(item.density)],
  ["score", (item) => number(item.score)],
  ["margin", (item) => number(item.margin, 3)],
  ["mean_code", (item) => number(item.mean_code)],
  ["max_code", (item) => number(item.max_code)],
];
const HEADS = { density: "Density", score: "Score", margin: "Margin", mean_code: "Mean code", max_code: "Largest" };

export function conceptTable(items, context) {
  const measure = items[0]?.measure?.[0];
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "Images"),
    h("th", { scope: "col" }, "Concept"),
    measure && h("th", { scope: "col", class: "number" }, measure),
    h("th", { scope: "col" }, "Status"),
    COLUMNS.map(([name]) => h("th", { scope: "col", class: "number" }, HEADS[name])),
  );
  const rows = items.map((item) => tableRow(item, context));
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of concepts" },
    h("table", {}, h("thead", {}, head), h("tbody", {}, rows)),
  );
}

function tableRow(item, context) {
  const images = h("td", { class: "thumbs row-thumbs" });
  const row = h("tr", {});
  const draw = (full) =>
    put(
    row,
      images,
      h("th", { scope: "row" }, h("a", { href: router.href("concepts", item.concept) }, conceptLabel(item))),
      item.measure ? h("td", { class: "number" }, number(item.measure[1])) : "",
      h("td", {}, full.status ?? ""),
      ...COLUMNS.map(([name, show]) => h("td", { class: "number" }, full[name] === undefined ? "" : show(full))),
    );
  draw(item);
  whenSeen(row, async () => {
    if (context.signal.aborted) return;
    const { dictionary } = context.model;
    images.append(...(await exampleImages(dictionary, item.concept, 3, context.signal)));
    if (item.density === undefined) draw(await details(dictionary, item.concept, context.signal));
  });
  return row;
}
