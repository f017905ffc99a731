// The photo, where a concept is in it, and training images that have the concept.

import { aborted, call, get, offers, part, showPicture } from "./api.js";
import { conceptLabel, debounce, h, hint, number, plainName, put } from "./dom.js";
import * as router from "./router.js";

export class PhotoPanel {
  constructor(photo, context, settings) {
    Object.assign(this, { photo, context, settings });
    this.canExplain = offers("POST", "/v1/models/{}/explain");
    photo.maps ??= new Map();
    this.picture = h("img", { class: "seen", src: photo.address, alt: photo.file.name });
    this.heat = h("img", { class: "heat", alt: "", hidden: true });
    this.caption = h("figcaption", { "aria-live": "polite" }, photo.file.name);
    this.extra = h("div", { class: "of-concept" });
    this.root = h(
      "section",
      { class: "photo panel", "aria-label": "Photo" },
      h("figure", {}, h("div", { class: "stack" }, this.picture, this.heat), this.caption),
      this.extra,
    );
    this.show = debounce((row) => this.draw(row), 120);
    this.extra.append(hint("Point at a concept to see where it is, and which images have it."));
  }

  async draw(row) {
    if (this.row?.key === row.key || this.context.signal.aborted) return;
    this.row = row;
    this.drawConcept(row);
    if (!this.canExplain) {
      this.caption.textContent = "This service makes no maps.";
      return;
    }
    this.caption.textContent = `Looking for ${row.name}…`;
    try {
      const found = await this.mapOf(row.concept);
      if (this.row === row) this.drawMap(row, found);
    } catch (error) {
      if (!aborted(error) && this.row === row) this.hideMap(error.message);
    }
  }

  mapOf(concept) {
    const { model, nec } = this.settings;
    const key = `${model} ${nec} ${concept}`;
    if (!this.photo.maps.has(key)) {
      const query = { concept, nec };
      const request = { query, files: [this.photo.file], patient: true };
      const asked = call("POST", `/v1/models/${part(model)}/explain`, request).then(
        (answer) => answer.explanations[0],
      );
      asked.catch(() => this.photo.maps.delete(key));
      this.photo.maps.set(key, asked);
    }
    return this.photo.maps.get(key);
  }

  drawMap(row, found) {
    const [item] = found.attributions;
    this.picture.src = found.seen;
    this.picture.classList.add("muted");
    this.heat.src = item.heat;
    this.heat.alt = `Where ${row.name} is in the photo`;
    this.heat.hidden = false;
    const how = item.exact
      ? `Exact: the pixels and a constant add up to the code, ${number(item.value)}. Red adds, blue takes away.`
      : `Post hoc (${item.method}): tells where, not how much.`;
    put(this.caption, h("strong", {}, conceptLabel(row)), h("br"), how);
  }

  hideMap(text) {
    this.heat.hidden = true;
    this.picture.src = this.photo.address;
    this.picture.classList.remove("muted");
    this.caption.textContent = text;
  }

  async drawConcept(row) {
    const link = h("a", { href: router.href("concepts", row.concept) }, plainName(row));
    const images = h("div", { class: "thumbs" });
    put(this.extra, h("h2", {}, "Training images of ", link), images);
    try {
      images.append(...(await exampleImages(this.context.model.dictionary, row.concept, 8)));
    } catch (error) {
      images.append(hint(error.message));
    }
    if (!images.childNodes.length) images.append(hint("None was kept."));
  }
}

// Thumbnails of the images in which a concept is strongest.
export async function exampleImages(dictionary, concept, limit, signal) {
  const path = `/v1/dictionaries/${part(dictionary)}/concepts/${concept}/examples`;
  const { examples } = await get(path, { limit }, signal);
  return examples.map((example) => thumbnail(example, `code ${number(example.code)}`));
}

export function thumbnail(item, words) {
  if (!item.thumbnail) return h("span", { class: "thumb none", title: item.item_id }, "no picture");
  const image = h("img", {
    class: "thumb",
    alt: `${item.item_id}, ${words}`,
    title: `${item.item_id}, ${words}`,
    loading: "lazy",
  });
  showPicture(image, item.thumbnail).catch(() => image.classList.add("none"));
  return image;
}
