// The address says what is shown: #/view/argument?model=…&more. Views read it and write it, so
// that links, the back button and reloads work.

export function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [view = "", ...rest] = path.split("/");
  return {
    view: view || "decide",
    arg: decode(rest.join("/")),
    query: new URLSearchParams(query),
  };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray % in an address typed by hand
  }
}

// Model and dial go along from view to view; the rest of the query belongs to one view.
const SHARED = ["model", "nec"];

export function href(view, arg = "", query = {}) {
  const now = read().query;
  const parameters = new URLSearchParams();
  for (const name of SHARED) if (now.get(name)) parameters.set(name, now.get(name));
  for (const [name, value] of Object.entries(query)) assign(parameters, name, value);
  return build(view, arg, parameters);
}

function assign(parameters, name, value) {
  if (value === null || value === undefined || value === "") parameters.delete(name);
  else parameters.set(name, String(value));
}

function build(view, arg, parameters) {
  const text = parameters.toString();
  const path = arg === "" ? view : `${view}/${encodeURIComponent(arg)}`;
  return `#/${path}${text ? `?${text}` : ""}`;
}

export function go(view, arg, query) {
  location.hash = href(view, arg, query);
}

// Changes the query of the present view; a new entry in the history unless `replace`.
export function change(values, { replace = false } = {}) {
  const { view, arg, query } = read();
  for (const [name, value] of Object.entries(values)) assign(query, name, value);
  const next = build(view, arg, query);
  if (next === location.hash) return;
  if (replace) {
    history.replaceState(null, "", next);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = next;
  }
}
