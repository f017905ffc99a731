// Decide: photos in, classes with named contributions out. Photos stay in this tab's memory, so
// they are there again after a look at another view.

import { aborted, call, part } from "./api.js";
import { button, failure, h, hint, percent, put, select } from "./dom.js";
import { acceptFiles, dropZone } from "./drop.js";
import { Result } from "./result.js";
import * as router from "./router.js";

export const title = "Decide";
const AT_ONCE = 2;
const MOST_CLASSES = 10;
const session = { photos: [], selected: 0 };

export function mount(root, context) {
  const view = new Decide(root, context);
  view.draw();
  return { update: (next) => view.update(next) };
}

class Decide {
  constructor(root, context) {
    this.root = root;
    this.context = context;
    this.strip = h("div", { class: "strip", role: "group", "aria-label": "Photos" });
    this.place = h("div", { class: "result-place" });
    this.result = null;
  }

  draw() {
    const add = (files) => this.add(files);
    const { signal } = this.context;
    this.zone = dropZone(add, {
      prompt: "Choose photos",
      rest: "drop them here, or paste one from the clipboard",
      multiple: true,
    });
    acceptFiles(document.body, add, signal);
    this.tools = h("div", { class: "tools" });
    this.root.append(h("h1", {}, "Decide"), this.zone, this.tools, this.strip, this.place);
    this.refresh();
  }

  update(context) {
    const before = this.context.route.query;
    const after = context.route.query;
    this.context = { ...context, signal: this.context.signal };
    if (["nec", "by", "parts"].some((name) => before.get(name) !== after.get(name))) {
      this.refresh();
    } else {
      this.result?.choose(after.get("class"));
    }
  }

  // What an answer depends on; photos answered otherwise are asked for again.
  get settings() {
    const { query } = this.context.route;
    return {
      model: this.context.model.id,
      nec: query.get("nec") ?? "",
      by: query.get("by") ?? "name",
      parts: query.get("parts") ?? "10",
    };
  }

  refresh() {
    this.drawTools();
    this.drawStrip();
    this.drawResult();
    this.askAll();
  }

  add(files) {
    if (!files.length) return;
    const fresh = [...files].map((file) => ({ file, address: URL.createObjectURL(file) }));
    session.selected = session.photos.length;
    session.photos.push(...fresh);
    this.refresh();
  }

  remove(index) {
    URL.revokeObjectURL(session.photos[index].address);
    session.photos.splice(index, 1);
    session.selected = Math.max(0, Math.min(session.selected, session.photos.length - 1));
    this.refresh();
  }

  drawTools() {
    const { nec, by, parts } = this.settings;
    const sizes = this.context.model.effective_concepts.map((value) => [value, `${value}`]);
    const set = (name) => (value) => router.change({ [name]: value });
    put(
    this.tools,
      tool("Concepts per class", select([["", "all"], ...sizes], nec, set("nec"), { id: "nec" })),
      tool("Listed", select(["5", "10", "20", "40"].map((n) => [n, n]), parts, set("parts"))),
      tool("A part is", select([["name", "one name"], ["concept", "one concept"]], by, set("by"))),
    );
    this.tools.hidden = session.photos.length === 0;
  }

  drawStrip() {
    this.strip.hidden = session.photos.length < 1;
    put(this.strip, ...session.photos.map((photo, index) => this.tile(photo, index)));
  }

  tile(photo, index) {
    const answer = photo.answer;
    const said = answer ? `${answer.class} ${percent(answer.probability, 0)}` : "…";
    const words = photo.error ? "not read" : said;
    const choose = h(
      "button",
      {
        type: "button",
        class: "tile",
        "aria-pressed": String(index === session.selected),
        on: { click: () => this.select(index) },
      },
      h("img", { src: photo.address, alt: "" }),
      h("span", {}, words),
      h("span", { class: "unseen" }, ` ${photo.file.name}`),
    );
    const drop = button("×", () => this.remove(index), {
      class: "corner",
      "aria-label": `Remove ${photo.file.name}`,
    });
    return h("div", { class: "tile-place" }, choose, drop);
  }

  select(index) {
    session.selected = index;
    this.drawStrip();
    this.strip.querySelectorAll(".tile")[index].focus();
    this.drawResult();
  }

  drawResult() {
    const photo = session.photos[session.selected];
    this.result = null;
    if (!photo) {
      put(this.place, this.welcome());
    } else if (photo.error) {
      put(this.place, failure(photo.error));
    } else if (!photo.answer || photo.key !== JSON.stringify(this.settings)) {
      put(this.place, hint("Working…"));
    } else {
      this.result = new Result(photo, this.context, this.settings);
      put(this.place, this.result.root);
      this.result.choose(this.context.route.query.get("class"));
    }
  }

  welcome() {
    return h(
      "p",
      { class: "hint" },
      "The answer is a sum: each named concept that is found in the photo adds to a class or ",
      "speaks against it. Switch a concept off and see what the decision becomes.",
    );
  }

  // Asks for what is missing, a few photos at a time, the chosen one first.
  async askAll() {
    const key = JSON.stringify(this.settings);
    const open = session.photos.filter((photo) => photo.key !== key);
    const chosen = session.photos[session.selected];
    open.sort((one, other) => (other === chosen) - (one === chosen));
    if (!open.length) return;
    for (const photo of open) Object.assign(photo, { key, answer: null, error: null });
    this.context.say(`Working on ${open.length === 1 ? "the photo" : `${open.length} photos`}…`);
    const worker = async () => {
      for (let photo = open.shift(); photo; photo = open.shift()) await this.ask(photo, key);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    this.announce();
  }

  async ask(photo, key) {
    const { model, nec, by, parts } = JSON.parse(key);
    const query = { nec, by, top_contributions: parts, top_classes: this.classes };
    try {
      const request = { query, files: [photo.file], patient: true };
      const answer = await call("POST", `/v1/models/${part(model)}/predict`, request);
      if (photo.key !== key) return; // asked otherwise in the meantime
      [photo.answer] = answer.predictions;
    } catch (error) {
      if (photo.key !== key) return;
      photo.error = error;
    }
    if (this.context.signal.aborted) return;
    this.drawStrip();
    if (photo === session.photos[session.selected]) this.drawResult();
  }

  get classes() {
    return Math.min(this.context.model.classes.length, MOST_CLASSES);
  }

  announce() {
    const photo = session.photos[session.selected];
    if (!photo || this.context.signal.aborted) return;
    if (photo.error && !aborted(photo.error)) this.context.say("");
    else if (photo.answer) {
      const words = `${photo.answer.class}, ${percent(photo.answer.probability)}`;
      this.context.say(words, { shown: false });
    }
  }
}

function tool(text, control) {
  return h("label", { class: "field" }, h("span", {}, text), control);
}

