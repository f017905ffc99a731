// Light, dark, or what the system says. A classic script in the head, so that the choice holds
// before the first paint.
(() => {
  const KEY = "dncbm-theme";
  const ORDER = ["auto", "light", "dark"];
  const root = document.documentElement;

  function read() {
    try {
      const value = localStorage.getItem(KEY);
      return ORDER.includes(value) ? value : "auto";
    } catch {
      return "auto"; // storage is switched off
    }
  }

  function apply(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    document.dispatchEvent(new CustomEvent("themechange"));
  }

  function wire() {
    const button = document.getElementById("theme");
    let theme = read();
    const label = () => {
      button.querySelector("span").textContent = theme;
      button.setAttribute("aria-label", `Colours: ${theme}. Change`);
    };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // the choice then holds for this page only
      }
      apply(theme);
      label();
    });
  }

  apply(read());
  document.addEventListener("DOMContentLoaded", wire);
})();
