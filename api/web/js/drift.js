// Drift: which concepts are seen more or less often than in training.

import { call, get, offers, part } from "./api.js";
import { button, conceptLabel, h, hint, number, percent, plural, put, signed, when } from "./dom.js";
import { thumbnail } from "./photo.js";
import * as router from "./router.js";

export const title = "Drift";
const SHOWN = 50;

export async function mount(root, context) {
  root.append(h("h1", {}, title));
  if (!offers("GET", "/v1/models/{}/drift")) {
    root.append(hint("This service does not watch for drift."));
    return;
  }
  const place = h("div", {});
  root.append(place);
  await load(place, context);
}

const path = (context) => `/v1/models/${part(context.model.id)}/drift`;

async function load(place, context) {
  try {
    const found = await get(path(context), { limit: SHOWN }, context.signal);
    put(place, ...drawn(found, place, context));
  } catch (error) {
    if (error.status !== 404 && error.status !== 503) throw error;
    put(place, hint(error.message));
  }
}

function drawn(found, place, context) {
  if (!found.enabled) {
    return [hint("Drift is not watched for this model. It is switched on where the service is started.")];
  }
  const since = found.since ? ` since ${when(found.since)}` : "";
  const summary = h("p", {}, `${plural(found.images, "image")}${since}.`);
  if (!found.concepts.length) return [summary, hint("No concept has shifted so far."), restart(place, context)];
  const rest = found.total > found.concepts.length ? [hint(`The ${found.concepts.length} largest of ${found.total}.`)] : [];
  return [summary, table(found.concepts), ...rest, restart(place, context)];
}

function table(concepts) {
  const heads = ["Concept", "Images with it: training, now", "#Mean code: training", "#now", "#Shift", "#p", "Seen lately"];
  const cells = heads.map((text) =>
    h("th", { scope: "col", class: text.startsWith("#") ? "number" : "" }, text.replace("#", "")),
  );
  const largest = Math.max(...concepts.flatMap((one) => [one.density_training, one.density_live]), 1e-9);
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Concepts that shifted" },
    h(
      "table",
      { class: "shifts" },
      h("thead", {}, h("tr", {}, cells)),
      h("tbody", {}, concepts.map((one) => row(one, largest))),
    ),
  );
}

function row(one, largest) {
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("a", { href: router.href("concepts", one.concept) }, conceptLabel(one))),
    h("td", {}, share(one.density_training, largest, "training"), share(one.density_live, largest, "now")),
    h("td", { class: "number" }, number(one.mean_training)),
    h("td", { class: "number" }, number(one.mean_live)),
    h("td", { class: "number" }, signed(one.shift)),
    h("td", { class: "number" }, number(one.p_value, 3)),
    h("td", {}, h("div", { class: "thumbs row-thumbs" }, (one.examples ?? []).slice(0, 4).map(example))),
  );
}

function share(value, largest, kind) {
  return h(
    "div",
    { class: `share ${kind}` },
    h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: "bar", style: { width: `${(100 * value) / largest}%` } })),
    h("span", { class: "number" }, percent(value)),
    h("span", { class: "unseen" }, ` ${kind}`),
  );
}

// An example is a training image with a thumbnail, or only a name.
function example(item) {
  if (typeof item === "object" && item.thumbnail) return thumbnail(item, "");
  return h("span", { class: "hint" }, typeof item === "object" ? (item.item_id ?? "") : String(item));
}

function restart(place, context) {
  if (!offers("DELETE", "/v1/models/{}/drift")) return "";
  const start = button("Start anew", async () => {
    try {
      await call("DELETE", path(context));
      await load(place, context);
      context.say("Started anew.");
    } catch (error) {
      context.say(error.message);
    }
  });
  return h("div", { class: "row" }, start, hint("Forgets the images seen so far."));
}
