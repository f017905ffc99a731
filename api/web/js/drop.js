// Ways for a photo to come in: chosen, dropped, pasted.

import { h } from "./dom.js";

const images = (list) =>
  [...(list ?? [])].filter((file) => file.type === "" || file.type.startsWith("image/"));

export function dropZone(take, { prompt, rest, multiple = false }) {
  const input = h("input", {
    type: "file",
    accept: "image/*",
    class: "unseen",
    multiple,
    on: {
      change: () => {
        take([...input.files]);
        input.value = ""; // so that the same file can be chosen again
      },
    },
  });
  return h(
    "label",
    { class: "drop" },
    input,
    h("span", { class: "button" }, prompt),
    rest && h("span", { class: "hint" }, `or ${rest}`),
  );
}

// Files dropped on or pasted into `target`, until `signal` aborts.
export function acceptFiles(target, take, signal) {
  const mark = (on) => target.classList.toggle("over", on);
  const listen = (event, handler) => target.addEventListener(event, handler, { signal });
  listen("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  listen("dragleave", () => mark(false));
  listen("drop", (event) => {
    event.preventDefault();
    mark(false);
    take(images(event.dataTransfer.files));
  });
  document.addEventListener(
    "paste",
    (event) => {
      const found = images(event.clipboardData?.files);
      if (found.length) take(found);
    },
    { signal },
  );
}
