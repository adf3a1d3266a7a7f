// Before the first paint, so that nothing flashes: what was chosen last.
try {
  const theme = localStorage.getItem("aipod.theme");
  if (theme) {
    document.documentElement.dataset.theme = theme;
  }
} catch {
  // Storage is off: the system's choice it is.
}
