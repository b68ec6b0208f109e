// A grid of layers by heads for mouse and arrow keys.

/** The smallest and the largest of (L, H) values. */
function endsOf(values) {
  const finite = values.flat().filter(Number.isFinite);
  return [Math.min(...finite), Math.max(...finite)];
}

/** A colour for a share between 0 and 1. */
function colorOf(share) {
  const level = Math.round(255 * Math.min(Math.max(share, 0), 1));
  const [red, green, blue] = new Uint8Array(TABLES.inferno.buffer, 4 * level, 3);
  return `rgb(${red} ${green} ${blue})`;
}

/**
 * Return the grid as a table; low layers are at the bottom, as in the charts.
 *
 * values: (L, H). chosen: [layer index, head index] or null. pick(layer index, head index): called on a click, Enter or
 * space. describe(layer index, head index): label of a cell. marked: [[layer, head], ...].
 */
function matrix({ values, layers, heads, chosen, pick, label, describe, marked = [] }) {
  const [low, high] = endsOf(values);
  const table = make("table", { role: "grid", class: "matrix" });
  table.setAttribute("aria-label", label);
  const focus = chosen ?? [layers.length - 1, 0];
  for (let row = layers.length - 1; row >= 0; row--) {
    const line = make(
      "tr",
      { role: "row" },
      make("th", { scope: "row" }, layers.length > 14 && row % 4 ? "" : String(layers[row])),
    );
    for (let column = 0; column < heads.length; column++) {
      const cell = make("td", { role: "gridcell", tabIndex: row === focus[0] && column === focus[1] ? 0 : -1 });
      cell.style.backgroundColor = Number.isFinite(values[row][column])
        ? colorOf(high > low ? (values[row][column] - low) / (high - low) : 1)
        : "transparent";
      cell.setAttribute("aria-label", describe(row, column));
      cell.setAttribute("aria-selected", String(Boolean(chosen) && chosen[0] === row && chosen[1] === column));
      if (marked.some(([layer, head]) => layer === layers[row] && head === heads[column])) cell.classList.add("marked");
      cell.dataset.at = `${row},${column}`;
      line.append(cell);
    }
    table.append(line);
  }
  const numbers = heads.map((head, i) => make("th", { scope: "col" }, heads.length > 16 && i % 4 ? "" : String(head)));
  table.append(make("tr", { role: "row" }, make("th", {}), ...numbers));
  const indexOf = (element) => element?.closest?.("td")?.dataset.at?.split(",").map(Number);
  table.addEventListener("click", (event) => indexOf(event.target) && pick(...indexOf(event.target)));
  table.addEventListener("keydown", (event) => {
    const index = indexOf(event.target);
    if (!index) return;
    const steps = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" || event.key === " ") pick(...index);
    else if (steps[event.key]) {
      const [row, column] = index.map((value, i) => value + steps[event.key][i]);
      const next = table.querySelector(`[data-at="${row},${column}"]`);
      if (!next) return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return table;
}

/** Replace the matrix of a holder; the focus stays on the same cell. */
function drawMatrix(holder, options) {
  const focused = document.activeElement,
    at = holder.contains(focused) && focused.getAttribute("data-at");
  holder.replaceChildren(matrix(options));
  const cell = at && holder.querySelector(`[data-at="${at}"]`);
  if (!cell) return;
  holder.querySelector("[tabindex='0']").tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}
