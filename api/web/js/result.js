// One photo's decision: class bars, the waterfall of the chosen class, and what changes do to it.

import { aborted, call, offers, part } from "./api.js";
import { classesOf, extent, rowsAfter, rowsOf, scoreOf, steps } from "./account.js";
import { Changes } from "./changes.js";
import { button, debounce, h, hint, percent, put, signed } from "./dom.js";
import { PhotoPanel } from "./photo.js";
import * as router from "./router.js";
import { similarImages } from "./similar.js";
import { waterfallRow } from "./waterfall.js";

const LISTED_AFTER = 200; // enough that every concept with a switch is in the answer

export class Result {
  constructor(photo, context, settings) {
    this.photo = photo;
    this.context = context;
    this.settings = settings;
    this.canIntervene = offers("POST", "/v1/models/{}/intervene");
    photo.changes ??= new Changes();
    this.changes = photo.changes;
    this.after = null;
    this.panel = new PhotoPanel(photo, context, settings);
    this.bars = h("div", { class: "classes", role: "radiogroup", "aria-label": "Class to explain" });
    this.account = h("ol", { class: this.canIntervene ? "waterfall" : "waterfall fixed" });
    this.note = h("p", { class: "hint", "aria-live": "polite" });
    this.apply = debounce(() => this.intervene(), 150);
    this.root = this.layout();
    if (!this.changes.empty) this.intervene();
  }

  layout() {
    const reset = button("Reset", () => this.reset(), { class: "reset" });
    this.resetButton = reset;
    return h(
      "div",
      { class: "decision" },
      this.panel.root,
      h(
        "div",
        { class: "reasons" },
        h("section", { class: "panel" }, h("h2", {}, "Decision"), this.bars),
        h(
          "section",
          { class: "panel" },
          h("div", { class: "row between" }, (this.heading = h("h2", {})), reset),
          this.canIntervene ? null : hint("This service cannot change concepts."),
          this.account,
          this.note,
          this.canIntervene ? this.adder() : null,
        ),
        similarImages(this.photo, this.context),
      ),
    );
  }

  // Which class is explained; without one, the decision itself.
  choose(name) {
    this.className = scoreOf(this.photo.answer, name ?? this.photo.answer.class).class;
    this.draw();
  }

  draw() {
    this.drawClasses();
    this.drawAccount();
  }

  drawClasses() {
    const before = classesOf(this.photo.answer);
    const held = this.bars.contains(document.activeElement);
    this.bars.classList.toggle("changed", this.after !== null);
    put(this.bars, ...before.map((score) => this.classBar(score)));
    if (held) this.bars.querySelector("input:checked")?.focus();
  }

  classBar(score) {
    const now = this.after ? scoreIn(this.after.after, score.class) : null;
    const best = this.after ? this.after.after.class : this.photo.answer.class;
    const input = h("input", {
      type: "radio",
      name: "explained-class",
      value: score.class,
      checked: score.class === this.className,
      on: { change: () => router.change({ class: score.class }, { replace: true }) },
    });
    const words = now
      ? [h("s", {}, percent(score.probability)), " ", percent(now.probability)]
      : percent(score.probability);
    return h(
      "label",
      { class: score.class === best ? "class best" : "class" },
      input,
      h("span", { class: "name" }, score.class),
      h(
        "span",
        { class: "track", "aria-hidden": "true" },
        now && h("span", { class: "bar before", style: { width: percent(score.probability, 2).replace(" ", "") } }),
        h("span", {
          class: "bar",
          style: { width: percent((now ?? score).probability, 2).replace(" ", "") },
        }),
      ),
      h("span", { class: "number" }, words),
    );
  }

  drawAccount() {
    const score = scoreOf(this.photo.answer, this.className);
    const rows = rowsOf(score, this.changes.added);
    const now = this.after && scoreIn(this.after.after, this.className);
    const currentRows = now ? rowsAfter(rows, now, this.after.changed) : rows;
    const before = steps(score, rows);
    const current = steps(now ?? score, currentRows);
    const span = extent([before, current]);
    this.heading.textContent = `Why ${this.className}`;
    this.resetButton.hidden = this.changes.empty && !this.changes.added.length;
    const held = document.activeElement?.dataset?.control;
    put(
    this.account,
      ...current.map((step, index) =>
        waterfallRow({
          step,
          before: now ? before[index] : null,
          was: before[index].row,
          span,
          changes: this.canIntervene ? this.changes : null,
          changed: () => this.apply(),
          seen: (row) => this.panel.show(row),
        }),
      ),
    );
    if (held) this.account.querySelector(`[data-control="${CSS.escape(held)}"]`)?.focus();
    this.sayMove(score, now);
  }

  sayMove(score, now) {
    if (!now) {
      this.note.textContent = "";
      return;
    }
    const best = this.photo.answer;
    const after = this.after.after;
    const words =
      best.class === after.class
        ? `Still ${after.class}, ${percent(best.probability)} → ${percent(after.probability)}.`
        : `Now ${after.class}, ${percent(after.probability)}, instead of ${best.class}.`;
    this.note.textContent = `${words} Logit of ${this.className}: ${signed(score.logit)} → ${signed(now.logit)}.`;
  }

  async intervene() {
    this.running?.abort();
    if (this.changes.empty) {
      this.after = null;
      this.draw();
      return;
    }
    this.running = new AbortController();
    const { model, nec } = this.settings;
    const query = {
      nec,
      by: "concept",
      top_contributions: LISTED_AFTER,
      top_classes: classesOf(this.photo.answer).length,
    };
    try {
      const answer = await call("POST", `/v1/models/${part(model)}/intervene`, {
        query,
        files: [this.photo.file],
        fields: { changes: JSON.stringify(this.changes.list()) },
        signal: this.running.signal,
        patient: true,
      });
      [this.after] = answer.interventions;
      this.draw();
    } catch (error) {
      if (!aborted(error)) this.note.textContent = error.message;
    }
  }

  reset() {
    this.changes.clear();
    this.intervene();
    this.bars.querySelector("input:checked")?.focus();
  }

  // A concept that the photo does not show can be put in.
  adder() {
    const input = h("input", { id: "add-concept", type: "text", autocomplete: "off" });
    const form = h(
      "form",
      {
        class: "row adder",
        on: {
          submit: (event) => {
            event.preventDefault();
            this.add(input);
          },
        },
      },
      h("label", { for: "add-concept" }, "Add a concept"),
      input,
      h("button", {}, "Add"),
    );
    return form;
  }

  async add(input) {
    const wanted = input.value.trim();
    if (!wanted) return;
    const dictionary = part(this.context.model.dictionary);
    try {
      const found = /^#?\d+$/.test(wanted)
        ? await call("GET", `/v1/dictionaries/${dictionary}/concepts/${wanted.replace("#", "")}`)
        : await this.named(dictionary, wanted);
      if (!found) {
        this.note.textContent = `No concept is called “${wanted}”.`;
        return;
      }
      input.value = "";
      this.changes.add(found);
      await this.intervene();
    } catch (error) {
      this.note.textContent = error.message;
    }
  }

  async named(dictionary, name) {
    const query = { name, sort: "density", limit: 50 };
    const { concepts } = await call("GET", `/v1/dictionaries/${dictionary}/concepts`, { query });
    const same = concepts.find((one) => one.name.toLowerCase() === name.toLowerCase());
    return same ?? concepts[0] ?? null;
  }
}

const scoreIn = (answer, name) => classesOf(answer).find((one) => one.class === name) ?? null;
