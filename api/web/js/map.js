// Map: the dictionary on a plane. Points are drawn on a canvas; the list beside it holds the
// concepts in sight, so that everything can be reached by keyboard.

import { aborted, get, offers, part, pause } from "./api.js";
import { button, conceptLabel, debounce, field, h, hint, percent, plural, put } from "./dom.js";
import { exampleImages } from "./photo.js";
import { Plane } from "./plane.js";
import * as router from "./router.js";

export const title = "Map";
const LISTED = 60;
const AGAIN = 3000;
const FAILURES = 10;

export async function mount(root, context) {
  root.append(h("h1", {}, title));
  if (!offers("GET", "/v1/dictionaries/{}/map")) {
    root.append(hint("This service has no map of the dictionary."));
    return;
  }
  const { dictionary } = context.model;
  const read = () => get(`/v1/dictionaries/${part(dictionary)}/map`, {}, context.signal);
  const found = await read();
  const view = new MapView(root, context, found, context.route.query.get("q") ?? "");
  view.draw();
  if (found.is_final === false) better(view, read);
}

// Waits for the better map, and offers it: nothing moves under the hands of who uses this one.
async function better(view, read) {
  const { root, context } = view;
  const note = hint("These places are rough. Better ones are being computed, which takes up to a minute.");
  note.setAttribute("role", "status");
  root.append(note);
  for (let failed = 0; failed < FAILURES; ) {
    await pause(AGAIN);
    if (context.signal.aborted) return;
    try {
      const found = await read();
      if (!found.is_final) continue;
      const show = () => {
        view.close();
        put(root, h("h1", {}, title));
        new MapView(root, context, found, view.word).draw();
        root.querySelector("canvas").focus();
      };
      put(note, "A better map is ready. ", button("Show it", show));
      return;
    } catch (error) {
      if (aborted(error)) return;
      failed += 1;
    }
  }
  put(note, "A better map could not be read. Open this view again later.");
}

class MapView {
  constructor(root, context, found, word) {
    Object.assign(this, { root, context, found, word });
    this.list = h("ol", { class: "in-sight" });
    this.summary = h("p", { class: "hint", role: "status" });
    this.card = h("div", { class: "map-card" });
    this.canvas = h("canvas", {
      class: "plane",
      role: "img",
      tabindex: 0,
      "aria-label": "Map of the concepts. Arrow keys move, + and − zoom, 0 shows all. The list beside it holds the concepts in sight.",
    });
    this.plane = new Plane(this.canvas, found, {
      moved: debounce(() => this.drawList(), 120),
      pointed: (index) => this.point(index),
      opened: (index) => router.go("concepts", found.concepts[index]),
    });
  }

  draw() {
    const { plane } = this;
    const search = h("input", {
      type: "search",
      value: this.word,
      on: { input: debounce(() => this.search(search.value), 150) },
    });
    this.root.append(
      h(
        "div",
        { class: "tools" },
        field("Word", search),
        h(
          "div",
          { class: "row" },
          button("−", () => plane.zoom(1 / 1.5), { "aria-label": "Zoom out" }),
          button("+", () => plane.zoom(1.5), { "aria-label": "Zoom in" }),
          button("All", () => plane.reset()),
        ),
      ),
      h(
        "div",
        { class: "map-layout" },
        h("div", { class: "plane-place" }, this.canvas, this.card),
        h("section", { class: "panel beside", "aria-label": "Concepts in sight" }, this.summary, this.list),
      ),
      hint(`${plural(this.found.concepts.length, "concept")}, placed by ${this.found.method}: near means alike. A larger point is active in more images.`),
    );
    const own = new AbortController();
    this.close = () => own.abort();
    this.context.signal.addEventListener("abort", this.close);
    plane.start(own.signal);
    this.search(this.word);
  }

  search(word) {
    this.word = word;
    router.change({ q: word }, { replace: true });
    const wanted = word.trim().toLowerCase();
    const { names } = this.found;
    this.plane.mark(wanted ? (index) => names[index].toLowerCase().includes(wanted) : null);
    this.drawList();
  }

  item(index) {
    return { concept: this.found.concepts[index], name: this.found.names[index] };
  }

  drawList() {
    const { density } = this.found;
    const seen = this.plane.inSight();
    seen.sort((one, other) => (density[other] ?? 0) - (density[one] ?? 0));
    const shown = seen.slice(0, LISTED);
    this.summary.textContent =
      seen.length > LISTED
        ? `${plural(seen.length, "concept")} in sight; the ${LISTED} most frequent:`
        : `${plural(seen.length, "concept")} in sight`;
    put(this.list, ...shown.map((index) => this.entry(index)));
  }

  entry(index) {
    const item = this.item(index);
    const link = h(
      "a",
      {
        href: router.href("concepts", item.concept),
        on: {
          focus: () => this.plane.highlight(index),
          mouseenter: () => this.plane.highlight(index),
        },
      },
      conceptLabel(item),
    );
    return h("li", {}, link, h("span", { class: "number" }, percent(this.found.density[index])));
  }

  // The card of the point under the pointer; its images come once the pointer rests.
  point(index) {
    clearTimeout(this.resting);
    this.card.hidden = index === null;
    if (index === null) return;
    const item = this.item(index);
    const images = h("div", { class: "thumbs four" });
    put(
    this.card,
      h("strong", {}, conceptLabel(item)),
      h("span", { class: "hint" }, ` in ${percent(this.found.density[index])}`),
      images,
    );
    this.resting = setTimeout(async () => {
      const { dictionary } = this.context.model;
      const found = await exampleImages(dictionary, item.concept, 4, this.context.signal).catch(() => []);
      images.append(...found);
    }, 200);
  }
}
