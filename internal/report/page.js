"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const name = () => {
    theme.textContent = dark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", "Show in " + theme.textContent.toLowerCase() + " colours");
    theme.setAttribute("aria-pressed", String(root.dataset.theme !== undefined));
  };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();

  const logs = [...document.querySelectorAll(".logs details")];
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const unfold = document.getElementById("unfold");
  document.querySelector(".search").hidden = false;
  let before = null; // which were open before somebody searched

  const label = () => {
    const all = logs.every(log => log.open);
    unfold.textContent = all ? "Fold all" : "Unfold all";
  };
  const unmark = line => {
    if (line.querySelector("mark")) { line.textContent = line.textContent; }
  };
  const mark = (line, text, words) => {
    const parts = [];
    for (let at = 0; ;) {
      const next = text.toLowerCase().indexOf(words, at);
      if (next < 0) { parts.push(text.slice(at)); break; }
      const hit = document.createElement("mark");
      hit.textContent = text.slice(next, next + words.length);
      parts.push(text.slice(at, next), hit);
      at = next + words.length;
    }
    line.replaceChildren(...parts);
  };
  const search = () => {
    const words = find.value.trim().toLowerCase();
    if (words && !before) { before = logs.map(log => log.open); }
    let total = 0;
    logs.forEach((log, i) => {
      let hits = 0;
      for (const line of log.querySelectorAll(".log p")) {
        unmark(line);
        const text = line.textContent;
        const hit = words !== "" && text.toLowerCase().includes(words);
        line.hidden = words !== "" && !hit;
        if (hit) { hits++; if (total + hits <= 2000) { mark(line, text, words); } }
      }
      total += hits;
      log.querySelector(".hits").textContent = words ? (hits === 1 ? "1 hit" : hits + " hits") : "";
      if (words) { log.open = hits > 0; } else if (before) { log.open = before[i]; }
    });
    if (!words) { before = null; }
    found.textContent = words ? (total === 1 ? "1 line" : total + " lines") : "";
    label();
  };
  let soon = 0;
  find.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(search, 80); });
  find.addEventListener("keydown", e => { if (e.key === "Escape") { find.value = ""; search(); } });
  unfold.addEventListener("click", () => {
    const open = !logs.every(log => log.open);
    for (const log of logs) { log.open = open; }
    label();
  });
  for (const log of logs) { log.addEventListener("toggle", label); }
  label();
  addEventListener("keydown", e => {
    if (e.key === "/" && !/^(INPUT|TEXTAREA)$/.test(e.target.tagName)) { e.preventDefault(); find.focus(); }
  });
  const show = () => {
    const log = location.hash.startsWith("#log-") && document.getElementById(location.hash.slice(1));
    if (log) { log.open = true; log.scrollIntoView(); log.querySelector("summary").focus({preventScroll: true}); }
  };
  addEventListener("hashchange", show);
  show();
  let printed = [];
  addEventListener("beforeprint", () => { printed = logs.map(log => log.open); for (const log of logs) { log.open = true; } });
  addEventListener("afterprint", () => logs.forEach((log, i) => { log.open = printed[i]; }));
})();
