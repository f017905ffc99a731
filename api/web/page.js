// The page: sends photos to the service and draws the answer. Text from the service or from file
// names only ever becomes text nodes, never markup.

const byId = (id) => document.getElementById(id);
const form = byId("form");
const status = byId("status");
const key = byId("key");

const headers = () => (key && key.value ? { "X-API-Key": key.value } : {});

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
}

// Concepts of one name come as one part; their numbers tell which they are.
function label(item) {
  const { name, concept, concepts } = item;
  if (concepts.length) {
    const text = element("span", "name", `${name}, ${concepts.length} concepts`);
    text.append(element("small", "", concepts.map((one) => `#${one}`).join(" ")));
    return text;
  }
  const plain = `concept ${concept}`;
  return element("span", "name", name === plain ? plain : `${name} #${concept}`);
}

function barRow(name, value, quiet, largest) {
  const track = element("div", "track");
  const bar = element("div", `bar ${value < 0 ? "against" : "for"}${quiet ? " quiet" : ""}`);
  bar.style.width = `${(50 * Math.abs(value)) / largest}%`;
  track.append(bar);
  return [
    name,
    track,
    element("span", "value", signed(value)),
  ];
}

function resultCard(prediction, file) {
  const card = element("article", "panel result");
  const left = element("div");
  const picture = element("img");
  picture.alt = "";
  picture.src = URL.createObjectURL(file);
  picture.onload = () => URL.revokeObjectURL(picture.src);
  left.append(picture, element("p", "file", prediction.image));

  const right = element("div");
  const percent = (100 * prediction.probability).toFixed(1);
  right.append(element("h3", "", `${prediction.class}, ${percent} %`));
  if (prediction.alternatives.length) {
    const others = prediction.alternatives.map(
      (other) => `${other.class} ${(100 * other.probability).toFixed(1)} %`,
    );
    right.append(element("p", "file", `then ${others.join(", ")}`));
  }
  const rows = prediction.contributions.map((item) => [label(item), item.contribution, false]);
  const quiet = (text) => element("span", "name quiet", text);
  rows.push([quiet("all other concepts"), prediction.remainder, true]);
  rows.push([quiet("bias of the class"), prediction.bias, true]);
  const largest = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-9);
  const bars = element("div", "bars");
  for (const row of rows) bars.append(...barRow(...row, largest));
  const total = element("div", "total");
  total.append(element("span", "", "Sum = logit"), element("span", "number", signed(prediction.logit)));
  right.append(bars, total);
  card.append(left, right, places(prediction, file));
  return card;
}

// Where in the photo the class and its concepts are: asked for only when somebody wants to see it.
function places(prediction, file) {
  const area = element("div", "places");
  const button = element("button", "second", "Show where in the photo");
  button.type = "button";
  const note = element("p", "hint");
  note.setAttribute("role", "status");
  const maps = element("div", "maps");
  button.addEventListener("click", async () => {
    button.disabled = true;
    note.textContent = "Working…";
    note.classList.remove("error");
    try {
      const found = await explain(prediction, file);
      maps.replaceChildren(...found.attributions.map((item) => mapOf(item, found.seen)));
      note.textContent = found.attributions[0].exact
        ? "Exact: the pixels of a map, with a constant, add up to its number. Red adds, blue takes away."
        : `Post hoc (${found.attributions[0].method}): maps tell where, not how much.`;
      button.remove();
    } catch (error) {
      note.textContent = error.message;
      note.classList.add("error");
      button.disabled = false;
    }
  });
  area.append(button, note, maps);
  return area;
}

function mapOf(item, seen) {
  const figure = element("figure");
  const stack = element("div", "stack");
  const layers = [seen, item.heat, item.picture].filter(Boolean);
  const images = layers.map((address, place) => {
    const image = element("img", ["seen", "heat", "colours"][place]);
    image.src = address;
    image.alt = "";
    return image;
  });
  const plain = item.name === `concept ${item.index}`;
  const kind = item.kind !== "concept" ? item.kind : plain ? "" : `#${item.index}`;
  images[1].alt = `Where ${item.name} is in the photo`;
  stack.append(images[0], images[1]);
  figure.append(stack);
  if (images[2]) figure.append(images[2]);
  const caption = element("figcaption", "", `${item.name} `);
  caption.append(element("small", "", `${kind} ${signed(item.value)}`));
  figure.append(caption);
  return figure;
}

async function explain(prediction, file) {
  const query = new URLSearchParams({ class: String(prediction.class_index) });
  for (const part of prediction.contributions) query.append("concept", String(part.concept));
  if (byId("nec").value) query.set("nec", byId("nec").value);
  const [found] = (await send("explain", query, [file])).explanations;
  return found;
}

async function send(verb, query, files) {
  const data = new FormData();
  for (const file of files) data.append("image", file, file.name);
  const address = `/v1/models/${encodeURIComponent(byId("model").value)}/${verb}?${query}`;
  const response = await fetch(address, { method: "POST", body: data, headers: headers() });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail || response.statusText);
  return answer;
}

async function predict(files) {
  const query = new URLSearchParams({ top_contributions: "8", top_classes: "3", by: "name" });
  if (byId("nec").value) query.set("nec", byId("nec").value);
  return (await send("predict", query, files)).predictions;
}

async function submit(event) {
  event.preventDefault();
  const files = [...byId("image").files];
  const button = form.querySelector("button");
  button.disabled = true;
  say("Working…");
  try {
    const predictions = await predict(files);
    byId("results").replaceChildren(
      ...predictions.map((prediction, index) => resultCard(prediction, files[index])),
    );
    say("");
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
  }
}

function fillSizes() {
  const values = byId("model").selectedOptions[0].dataset.nec;
  const options = [new Option("all", "")];
  for (const value of values ? values.split(",") : []) options.push(new Option(value, value));
  byId("nec").replaceChildren(...options);
}

function acceptDrops(zone, input) {
  const mark = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", mark(true));
  zone.addEventListener("dragleave", mark(false));
  zone.addEventListener("drop", (event) => {
    mark(false)(event);
    input.files = event.dataTransfer.files;
  });
}

if (form) {
  fillSizes();
  byId("model").addEventListener("change", fillSizes);
  form.addEventListener("submit", submit);
  acceptDrops(byId("drop"), byId("image"));
}
