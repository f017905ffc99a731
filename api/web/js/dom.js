// Elements, and numbers as text. Text from the service or from file names only ever becomes text
// nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

// h("button", {class: "quiet", on: {click: go}, "aria-label": "Go"}, "text", child, null, [more])
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    } else if (name === "style") {
      for (const [key, amount] of Object.entries(value)) node.style.setProperty(key, amount);
    } else if (name === "value" || name === "checked" || name === "disabled") {
      node[name] = value;
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(Infinity).filter(present));
  return node;
}

const present = (child) => child !== null && child !== undefined && child !== false;

// Like replaceChildren, for children as `h` takes them.
export function put(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(present));
}

export function signed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
}

export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.5 * 10 ** -digits) return value.toExponential(1).replace("-", "−");
  return value.toFixed(digits).replace("-", "−");
}

export function percent(share, digits = 1) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;
}

export function count(value) {
  return Number(value).toLocaleString("en");
}

export function plural(amount, one, many = `${one}s`) {
  return `${count(amount)} ${amount === 1 ? one : many}`;
}

export function when(text) {
  if (!text) return "–";
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return String(text);
  const two = (part) => String(part).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// A name with the number of its concept, unless the name is only that number.
export function conceptLabel(item) {
  if (item.concepts && item.concepts.length > 1) {
    return [item.name, h("small", {}, ` ${item.concepts.length} concepts`)];
  }
  if (item.name === `concept ${item.concept}`) return [item.name];
  return [item.name, h("small", {}, ` #${item.concept}`)];
}

export const plainName = (item) =>
  item.name === `concept ${item.concept}` ? item.name : `${item.name} #${item.concept}`;

// A labelled control: label above, control below.
export function field(text, control, hint) {
  return h("label", { class: "field" }, h("span", {}, text), control, hint && h("small", {}, hint));
}

export function options(pairs, chosen) {
  return pairs.map(([value, text]) => {
    const option = h("option", { value }, text);
    option.selected = String(value) === String(chosen ?? "");
    return option;
  });
}

export function select(pairs, chosen, change, properties = {}) {
  return h(
    "select",
    { ...properties, on: { change: (event) => change(event.target.value) } },
    options(pairs, chosen),
  );
}

export function button(text, click, properties = {}) {
  return h("button", { type: "button", ...properties, on: { click } }, text);
}

export const hint = (text) => h("p", { class: "hint" }, text);

export const failure = (error) => h("p", { class: "failure", role: "alert" }, error.message);

// Calls `run` once things have been quiet for `wait` milliseconds.
export function debounce(run, wait) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), wait);
  };
}
