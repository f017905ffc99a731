// Small charts in SVG, and bars of plain elements. Each has a text equivalent.

import { h, number, percent, s, signed } from "./dom.js";

// A bar from zero for a value of either sign; `largest` is the value at the edge.
export function divergingBar(value, largest) {
  const width = `${(50 * Math.abs(value)) / (largest || 1)}%`;
  const side = value < 0 ? "against" : "for";
  return h(
    "div",
    { class: "track zero", "aria-hidden": "true" },
    h("div", { class: `bar ${side}`, style: { width } }),
  );
}

// Rows of name, diverging bar and number; `name` may be a node.
export function weightBars(rows) {
  const largest = Math.max(...rows.map((row) => Math.abs(row.value)), 1e-9);
  return h(
    "ol",
    { class: "weights" },
    rows.map((row) =>
      h(
        "li",
        {},
        h("span", { class: "name" }, row.name),
        divergingBar(row.value, largest),
        h("span", { class: "number" }, signed(row.value, row.digits ?? 2)),
      ),
    ),
  );
}

// Rows of name, bar from the left and number, for values that are not for or against anything.
export function scoreBars(rows) {
  const largest = Math.max(...rows.map((row) => row.value), 1e-9);
  const bar = (value) =>
    h("div", { class: "bar", style: { width: `${(100 * Math.max(0, value)) / largest}%` } });
  return h(
    "ol",
    { class: "weights scores" },
    rows.map((row) =>
      h(
        "li",
        {},
        h("span", { class: "name" }, row.name),
        h("div", { class: "track", "aria-hidden": "true" }, bar(row.value)),
        h("span", { class: "number" }, number(row.value)),
      ),
    ),
  );
}

const WIDE = 420;
const HIGH = 190;
const EDGE = { left: 44, right: 22, top: 12, bottom: 34 };

function frame(label, children, caption) {
  const svg = s(
    "svg",
    { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label, class: "chart" },
    children,
  );
  return h("figure", {}, svg, caption && h("figcaption", {}, caption));
}

const across = (share) => EDGE.left + share * (WIDE - EDGE.left - EDGE.right);
const up = (share) => HIGH - EDGE.bottom - share * (HIGH - EDGE.top - EDGE.bottom);

function axis(low, high, show, parts = 4) {
  const steps = Array.from({ length: parts + 1 }, (_, step) => step / parts);
  return steps.map((share) => [
    s("line", { x1: across(0), x2: across(1), y1: up(share), y2: up(share), class: "grid" }),
    s(
      "text",
      { x: EDGE.left - 6, y: up(share) + 4, "text-anchor": "end" },
      show(low + share * (high - low)),
    ),
  ]);
}

function bottom(text, x, anchor = "middle") {
  return s("text", { x, y: HIGH - EDGE.bottom + 15, "text-anchor": anchor }, text);
}

const axisName = (text) =>
  s("text", { x: across(0.5), y: HIGH - 3, "text-anchor": "middle", class: "axis" }, text);

// Bounds in steps of a round number of percent around shares: low, high, number of steps.
function tidy(least, most) {
  const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((one) => most - least <= 4 * one) ?? 0.25;
  const low = Math.max(0, Math.floor(least / step - 0.3) * step);
  const high = Math.min(1, Math.ceil(most / step + 0.3) * step);
  return [low, high, Math.max(1, Math.round((high - low) / step))];
}

// points: [{label, value}], evenly spaced; `reference`: {label, value} as a dashed line.
export function lineChart({ label, points, xName, reference, chosen }) {
  const values = points.map((point) => point.value);
  if (reference) values.push(reference.value);
  const [low, high, parts] = tidy(Math.min(...values), Math.max(...values));
  const x = (index) => across(points.length === 1 ? 0.5 : 0.04 + (0.92 * index) / (points.length - 1));
  const y = (value) => up((value - low) / (high - low || 1));
  const path = points.map((point, index) => `${index ? "L" : "M"}${x(index)},${y(point.value)}`);
  const line = reference && [
    s("line", { x1: across(0), x2: across(1), y1: y(reference.value), y2: y(reference.value), class: "reference" }),
    s("text", { x: across(1), y: y(reference.value) - 5, "text-anchor": "end" }, reference.label),
  ];
  const dots = points.map((point, index) =>
    s(
      "circle",
      { cx: x(index), cy: y(point.value), r: point.label === chosen ? 6 : 4, class: "dot" },
      s("title", {}, `${xName} ${point.label}: ${percent(point.value)}`),
    ),
  );
  return frame(
    `${label}: ${points.map((point) => `${point.label}: ${percent(point.value)}`).join(", ")}`,
    [
      axis(low, high, (value) => percent(value, 0), parts),
      line,
      s("path", { d: path.join(""), class: "line" }),
      dots,
      points.map((point, index) => bottom(point.label, x(index))),
      axisName(xName),
    ],
  );
}

// counts in equal or unequal bins, square root scale so that rare ones are seen.
export function histogram({ label, edges, counts, xName }) {
  const most = Math.max(...counts, 1);
  const low = edges[0];
  const range = edges[edges.length - 1] - low || 1;
  const x = (value) => across((value - low) / range);
  const bars = counts.map((amount, index) => {
    const top = up(Math.sqrt(amount / most));
    return s(
      "rect",
      {
        x: x(edges[index]) + 0.5,
        y: top,
        width: Math.max(x(edges[index + 1]) - x(edges[index]) - 1, 0.5),
        height: up(0) - top,
        class: "column",
      },
      s("title", {}, `${number(edges[index])} to ${number(edges[index + 1])}: ${amount}`),
    );
  });
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => [
    s("line", { x1: across(0), x2: across(1), y1: up(share), y2: up(share), class: "grid" }),
    s(
      "text",
      { x: EDGE.left - 6, y: up(share) + 4, "text-anchor": "end" },
      Math.round(most * share * share),
    ),
  ]);
  return frame(
    `${label}: ${counts.length} bins from ${number(low)} to ${number(low + range)}, at most ${most} images in one`,
    [
      marks,
      bars,
      bottom(number(low), across(0), "start"),
      bottom(number(low + range), across(1), "end"),
      axisName(xName),
    ],
  );
}

// bins: [{confidence, accuracy, images}], all shares between 0 and 1.
export function reliability(bins) {
  const most = Math.max(...bins.map((bin) => bin.images), 1);
  const dots = bins
    .filter((bin) => bin.images > 0)
    .map((bin) =>
      s(
        "circle",
        {
          cx: across(bin.confidence),
          cy: up(bin.accuracy),
          r: 3 + 7 * Math.sqrt(bin.images / most),
          class: "dot soft",
        },
        s(
          "title",
          {},
          `said ${percent(bin.confidence)}, right ${percent(bin.accuracy)}, ${bin.images} images`,
        ),
      ),
    );
  return frame(
    "Calibration: share of right answers against the probability that was said",
    [
      axis(0, 1, (value) => percent(value, 0)),
      s("line", { x1: across(0), y1: up(0), x2: across(1), y2: up(1), class: "reference" }),
      dots,
      [0, 0.5, 1].map((share) => bottom(percent(share, 0), across(share))),
      axisName("probability that was said"),
    ],
    "On the dashed line a stated probability is right as often as it says.",
  );
}
