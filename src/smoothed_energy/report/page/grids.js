// Picture grids: axes on rows and columns as the reader likes, pictures decoded when they come near.
const NEAR = "600px";

const show = (image) => {
  if (!image.src) image.src = pictureOf(image.dataset.picture);
};
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    show(target);
  }
}, { rootMargin: NEAR });
beforePrint.push(() => findAll("figure.grid img").forEach(show));

const tip = find("#_tip");
const hideTip = () => { tip.hidden = true; };
const showTip = (button, cell) => {
  tip.replaceChildren(listOf([...cell.axes, ...cell.settings]));
  tip.hidden = false;
  button.setAttribute("aria-describedby", "_tip");
  const [box, own] = [button.getBoundingClientRect(), tip.getBoundingClientRect()];
  const below = box.bottom + own.height + 12 < innerHeight || box.top < own.height + 12;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 6 : box.top - own.height - 6}px`;
};
addEventListener("scroll", hideTip, { passive: true, capture: true });
addEventListener("keydown", ({ key }) => { if (key === "Escape") hideTip(); });

class Grid {
  constructor(figure) {
    this.figure = figure;
    this.data = JSON.parse(find("script", figure).textContent);
    this.box = find(".pictures", figure);
    this.chosen = this.data.axes.map(() => 0);
    this.rows = this.data.rows;
    this.columns = this.data.columns;
    this.cells = new Map();
    this.data.cells.forEach((cell, number) => {
      if (cell.at) this.cells.set(cell.at.join(), number);
    });
    this.prepareControls();
    this.draw();
    this.fit();
  }

  role(name) {
    return find(`[data-role="${name}"]`, this.figure);
  }

  prepareControls() {
    const { axes, small } = this.data;
    for (const role of ["rows", "columns"]) {
      const select = this.role(role);
      select.append(make("option", { value: "", textContent: "none" }));
      axes.forEach(({ name }, axis) => {
        select.append(make("option", { value: axis, textContent: name }));
      });
      select.addEventListener("change", () => {
        this.assign(role, select.value === "" ? null : Number(select.value));
      });
    }
    for (const label of findAll(".for-axes", this.figure)) label.hidden = axes.length < 2;
    find(".for-small", this.figure).hidden = !small;
    const crisp = this.role("crisp");
    crisp.checked = small;
    crisp.addEventListener("change", () => this.sharpen());
    this.sharpen();
    this.role("size").addEventListener("input", ({ target }) => this.resize(target.value));
  }

  sharpen() {
    this.crisp = this.role("crisp").checked;
    this.figure.classList.toggle("crisp", this.crisp);
  }

  resize(pixels) {
    this.role("size").value = pixels;
    this.figure.style.setProperty("--size", `${pixels}px`);
  }

  // The size at which all columns are seen; small pictures at a whole multiple of theirs.
  fit() {
    const width = Math.max(...this.data.cells.map(({ size }) => size[0]));
    const beside = this.columns === null ? 1 : this.data.axes[this.columns].values.length;
    const room = (this.box.clientWidth - 70) / Math.max(beside, 2) - 6;
    const whole = width * Math.max(1, Math.floor(Math.min(room, 192) / width));
    this.resize(Math.max(56, Math.min(this.data.small ? whole : 256, Math.floor(room / 8) * 8)));
  }

  assign(role, axis) {
    const other = role === "rows" ? "columns" : "rows";
    if (axis !== null && this[other] === axis) this[other] = this[role];
    this[role] = axis;
    this.draw();
    this.fit();
  }

  values(axis) {
    return axis === null ? [null] : this.data.axes[axis].values.map((_, place) => place);
  }

  at(row, column) {
    const place = [...this.chosen];
    if (this.rows !== null) place[this.rows] = row;
    if (this.columns !== null) place[this.columns] = column;
    return this.cells.get(place.join());
  }

  drawControls() {
    this.role("rows").value = this.rows ?? "";
    this.role("columns").value = this.columns ?? "";
    const labels = this.data.axes.flatMap(({ name, values }, axis) => {
      if (axis === this.rows || axis === this.columns || values.length < 2) return [];
      const select = make("select");
      values.forEach((value, place) => select.append(make("option", { value: place, textContent: value })));
      select.value = this.chosen[axis];
      select.addEventListener("change", () => {
        this.chosen[axis] = Number(select.value);
        this.draw();
        find(`select[data-axis="${axis}"]`, this.figure).focus();
      });
      select.dataset.axis = axis;
      return [make("label", {}, `${name} `, select)];
    });
    this.role("chosen").replaceChildren(...labels);
  }

  draw() {
    this.drawControls();
    hideTip();
    this.order = this.values(this.rows).map((row) =>
      this.values(this.columns).map((column) => this.at(row, column)));
    const flows = this.rows === null && this.columns !== null;
    this.box.replaceChildren(flows ? this.drawFlow() : this.drawTable());
    this.enter(this.order.flat().find((number) => number !== undefined));
  }

  drawFlow() {
    const { name, values } = this.data.axes[this.columns];
    return make("div", { className: "flow" }, ...this.order[0].map((number, place) =>
      make("div", {}, this.drawCell(number), make("span", { className: "head", textContent: `${name} ${values[place]}` }))));
  }

  drawTable() {
    const table = make("table");
    const rowAxis = this.rows === null ? null : this.data.axes[this.rows];
    if (this.columns !== null) {
      const { name, values } = this.data.axes[this.columns];
      const corner = make("td", { className: "corner" });
      corner.append(make("span", { textContent: rowAxis?.name ?? "" }), make("span", { textContent: name }));
      table.createTHead().append(make("tr", {}, corner,
        ...values.map((value) => make("th", { scope: "col", textContent: value }))));
    }
    const body = table.createTBody();
    this.order.forEach((numbers, place) => {
      const head = rowAxis ? [make("th", { scope: "row", textContent: rowAxis.values[place] })] : [];
      body.append(make("tr", {}, ...head, ...numbers.map((number) => make("td", {}, this.drawCell(number)))));
    });
    return table;
  }

  drawCell(number) {
    if (number === undefined) {
      return make("span", { className: "nothing", textContent: "no picture" });
    }
    const cell = this.data.cells[number];
    const [width, height] = cell.size;
    const image = make("img", { alt: nameOf(cell), width, height, decoding: "async" });
    image.dataset.picture = cell.picture;
    near.observe(image);
    const button = make("button", { type: "button", className: "cell", tabIndex: -1 }, image);
    button.dataset.cell = number;
    button.setAttribute("aria-haspopup", "dialog");
    button.addEventListener("click", () => { hideTip(); viewer.open(this, number); });
    for (const event of ["focus", "pointerenter"]) button.addEventListener(event, () => showTip(button, cell));
    for (const event of ["blur", "pointerleave"]) button.addEventListener(event, hideTip);
    button.addEventListener("focus", () => this.enter(number));
    button.addEventListener("keydown", (event) => {
      const next = this.step(number, event.key);
      if (next === undefined) return;
      event.preventDefault();
      this.focus(next);
    });
    return button;
  }

  button(number) {
    return find(`button[data-cell="${number}"]`, this.box);
  }

  // One cell of a grid is reached by the tabulator, the others from there by arrow keys.
  enter(number) {
    for (const button of findAll('button.cell[tabindex="0"]', this.box)) button.tabIndex = -1;
    const button = this.button(number);
    if (button) button.tabIndex = 0;
  }

  focus(number) {
    this.button(number)?.focus();
  }

  // The next cell with a picture in the direction of an arrow key.
  step(number, key) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
    if (!move) return undefined;
    let row = this.order.findIndex((numbers) => numbers.includes(number));
    let column = this.order[row]?.indexOf(number);
    do {
      row += move[0];
      column += move[1];
    } while (this.order[row] && column >= 0 && column < this.order[row].length && this.order[row][column] === undefined);
    return this.order[row]?.[column];
  }

  // The cell so many places before or after, in reading order.
  neighbour(number, distance) {
    const all = this.order.flat().filter((other) => other !== undefined);
    return all[all.indexOf(number) + distance];
  }

  placeOf(number) {
    const all = this.order.flat().filter((other) => other !== undefined);
    return `${all.indexOf(number) + 1} of ${all.length}`;
  }
}

for (const figure of findAll("figure.grid")) new Grid(figure);
