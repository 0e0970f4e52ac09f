// Before the page is shown: the theme that was chosen here before, if any.
try {
  const chosen = localStorage.getItem("stepwright-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* a browser may keep nothing for pages in a folder */ }
