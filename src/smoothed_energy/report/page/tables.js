// Tables: sorted by a column, within each group of rows, and copied as they are sorted.
const ORDERS = ["none", "ascending", "descending"];

const compare = (isNumber, sign) => (a, b) => {
  const [left, right] = [a, b].map((entry) => entry.key);
  if (left === undefined || right === undefined) {
    return (left === undefined) - (right === undefined); // what is missing comes last, always
  }
  return sign * (isNumber ? Number(left) - Number(right) : left.localeCompare(right, "en", { numeric: true }));
};

const sortTable = (table, head) => {
  const order = ORDERS[(ORDERS.indexOf(head.ariaSort) + 1) % ORDERS.length];
  for (const other of findAll("thead th[aria-sort]", table)) other.ariaSort = "none";
  head.ariaSort = order;
  const place = head.cellIndex;
  const by = compare(head.classList.contains("number"), order === "descending" ? -1 : 1);
  for (const body of table.tBodies) {
    const rows = findAll("tr:not(.group)", body).map((row) => ({
      row,
      first: Number(row.dataset.place),
      key: row.cells[place].dataset.key,
    }));
    rows.sort((a, b) => (order === "none" ? 0 : by(a, b)) || a.first - b.first);
    body.append(...rows.map(({ row }) => row));
  }
  const name = find("button", head).firstChild.textContent.trim();
  say(order === "none" ? "Rows in their first order" : `Sorted by ${name}, ${order}`);
};

const textOf = (figure, format) => {
  const text = JSON.parse(find("script", figure).textContent)[format];
  const groups = [...find("table", figure).tBodies].map((body, place) => {
    const [head, lines] = text.groups[place];
    const rows = findAll("tr:not(.group)", body);
    return head + rows.map((row) => lines[Number(row.dataset.place)]).join("");
  });
  return text.head + groups.join("") + text.foot;
};

const copyText = async (text, near) => {
  find(".by-hand", near.parentElement)?.remove();
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers may have no clipboard for a page from disk.
  }
  const area = make("textarea", { value: text, className: "by-hand", readOnly: true, rows: 8 });
  area.setAttribute("aria-label", "The table as text, to be copied");
  near.after(area);
  area.focus();
  area.select();
  let copied = false;
  try {
    copied = document.execCommand("copy");
  } catch {
    // Then the reader copies what is selected.
  }
  if (copied) area.remove();
  return copied;
};

for (const figure of findAll("figure.table")) {
  const table = find("table", figure);
  for (const body of table.tBodies) {
    findAll("tr:not(.group)", body).forEach((row, place) => { row.dataset.place = place; });
  }
  for (const button of findAll("thead button", table)) {
    button.addEventListener("click", () => sortTable(table, button.closest("th")));
  }
  const controls = findAll(".copy", figure).find(({ dataset }) => dataset.table === figure.id);
  for (const button of findAll("button", controls)) {
    button.addEventListener("click", async () => {
      const copied = await copyText(textOf(figure, button.dataset.format), controls);
      if (copied) button.focus();
      const name = button.dataset.name ??= button.textContent;
      say(copied ? `Copied as ${name}` : "The text is selected: press Ctrl+C, or Command+C");
      if (!copied) return;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = name; }, 1200);
    });
  }
}
