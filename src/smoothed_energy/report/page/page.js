// Theme, contents, printing, and what all other parts use: finding, making and saying.
const find = (selector, within = document) => within.querySelector(selector);
const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const say = (text) => { find("#_said").textContent = text; };
const beforePrint = [];

// Theme: that of the system, until the reader chooses.
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";
const themeButton = find("#_theme");
const nameTheme = () => {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
};
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("smoothed-energy-theme", root.dataset.theme);
  } catch {
    // Pages from disk may have no storage.
  }
  nameTheme();
});
systemDark.addEventListener("change", nameTheme);
nameTheme();

// Contents: behind a button where the screen is narrow, with the current section marked.
const contentsButton = find("#_contents");
const showContents = (shown) => {
  contentsButton.setAttribute("aria-expanded", shown);
  find("#_nav").classList.toggle("open", shown);
};
contentsButton.addEventListener("click", () => {
  showContents(contentsButton.getAttribute("aria-expanded") !== "true");
});
find("#_nav").addEventListener("click", (event) => {
  if (event.target.closest("a")) showContents(false);
});
find("#_nav").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || contentsButton.getAttribute("aria-expanded") !== "true") return;
  showContents(false);
  contentsButton.focus();
});
const links = new Map(findAll("#_list a").map((link) => [link.hash.slice(1), link]));
const inView = new Set();
const sections = findAll("main > section");
const sectionsSeen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    inView[isIntersecting ? "add" : "delete"](target);
  }
  const current = sections.find((section) => inView.has(section));
  for (const [anchor, link] of links) {
    if (current?.id === anchor) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-15% 0px -60% 0px" });
for (const section of sections) sectionsSeen.observe(section);

// Paper shows everything.
let opened = [];
const toPaper = () => {
  for (const details of findAll("details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
  for (const prepare of beforePrint) prepare();
};
const fromPaper = () => {
  for (const details of opened) details.open = false;
  opened = [];
};
addEventListener("beforeprint", toPaper);
addEventListener("afterprint", fromPaper);
matchMedia("print").addEventListener("change", ({ matches }) => (matches ? toPaper() : fromPaper()));
