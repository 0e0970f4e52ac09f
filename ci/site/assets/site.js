// The search, the theme and the buttons that copy. Everything else works without this file.
"use strict";

const root = document.body.dataset.root;
const input = document.getElementById("search");
const list = document.getElementById("found");
const most = 12;
let selected = -1;

// The index is fetched when somebody begins to search: as a script, which works for pages in a folder, too.
let loading;
function index() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = root + "search.js";
    script.onload = () => resolve(window.searchIndex);
    script.onerror = reject;
    document.head.append(script);
  });
  return loading;
}

// find returns the sections that have every word, the best first: words of headings count more than those of texts.
function find(entries, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const found = [];
  for (const entry of entries) {
    const title = entry.t.toLowerCase(), page = entry.p.toLowerCase(), text = entry.x.toLowerCase();
    let score = 0;
    for (const word of words) {
      let points = 0;
      if (title === word) points += 40;
      if (title.split(/[^\p{L}\p{N}-]+/u).includes(word)) points += 20;
      if (title.includes(word)) points += 10;
      if (page.includes(word)) points += 6;
      const times = text.split(word).length - 1;
      if (times) points += 2 + Math.min(times, 5);
      if (!points) { score = 0; break; }
      score += points;
    }
    if (score && text.includes(words.join(" "))) score += 8;
    if (score) found.push({ entry, score });
  }
  return found.sort((a, b) => b.score - a.score).slice(0, most).map((f) => f.entry);
}

// marked appends a text to an element, with the words in it marked.
function marked(element, text, words) {
  const pattern = new RegExp("(" + words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|") + ")", "gi");
  text.split(pattern).forEach((piece, i) => {
    if (i % 2) {
      const mark = document.createElement("mark");
      mark.textContent = piece;
      element.append(mark);
    } else {
      element.append(piece);
    }
  });
}

// around is the part of a text where the first of the words is.
function around(text, words) {
  const lower = text.toLowerCase();
  const places = words.map((w) => lower.indexOf(w)).filter((i) => i >= 0);
  const at = Math.max(0, (places.length ? Math.min(...places) : 0) - 50);
  return (at ? "…" : "") + text.slice(at, at + 170) + (text.length > at + 170 ? "…" : "");
}

async function show() {
  const query = input.value.trim();
  if (!query) return close();
  const words = query.toLowerCase().split(/\s+/);
  const found = find(await index(), query);
  if (query !== input.value.trim()) return; // somebody has typed on
  list.replaceChildren(...found.map((entry, i) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const title = document.createElement("strong"), text = document.createElement("small");
    item.setAttribute("role", "none");
    link.id = "found-" + i;
    link.setAttribute("role", "option");
    link.href = root + entry.u;
    link.tabIndex = -1;
    marked(title, entry.t, words);
    if (entry.p !== entry.t) {
      const page = document.createElement("span");
      page.textContent = " · " + entry.p;
      title.append(page);
    }
    marked(text, around(entry.x, words), words);
    link.append(title, text);
    link.addEventListener("click", close);
    item.append(link);
    return item;
  }));
  if (!found.length) {
    const item = document.createElement("li");
    item.className = "none";
    item.textContent = "Nothing has all of these words.";
    list.append(item);
  }
  list.hidden = false;
  input.setAttribute("aria-expanded", "true");
  select(found.length ? 0 : -1);
}

function close() {
  list.hidden = true;
  input.setAttribute("aria-expanded", "false");
  input.removeAttribute("aria-activedescendant");
}

function select(i) {
  const items = list.querySelectorAll("[role=option]");
  selected = items.length ? (i + items.length) % items.length : -1;
  items.forEach((item, at) => item.setAttribute("aria-selected", String(at === selected)));
  if (selected < 0) return;
  items[selected].scrollIntoView({ block: "nearest" });
  input.setAttribute("aria-activedescendant", items[selected].id);
}

input.addEventListener("input", show);
input.addEventListener("focus", () => { index().catch(() => {}); if (input.value) show(); });
input.addEventListener("keydown", (event) => {
  switch (event.key) {
    case "ArrowDown": select(selected + 1); break;
    case "ArrowUp": select(selected - 1); break;
    case "Enter": list.querySelector("[aria-selected=true]")?.click(); break;
    case "Escape": input.value = ""; close(); input.blur(); break;
    default: return;
  }
  event.preventDefault();
});
document.addEventListener("click", (event) => { if (!event.target.closest(".search")) close(); });
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    input.focus();
    input.select();
  }
});

document.getElementById("theme").addEventListener("click", () => {
  const style = document.documentElement;
  const dark = style.dataset.theme ? style.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  style.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("stepwright-theme", style.dataset.theme); } catch { /* see theme.js */ }
});

for (const pre of document.querySelectorAll("pre")) {
  if (!navigator.clipboard) break;
  const frame = document.createElement("div"), button = document.createElement("button");
  frame.className = "code";
  button.className = "copy";
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(pre.textContent.replace(/^\$ /gm, ""));
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  pre.replaceWith(frame);
  frame.append(pre, button);
}

// On small screens the pages are folded.
if (matchMedia("(max-width: 50rem)").matches) document.getElementById("menu").open = false;
