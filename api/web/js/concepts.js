// Concepts: browse and search the dictionary a page at a time, whatever its size.

import { aborted, call, get, offers, part } from "./api.js";
import * as concept from "./concept.js";
import { conceptCard, conceptTable } from "./concept_list.js";
import { button, debounce, failure, field, h, hint, plural, put, select } from "./dom.js";
import { draftPanel } from "./draft.js";
import * as router from "./router.js";

export const title = "Concepts";
const PAGE = 24;
const FOUND = 96; // most matches of a search
const SORTS = [
  ["density", "density"],
  ["score", "score of the name"],
  ["margin", "margin to the next name"],
  ["mean_code", "mean code"],
  ["max_code", "largest code"],
  ["concept", "number"],
];
let searchedImage = null; // {file, address}: stays in this tab's memory

export async function mount(root, context) {
  if (context.route.arg !== "") return concept.mount(root, context);
  const view = new Browser(root, context);
  view.draw();
  await view.load();
  return { update: (next) => view.update(next) };
}

class Browser {
  constructor(root, context) {
    this.root = root;
    this.context = context;
    this.dictionary = part(context.model.dictionary);
    this.tools = h("form", { class: "tools", role: "search" });
    this.summary = h("p", { class: "hint", role: "status" });
    this.list = h("div", { class: "concept-list" });
    this.pager = h("nav", { class: "pager", "aria-label": "Pages" });
  }

  draw() {
    this.drawTools();
    const draft = draftPanel(this.context);
    this.root.append(
      h("div", { class: "row between" }, h("h1", {}, title), editsLink()),
      this.tools,
      draft,
      this.summary,
      this.list,
      this.pager,
    );
  }

  update(context) {
    this.context = { ...context, signal: this.context.signal };
    if (!this.tools.contains(document.activeElement)) this.drawTools();
    this.load();
  }

  value(name, otherwise = "") {
    return this.context.route.query.get(name) ?? otherwise;
  }

  drawTools() {
    const set = (name) => (value) => router.change({ [name]: value, page: "" });
    const typed = debounce((value) => router.change({ q: value, page: "" }, { replace: true }), 250);
    const search = h("input", {
      type: "search",
      value: this.value("q"),
      maxlength: 200,
      on: { input: () => typed(search.value) },
    });
    const how = [["name", "is in the name"], ["meaning", "is near in meaning"]];
    const states = ["named", "unnamed", "blocked"].map((one) => [one, one]);
    const sorts = [...SORTS, ...this.context.model.classes.map((one) => [`class:${one}`, `weight of ${one}`])];
    this.tools.onsubmit = (event) => event.preventDefault();
    put(
    this.tools,
      field("Word", search),
      field("which", select(how, this.value("how", "name"), set("how"))),
      this.imageButton(),
      field("Status", select([["", "any"], ...states], this.value("status"), set("status"))),
      field("Sort by", select(sorts, this.value("sort", "density"), set("sort"))),
      field("Show", select([["cards", "cards"], ["table", "table"]], this.value("as", "cards"), set("as"))),
    );
  }

  imageButton() {
    if (!offers("POST", "/v1/dictionaries/{}/search")) return null;
    const input = h("input", {
      type: "file",
      accept: "image/*",
      class: "unseen",
      on: {
        change: () => {
          const [file] = input.files;
          if (!file) return;
          if (searchedImage) URL.revokeObjectURL(searchedImage.address);
          searchedImage = { file, address: URL.createObjectURL(file) };
          if (this.value("how") === "image") this.load();
          else router.change({ how: "image", q: "", page: "" });
        },
      },
    });
    return h("label", { class: "field as-button" }, h("span", {}, "Or"), input, h("span", { class: "button" }, "by image…"));
  }

  async load() {
    const wanted = location.hash;
    try {
      const found = await this.find();
      if (wanted === location.hash) this.show(found);
    } catch (error) {
      if (aborted(error) || wanted !== location.hash) return;
      this.summary.textContent = "";
      put(this.list, failure(error));
      put(this.pager);
    }
  }

