"use strict";
globalThis.ask = (() => {
  const all = query => [...document.querySelectorAll(query)];
  const seen = node => node.checkVisibility({visibilityProperty: true, opacityProperty: true}) && node.getClientRects().length > 0;
  const called = node => node.tagName.toLowerCase() + (node.id ? "#" + node.id : "") + " " + node.textContent.trim().slice(0, 40);
  const logs = all(".logs details");
  const usable = () => all("a[href], button, input, summary, [tabindex='0']").filter(seen);
  let reached = new Set(), folded = [];
  return {
    numbers: () => all("data").map(node => ({Class: node.className, Value: node.value, Text: node.textContent})),
    values: query => all(query + " data").map(node => Number(node.value)),
    lines: () => all(".log p:not(.cut)").length,
    wide: () => Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth),
    unfold: () => { folded = logs.map(log => log.open); for (const log of logs) { log.open = true; } },
    fold: () => logs.forEach((log, i) => { log.open = folded[i]; }),
    open: () => logs.map(log => log.open),
    rules: async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(v => (
      {ID: v.id, Impact: v.impact, Help: v.help, Nodes: v.nodes.slice(0, 5).map(n => n.html.slice(0, 200) + " " + (n.any[0]?.message ?? ""))})),
    focusable: () => usable().map(called),
    reach: () => { reached.add(document.activeElement); },
    unreached: () => usable().filter(node => !reached.has(node)).map(called),
    empty: () => {
      if (document.activeElement.id !== "find") { throw new Error("the key / does not lead to the search"); }
      document.activeElement.value = "";
    },
    found: () => {
      const words = document.getElementById("find").value.toLowerCase();
      return {
        Found: all(".log p:not(.cut)").filter(seen).length,
        Expected: all(".log p:not(.cut)").filter(line => line.textContent.toLowerCase().includes(words)).length,
        Said: document.getElementById("found").textContent, Marked: all("mark").length,
      };
    },
    after: () => all(".log p:not(.cut)").filter(line => !line.hidden).length,
    upper: () => Math.ceil(document.querySelector(".columns").getBoundingClientRect().bottom + scrollY + 14),
    ground: () => getComputedStyle(document.body).backgroundColor,
    unprinted: () => all(".log p, .facts dd, .gantt tbody th, .layers tbody td, .list dd, .message, .hint").filter(node => !seen(node)).map(called),
  };
})();
