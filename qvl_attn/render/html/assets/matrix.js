// Layers times heads as a grid to click, or to walk over with the arrow keys.

/** The least and the largest of (L, H) values: the darkest and the brightest. */
function endsOf(values) {
  const known = values.flat().filter(Number.isFinite);
  return [Math.min(...known), Math.max(...known)];
}

/**
 * values: (L, H); pick(layer index, head index) is called for what is clicked or entered. Low layers are at the bottom,
 * as in the charts.
 */
function matrix({ values, layers, heads, chosen, pick, label, words, marked = [] }) {
  const [least, most] = endsOf(values);
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
        ? colorOf(most > least ? (values[row][column] - least) / (most - least) : 1)
        : "transparent";
      cell.setAttribute("aria-label", words(row, column));
      cell.setAttribute("aria-selected", String(Boolean(chosen) && chosen[0] === row && chosen[1] === column));
      if (marked.some(([layer, head]) => layer === layers[row] && head === heads[column])) cell.classList.add("marked");
      cell.dataset.at = `${row},${column}`;
      line.append(cell);
    }
    table.append(line);
  }
  const numbers = heads.map((head, i) => make("th", { scope: "col" }, heads.length > 16 && i % 4 ? "" : String(head)));
  table.append(make("tr", { role: "row" }, make("th", {}), ...numbers));
  const placeOf = (element) => element?.closest?.("td")?.dataset.at?.split(",").map(Number);
  table.addEventListener("click", (event) => placeOf(event.target) && pick(...placeOf(event.target)));
  table.addEventListener("keydown", (event) => {
    const place = placeOf(event.target);
    if (!place) return;
    const steps = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" || event.key === " ") pick(...place);
    else if (steps[event.key]) {
      const [row, column] = place.map((at, i) => at + steps[event.key][i]);
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

/** Draw a matrix in place of the one before; whoever walked over its cells stays where they were. */
function drawMatrix(holder, options) {
  const at = holder.contains(document.activeElement) ? document.activeElement.dataset.at : undefined;
  holder.replaceChildren(matrix(options));
  const cell = at && holder.querySelector(`[data-at="${at}"]`);
  if (!cell) return;
  holder.querySelector("[tabindex='0']").tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}
