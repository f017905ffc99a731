// Classes: what each looks for, and how well the model tells them apart.

import { get, offers, part } from "./api.js";
import { lineChart, reliability, weightBars } from "./charts.js";
import { confusion } from "./confusion.js";
import { button, conceptLabel, failure, field, h, hint, percent, plural, put, select } from "./dom.js";
import * as router from "./router.js";

export const title = "Classes";
const SHOWN = 30;

export async function mount(root, context) {
  const view = new Classes(root, context);
  view.draw();
  await Promise.all([view.loadWeights(), view.loadEvaluation()]);
  return { update: (next) => view.update(next) };
}

class Classes {
  constructor(root, context) {
    Object.assign(this, { root, context });
    this.tools = h("div", { class: "tools" });
    this.weights = h("section", { class: "panel" });
    this.measures = h("div", { class: "columns" });
  }

  get name() {
    return this.context.route.arg || this.context.model.classes[0];
  }

  get nec() {
    return this.context.route.query.get("nec") ?? "";
  }

  draw() {
    const halves = h("div", { class: "halves" }, this.weights, this.measures);
    this.root.append(h("h1", {}, title), this.tools, halves);
    this.drawTools();
  }

  drawTools() {
    const { model } = this.context;
    const names = model.classes.map((name) => [name, name]);
    const sizes = model.effective_concepts.map((value) => [value, String(value)]);
    put(
    this.tools,
      field("Class", select(names, this.name, (name) => router.go("classes", name), { id: "class" })),
      field("Concepts per class", select([["", "all"], ...sizes], this.nec, (nec) => router.change({ nec }))),
    );
  }

  update(context) {
    this.context = { ...context, signal: this.context.signal };
    this.drawTools();
    this.loadWeights();
    if (this.evaluation) this.drawMeasures();
  }

  async loadWeights(offset = 0) {
    const { model, signal } = this.context;
    const path = `/v1/models/${part(model.id)}/classes/${part(this.name)}`;
    try {
      const query = { nec: this.nec, limit: SHOWN, offset };
      const found = await get(path, query, signal);
      this.drawWeights(found, offset);
    } catch (error) {
      if (!signal.aborted) put(this.weights, failure(error));
    }
  }

  drawWeights(found, offset) {
    const rows = found.weights.map((one) => ({
      name: h("a", { href: router.href("concepts", one.concept) }, conceptLabel(one)),
      value: one.weight,
    }));
    const last = offset + rows.length;
    const pager = h(
      "div",
      { class: "pager" },
      button("Stronger", () => this.loadWeights(Math.max(0, offset - SHOWN)), { disabled: offset === 0 }),
      h("span", { class: "hint" }, `${offset + 1} to ${last} of ${plural(found.total, "concept")}`),
      button("Weaker", () => this.loadWeights(last), { disabled: last >= found.total }),
    );
    put(
    this.weights,
      h("h2", {}, `What ${found.class} looks for`),
      h("p", { class: "hint" }, "Weights of its concepts; + speaks for the class, − against it."),
      weightBars(rows),
      found.total > SHOWN ? pager : "",
    );
  }

  async loadEvaluation() {
    const { model, signal } = this.context;
    try {
      this.evaluation = offers("GET", "/v1/models/{}/evaluation")
        ? await get(`/v1/models/${part(model.id)}/evaluation`, {}, signal)
        : await fromDetails(model, signal);
      this.drawMeasures();
    } catch (error) {
      if (signal.aborted) return;
      put(this.measures, hint(error.message));
    }
  }

  drawMeasures() {
    const found = this.evaluation;
    put(
    this.measures,
      ...[
        accuracy(found, this.nec),
        calibration(found.calibration),
        random(found.random_control, found.accuracy),
        confusion(found, (name) => router.href("classes", name)),
        found.reason ? h("section", { class: "panel wide" }, hint(found.reason)) : null,
      ].filter(Boolean),
    );
  }
}

// Without the route, the accuracies that were measured when the model was made.
async function fromDetails(model, signal) {
  const { details } = await get(`/v1/models/${part(model.id)}`, {}, signal);
  const written = details.metrics?.accuracy;
  const measured = typeof written === "number" ? { dense: written } : (written?.test ?? {});
  const nec = Object.entries(measured)
    .filter(([name]) => name.startsWith("nec"))
    .map(([name, value]) => ({ effective_concepts: Number(name.slice(3)), accuracy: value }))
    .sort((one, other) => one.effective_concepts - other.effective_concepts);
  return { accuracy: measured.dense ?? null, nec, split: "test", confused_by: [] };
}

function accuracy(found, nec) {
  if (!found.nec?.length && found.accuracy == null) return null;
  const points = found.nec.map((one) => ({
    label: String(one.effective_concepts),
    value: one.accuracy,
  }));
  const reference = found.accuracy == null ? null : { label: `all: ${percent(found.accuracy)}`, value: found.accuracy };
  const where = [found.split, found.images && plural(found.images, "image")].filter(Boolean);
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, "Accuracy by concepts per class"),
    points.length
      ? lineChart({ label: "Accuracy", points, reference, chosen: nec, xName: "concepts per class" })
      : h("p", { class: "big" }, percent(found.accuracy)),
    where.length ? hint(`Measured on ${where.join(", ")}.`) : null,
  );
}

function calibration(found) {
  if (!found) return null;
  const facts = [
    ["error before", found.ece],
    ["error after", found.ece_calibrated],
  ].filter(([, value]) => typeof value === "number");
  const words = facts.map(([name, value]) => `${name} ${percent(value)}`).join(", ");
  const temperature = found.temperature ? `temperature ${found.temperature.toFixed(2)}` : "";
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, "Calibration"),
    found.bins?.length ? reliability(found.bins) : null,
    hint([words, temperature].filter(Boolean).join("; ") || "Not measured."),
  );
}

function random(found, own) {
  const value = found && (found.accuracy ?? found.test_accuracy);
  if (typeof value !== "number") return null;
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, "Random concepts instead"),
    h("p", { class: "big" }, percent(value)),
    hint(`The same head on as many random directions; with the concepts found: ${percent(own)}.`),
  );
}
