// Jobs: submit a pipeline, see all jobs, follow one.

import { call, get, offers, part } from "./api.js";
import { button, failure, field, h, hint, plural, put, select, when } from "./dom.js";
import { JobView, overall } from "./job.js";
import * as router from "./router.js";

export const title = "Jobs";
const EVERY = 3000; // milliseconds between looks at the list
// The first is the whole; the others are its parts, offered for what is typed.
const PIPELINES = ["discover", "embed", "sae", "name", "bottleneck", "report", "bcosify"];
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];

export async function mount(root, context) {
  if (!offers("GET", "/v1/jobs")) {
    root.append(h("h1", {}, title), hint("This service runs no jobs."));
    return null;
  }
  if (context.route.arg) {
    await new JobView(root, context).start();
    return null;
  }
  const list = new JobList(root, context);
  await list.start();
  return { update: (next) => list.update(next) };
}

class JobList {
  constructor(root, context) {
    Object.assign(this, { root, context });
    this.place = h("div", { class: "jobs-list" });
    this.tools = h("div", { class: "tools" });
  }

  async start() {
    this.root.append(h("h1", {}, title), submission(), this.tools, this.place);
    this.drawTools();
    await this.load();
    const timer = setInterval(() => document.hidden || this.load(), EVERY);
    this.context.signal.addEventListener("abort", () => clearInterval(timer));
  }

  update(context) {
    this.context = { ...context, signal: this.context.signal };
    this.load();
  }

  drawTools() {
    const chosen = this.context.route.query.get("status") ?? "";
    const states = [["", "any"], ...STATES.map((one) => [one, one])];
    put(
    this.tools,
      field("Status", select(states, chosen, (status) => router.change({ status }))),
    );
  }

  async load() {
    const status = this.context.route.query.get("status") ?? "";
    try {
      const { jobs, total } = await get("/v1/jobs", { status, limit: 50 }, this.context.signal);
      const held = this.place.contains(document.activeElement) && document.activeElement.getAttribute("href");
      put(this.place, jobs.length ? rows(jobs) : hint("No job."));
      if (total > jobs.length) this.place.append(hint(`The newest ${jobs.length} of ${total}.`));
      if (held) this.place.querySelector(`a[href="${CSS.escape(held)}"]`)?.focus();
    } catch (error) {
      if (!this.context.signal.aborted) put(this.place, failure(error));
    }
  }
}

function rows(jobs) {
  const body = jobs.map((job) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: router.href("jobs", job.id) }, job.name || job.id)),
      h("td", {}, job.pipeline),
      h("td", {}, h("span", { class: `badge ${job.status}` }, job.status)),
      h("td", {}, overall(job)),
      h("td", {}, when(job.created)),
    ),
  );
  const heads = ["Job", "Pipeline", "Status", "Progress", "Submitted"];
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": plural(jobs.length, "job") },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, body),
    ),
  );
}

const text = (properties) => h("input", { type: "text", autocomplete: "off", ...properties });

// The few choices that most runs need; the rest of a recipe goes into the JSON field.
function submission() {
  const inputs = {
    name: text({ required: true, maxlength: 100 }),
    pipeline: text({ required: true, value: "discover", list: "pipelines" }),
    data: text({ placeholder: "clothing.zip" }),
    encoder: text({ placeholder: "mini" }),
    concepts: h("input", { type: "number", min: 2, step: 1 }),
    more: h("textarea", { rows: 4, spellcheck: "false", placeholder: '{"seed": 1}' }),
    priority: h("input", { type: "number", value: 0, step: 1 }),
  };
  const place = h("div", {});
  const submit = async (event) => {
    event.preventDefault();
    try {
      const job = await call("POST", "/v1/jobs", { json: requestOf(inputs) });
      router.go("jobs", job.id);
    } catch (error) {
      put(place, failure(error));
    }
  };
  return h(
    "details",
    { class: "panel" },
    h("summary", {}, "New job"),
    h(
      "form",
      { on: { submit } },
      h("datalist", { id: "pipelines" }, PIPELINES.map((value) => h("option", { value }))),
      h(
        "div",
        { class: "fields" },
        field("Name", inputs.name),
        field("Pipeline", inputs.pipeline),
        field("Photos", inputs.data, "A folder or archive in the service's data folder"),
        field("Encoder", inputs.encoder),
        field("Concepts", inputs.concepts),
        field("Priority", inputs.priority),
      ),
      field("More of the configuration, as JSON", inputs.more),
      h("button", { class: "main" }, "Submit"),
      place,
    ),
  );
}

function requestOf(inputs) {
  const config = more(inputs.more.value);
  if (inputs.data.value.trim()) config.data = inputs.data.value.trim();
  if (inputs.encoder.value.trim()) config.encoder = inputs.encoder.value.trim();
  if (inputs.concepts.value) {
    config.sae = { ...config.sae, num_concepts: Number(inputs.concepts.value) };
  }
  return {
    name: inputs.name.value.trim(),
    pipeline: inputs.pipeline.value.trim(),
    config,
    priority: Number(inputs.priority.value || 0),
  };
}

function more(written) {
  if (!written.trim()) return {};
  let value;
  try {
    value = JSON.parse(written);
  } catch (error) {
    throw new Error(`The configuration is not JSON: ${error.message}.`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error('The configuration must be a JSON object such as {"seed": 1}.');
  }
  return value;
}
