// The viewer: a picture large, beside the one that it is compared with, under a slider, or in its place.
const pictureOf = (number) => find(`#_picture-${number}`).textContent;
const nameOf = (cell) => cell.label || cell.axes.map(([name, value]) => `${name} ${value}`).join(", ") || "picture";
// Of two cells of a grid, the axes in which they differ are name enough.
const nameAgainst = (cell, other) => {
  const others = new Map(other.axes);
  const differing = cell.axes.filter(([name, value]) => others.get(name) !== value);
  return nameOf(differing.length && others.size ? { ...cell, axes: differing } : cell);
};
const listOf = (entries) => make("dl", {}, ...entries.map(([name, value]) =>
  make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));

class Viewer {
  constructor(dialog) {
    this.dialog = dialog;
    this.mode = "beside";
    this.stage = find(".stage", dialog);
    this.slider = find(".slider input", dialog);
    this.hold = find('[data-do="hold"]', dialog);
    this.slider.addEventListener("input", () => this.cut());
    for (const button of findAll("[data-mode]", dialog)) {
      button.addEventListener("click", () => this.compare(button.dataset.mode));
    }
    this.onClick("close", () => dialog.close());
    this.onClick("previous", () => this.walk(-1));
    this.onClick("next", () => this.walk(1));
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => this.grid.focus(this.number));
    dialog.addEventListener("keydown", (event) => this.press(event));
    dialog.addEventListener("keyup", (event) => {
      if (event.key.toLowerCase() === "f") this.flip(false);
    });
    this.hold.addEventListener("pointerdown", () => this.flip(true));
    for (const event of ["pointerup", "pointerleave", "pointercancel", "blur"]) {
      this.hold.addEventListener(event, () => this.flip(false));
    }
    const isPress = ({ key }) => key === " " || key === "Enter";
    this.hold.addEventListener("keydown", (event) => { if (isPress(event)) this.flip(true); });
    this.hold.addEventListener("keyup", (event) => { if (isPress(event)) this.flip(false); });
    addEventListener("resize", () => { if (dialog.open) this.fit(); });
  }

  onClick(what, act) {
    find(`[data-do="${what}"]`, this.dialog).addEventListener("click", act);
  }

  open(grid, number) {
    this.grid = grid;
    this.fill(number);
    this.dialog.showModal();
    this.fit();
  }

  // Puts a cell, and what it is compared with, on the stage.
  fill(number) {
    this.number = number;
    const cell = this.cell = this.grid.data.cells[number];
    const other = this.other = cell.baseline === null ? null : this.grid.data.cells[cell.baseline];
    find("#_viewer-title").textContent = nameOf(cell);
    find('[data-role="place"]', this.dialog).textContent = this.grid.placeOf(number);
    for (const [what, distance] of [["previous", -1], ["next", 1]]) {
      find(`[data-do="${what}"]`, this.dialog).disabled = this.grid.neighbour(number, distance) === undefined;
    }
    find(".modes", this.dialog).hidden = other === null;
    this.stage.classList.toggle("crisp", this.grid.crisp);
    this.place("after", cell, other);
    if (other) this.place("before", other, cell);
    this.hold.textContent = other ? `Hold to see ${nameAgainst(other, cell)}` : "";
    this.describe();
    this.compare(this.mode);
  }

  place(role, cell, other) {
    const figure = find(`[data-role="${role}"]`, this.stage);
    const image = find("img", figure);
    image.src = pictureOf(cell.picture);
    image.alt = nameOf(cell);
    [image.width, image.height] = cell.size;
    find("figcaption", figure).textContent = other ? nameAgainst(cell, other) : "";
  }

  // All settings, and those of the other picture where they differ.
  describe() {
    const { cell, other } = this;
    const entries = new Map([...cell.axes, ...cell.settings]);
    const others = new Map(other ? [...other.axes, ...other.settings] : []);
    if (String(cell.size) !== String(cell.original)) {
      entries.set("size", `${cell.original.join(" × ")}, reduced to ${cell.size.join(" × ")}`);
    }
    const list = find("dl.settings", this.dialog);
    list.replaceChildren(...[...entries].map(([name, value]) => {
      const told = make("dd", { textContent: value });
      if (others.has(name) && others.get(name) !== value) {
        told.append(make("span", { className: "other", textContent: ` against ${others.get(name)}` }));
      }
      return make("div", {}, make("dt", { textContent: name }), told);
    }));
  }

  compare(mode) {
    this.mode = mode;
    this.stage.dataset.mode = this.other ? mode : "alone";
    for (const button of findAll("[data-mode]", find(".modes", this.dialog))) {
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    }
    this.flip(false);
    this.cut();
    if (this.dialog.open) this.fit();
  }

  cut() {
    this.stage.style.setProperty("--cut", `${this.slider.value}%`);
  }

  flip(shown) {
    this.stage.classList.toggle("flipped", shown);
    this.hold.setAttribute("aria-pressed", shown);
  }

  // Small pictures are enlarged by whole factors, others shown as large as there is room.
  fit() {
    const [width, height] = this.cell.size;
    const beside = this.stage.dataset.mode === "beside" && innerWidth > 480 ? 2 : 1;
    const room = Math.min(this.stage.clientWidth / beside - 12, (innerHeight * 0.56 * width) / height);
    const factor = room / width;
    const shown = this.grid.data.small ? Math.max(1, Math.min(6, Math.floor(factor))) : Math.min(1, factor);
    this.stage.style.setProperty("--width", `${Math.round(width * shown)}px`);
  }

  walk(distance) {
    const next = this.grid.neighbour(this.number, distance);
    if (next === undefined) return;
    this.fill(next);
    say(nameOf(this.cell));
  }

  press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key.toLowerCase() === "f" && this.other) {
      if (this.mode !== "flicker") this.compare("flicker");
      this.flip(true);
    } else if (event.target !== this.slider && event.key.startsWith("Arrow")) {
      event.preventDefault();
      const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
      const next = vertical
        ? this.grid.step(this.number, event.key)
        : this.grid.neighbour(this.number, event.key === "ArrowLeft" ? -1 : 1);
      if (next === undefined) return;
      this.fill(next);
      say(nameOf(this.cell));
    }
  }
}

const viewer = find("#_viewer") && new Viewer(find("#_viewer"));
