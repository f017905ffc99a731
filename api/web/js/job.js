// One job, live: bars per stage, rate, time left, logs; cancel and retry.

import { aborted, call, events, get, part, pause } from "./api.js";
import { button, count, duration, failure, h, hint, percent, put, when } from "./dom.js";
import * as router from "./router.js";

const LINES = 500; // most lines of the log that are shown
const AGAIN = 2000; // milliseconds before a broken connection is made anew
const OVER = new Set(["succeeded", "failed", "cancelled"]);

// All stages in one bar; a stage that is done counts whole.
export function overall(job) {
  const stages = job.stages ?? [];
  const shares = stages.map(shareOf);
  const share = stages.length ? shares.reduce((sum, one) => sum + one, 0) / stages.length : 0;
  return meter(job.status === "succeeded" ? 1 : share, `Progress of ${job.name || job.id}`);
}

function shareOf(stage) {
  if (stage.status === "done") return 1;
  return stage.total ? Math.min(1, (stage.done ?? 0) / stage.total) : 0;
}

function meter(share, label) {
  return h(
    "div",
    {
      class: "meter",
      role: "progressbar",
      "aria-label": label,
      "aria-valuenow": Math.round(100 * share),
      "aria-valuemin": 0,
      "aria-valuemax": 100,
    },
    share > 0 && h("div", { style: { width: `${100 * share}%` } }),
    h("span", {}, percent(share, 0)),
  );
}

export class JobView {
  constructor(root, context) {
    Object.assign(this, { root, context });
    this.path = `/v1/jobs/${part(context.route.arg)}`;
    this.head = h("div", {});
    this.stages = h("ol", { class: "stages" });
    this.problem = h("div", {});
    this.log = h("pre", { class: "log", tabindex: 0, role: "log", "aria-label": "Log" });
  }

  async start() {
    const job = await get(this.path, {}, this.context.signal);
    this.root.append(
      h("p", { class: "back" }, h("a", { href: router.href("jobs") }, "All jobs")),
      h("h1", {}, job.name || job.id),
      this.head,
      this.stages,
      this.problem,
      h("h2", {}, "Log"),
      this.log,
      configuration(job),
    );
    this.draw(job);
    await this.loadLog();
    if (!OVER.has(job.status)) this.follow();
  }

  draw(job) {
    if (this.status && this.status !== job.status) this.announce(job);
    this.status = job.status;
    const over = OVER.has(job.status);
    const held = this.head.contains(document.activeElement);
    put(
    this.head,
      h(
        "p",
        { class: "row" },
        h("span", { class: `badge ${job.status}` }, job.status),
        h("span", {}, `${job.pipeline}, submitted ${when(job.created)}`),
        job.finished && h("span", {}, `finished ${when(job.finished)}`),
      ),
      h(
        "div",
        { class: "row" },
        over ? "" : button("Cancel", () => this.act("DELETE", this.path)),
        over && job.status !== "succeeded"
          ? button("Retry", () => this.act("POST", `${this.path}/retry`), { class: "main" })
          : "",
        job.model && modelLink(job.model, this.context.models.list),
      ),
    );
    if (held) this.head.querySelector("button")?.focus();
    put(this.stages, ...(job.stages ?? []).map(stageRow));
    put(this.problem, job.error ? h("p", { class: "failure" }, job.error) : "");
  }

  async announce(job) {
    this.context.say(`The job is ${job.status}.`);
    if (job.status !== "succeeded") return;
    this.context.models = await this.context.reload(); // its model may be served by now
    this.draw(job);
  }

  async act(method, path) {
    try {
      const job = await call(method, path);
      if (job?.id && String(job.id) !== this.context.route.arg) {
        router.go("jobs", job.id);
        return;
      }
      this.draw(job?.id ? job : await get(this.path));
      if (!OVER.has(this.status)) this.follow();
    } catch (error) {
      put(this.problem, failure(error));
    }
  }

  async loadLog() {
    try {
      const answer = await get(`${this.path}/logs`, { limit: LINES }, this.context.signal);
      const lines = answer.logs ?? answer.lines ?? answer.entries ?? [];
      put(this.log, ...lines.map(logLine));
      this.seen = lines.length ? lines[lines.length - 1].time : "";
    } catch (error) {
      if (!aborted(error)) this.log.textContent = error.message;
    }
  }

  // Follows the job until it is over; a connection that breaks is made anew.
  async follow() {
    if (this.following) return;
    this.following = true;
    const { signal } = this.context;
    while (!signal.aborted && !OVER.has(this.status)) {
      try {
        for await (const { event, data } of events(`${this.path}/events`, signal)) {
          if (event === "progress") this.draw(data);
          if (event === "log") this.addLine(data);
          if (event === "end") break;
        }
        this.draw(await get(this.path, {}, signal));
      } catch (error) {
        if (signal.aborted) return;
        put(this.problem, hint(`${error.message} Trying again.`));
      }
      if (!OVER.has(this.status)) await pause(AGAIN);
    }
    this.following = false;
  }

  addLine(line) {
    if (this.seen && line.time <= this.seen) return; // it came with the log already
    const atEnd = this.log.scrollTop + this.log.clientHeight >= this.log.scrollHeight - 8;
    this.log.append(logLine(line));
    while (this.log.childElementCount > LINES) this.log.firstChild.remove();
    if (atEnd) this.log.scrollTop = this.log.scrollHeight;
  }
}

// The model of a job is a directory; where it is served, its name is the last part.
function modelLink(path, served) {
  const name = path.split("/").filter(Boolean).pop();
  if (!served.some((one) => one.id === name)) return h("span", {}, `Model in ${path}`);
  return h("a", { href: router.href("decide", "", { model: name, nec: "" }) }, `Model ${name}`);
}

function logLine({ time, level, message }) {
  const clock = String(time).replace(/^.*T/, "").replace(/(\.\d+)?(Z|[+-]\d\d:\d\d)?$/, "");
  return h("span", { class: String(level).toLowerCase() }, `${clock} ${String(level).padEnd(7)} ${message}\n`);
}

function stageRow(stage) {
  const facts = [
    stage.total ? `${count(stage.done ?? 0)} of ${count(stage.total)}` : "",
    stage.status === "running" && stage.rate ? `${stage.rate.toFixed(1)} per s` : "",
    stage.status === "running" && stage.eta_seconds != null ? `${duration(stage.eta_seconds)} left` : "",
  ].filter(Boolean);
  return h(
    "li",
    { class: stage.status },
    h("span", { class: "name" }, stage.name),
    meter(shareOf(stage), stage.name),
    h("span", { class: "state" }, stage.status),
    h("span", { class: "hint" }, facts.join(", ")),
    stage.error && h("p", { class: "failure" }, stage.error),
  );
}

function configuration(job) {
  return h(
    "details",
    {},
    h("summary", {}, "Configuration"),
    h("pre", { tabindex: 0 }, JSON.stringify(job.config, null, 2)),
  );
}
