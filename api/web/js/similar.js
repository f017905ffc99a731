// Training images that show the same concepts as a photo.

import { call, offers, part } from "./api.js";
import { failure, h, hint, number, plainName, put } from "./dom.js";
import { thumbnail } from "./photo.js";
import * as router from "./router.js";

const SHOWN = 12;
const NAMED = 3;

export function similarImages(photo, context) {
  if (!offers("POST", "/v1/dictionaries/{}/similar")) return null;
  const place = h("div", { class: "similar" }, hint("Looking…"));
  fill(place, photo, context);
  return h("section", { class: "panel" }, h("h2", {}, "Similar training images"), place);
}

async function fill(place, photo, context) {
  const dictionary = context.model.dictionary;
  photo.similar ??= new Map();
  if (!photo.similar.has(dictionary)) {
    const request = { query: { limit: SHOWN }, files: [photo.file], patient: true };
    const path = `/v1/dictionaries/${part(dictionary)}/similar`;
    photo.similar.set(dictionary, call("POST", path, request));
  }
  try {
    const { matches } = await photo.similar.get(dictionary);
    put(place, ...matches.map(card));
    if (!matches.length) place.append(hint("None shares a concept with this photo."));
  } catch (error) {
    photo.similar.delete(dictionary);
    const away = error.status === 404 || error.status === 503;
    put(place, away ? hint(error.message) : failure(error));
  }
}

function card(match) {
  const shared = match.shared.slice(0, NAMED);
  const words = `similarity ${number(match.similarity)}`;
  return h(
    "figure",
    {},
    thumbnail(match, words),
    h(
      "figcaption",
      {},
      h("span", { class: "number" }, number(match.similarity)),
      shared.map((one) =>
        h("a", { href: router.href("concepts", one.concept), title: plainName(one) }, one.name),
      ),
    ),
  );
}
