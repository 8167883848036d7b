// The theme that the reader chose, before anything is drawn in another.
try {
  const theme = localStorage.getItem("smoothed-energy-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Pages from disk may have no storage.
}
document.documentElement.classList.add("script");