  // {items, total, offset, about}; each item has at least concept and name.
  find() {
    if (this.value("how") === "image") return this.byImage();
    if (this.value("how") === "meaning" && this.value("q").trim()) return this.byMeaning();
    if (this.value("sort").startsWith("class:")) return this.byClass();
    return this.byName();
  }

  get offset() {
    return PAGE * Math.max(0, Number(this.value("page", "1")) - 1 || 0);
  }

  async byName() {
    const query = {
      name: this.value("q"),
      status: this.value("status"),
      sort: this.value("sort", "density"),
      limit: PAGE,
      offset: this.offset,
    };
    const answer = await get(`/v1/dictionaries/${this.dictionary}/concepts`, query, this.context.signal);
    return { items: answer.concepts, total: answer.total };
  }

  async byMeaning() {
    const query = { text: this.value("q"), limit: FOUND };
    const { matches } = await get(`/v1/dictionaries/${this.dictionary}/search`, query, this.context.signal);
    const items = matches.map((one) => ({ ...one, score: undefined, measure: ["cosine", one.score] }));
    return this.page(items, `nearest to “${this.value("q")}”`);
  }

  async byImage() {
    if (!searchedImage) return { items: [], total: 0, about: "Choose an image to search with." };
    const request = { files: [searchedImage.file], query: { limit: FOUND }, patient: true };
    const path = `/v1/dictionaries/${this.dictionary}/search`;
    const { matches } = await call("POST", path, request);
    const items = matches.map((one) => ({ ...one, measure: ["code", one.code] }));
    return this.page(items, `strongest in ${searchedImage.file.name}`, searchedImage.address);
  }

  async byClass() {
    const name = this.value("sort").slice("class:".length);
    const path = `/v1/models/${part(this.context.model.id)}/classes/${part(name)}`;
    const nec = this.value("nec");
    const { weights } = await get(path, { limit: 500, nec }, this.context.signal);
    const wanted = this.value("q").toLowerCase();
    const items = weights
      .filter((one) => one.name.toLowerCase().includes(wanted))
      .map((one) => ({ ...one, measure: ["weight", one.weight] }));
    return this.page(items, `with the largest weights for ${name}`);
  }

  // A list that came whole: filtered where the status is known, cut into pages here.
  page(items, about, picture) {
    return { items: items.slice(this.offset, this.offset + PAGE), total: items.length, about, picture };
  }

  show({ items, total, about, picture }) {
    const words = total || !about ? `${plural(total, "concept")}${about ? ` ${about}` : ""}` : about;
    put(
    this.summary,
      picture ? h("img", { class: "searched", src: picture, alt: "The image searched with" }) : "",
      words,
    );
    const draw = this.value("as", "cards") === "table" ? conceptTable : cards;
    put(this.list, draw(items, this.context));
    if (!items.length && !about) this.list.append(hint("Nothing matches. Clear the word or the status."));
    this.drawPager(total);
  }

  drawPager(total) {
    const pages = Math.max(1, Math.ceil(total / PAGE));
    const now = Math.min(pages, this.offset / PAGE + 1);
    const to = (page) => () => router.change({ page: page === 1 ? "" : page });
    this.pager.hidden = pages === 1;
    put(
    this.pager,
      button("First", to(1), { disabled: now === 1 }),
      button("Previous", to(now - 1), { disabled: now === 1 }),
      h("span", {}, `page ${now} of ${pages}`),
      button("Next", to(now + 1), { disabled: now === pages }),
      button("Last", to(pages), { disabled: now === pages }),
    );
  }
}

function cards(items, context) {
  return h("ul", { class: "cards" }, items.map((item) => h("li", {}, conceptCard(item, context))));
}

function editsLink() {
  if (!offers("GET", "/v1/models/{}/edits")) return null;
  return h("a", { href: router.href("edits") }, "Edits and audit");
}
