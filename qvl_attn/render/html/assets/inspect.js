// Value, rank and pixels of the pointed or selected cell, and the strongest cells.

function inspect() {
  const cell = state.cell ?? state.selected,
    panel = cell && state.panels[cell.panel];
  inKind(resultOf(panel ?? active()), () =>
    setText($("cell"), panel ? describeCell(panel, cell.index) : t("cell_hint")),
  );
}

/** Which picture and step a cell is in; empty if there is only one. */
const partOf = (result, position) =>
  (result.media.length > 1 ? t("picture_n", position.number + 1) : "") +
  (result.media[0].grid[0] > 1 || result.clip ? t("step_n", position.step + 1) : "");

function describeCell(panel, index) {
  const result = resultOf(panel),
    position = positionOf(result, index),
    { values, fine } = valuesOf(panel);
  if (!position) return "";
  if (!fine) return t("not_yet");
  const [x0, y0, x1, y1] = position.box.map((edge) => Number(edge.toFixed(1)));
  const place = [partOf(result, position), position.row + 1, position.column + 1];
  const rank = ranksOf(values).ranks[index];
  return t("cell_at", ...place, describeValue(panel, values[index]), rank, values.length, x0, x1, y0, y1);
}

/** The ten strongest cells as a table, an alternative to the map for screen readers. */
function drawStrongest() {
  const panel = active(),
    result = resultOf(panel),
    { values, fine } = valuesOf(panel),
    uniform = uniformOf(panel);
  const names = ["rank", "value", ...(uniform === null ? [] : ["multiple"]), "where"];
  const { order, ranks } = fine && uniform !== 0 ? ranksOf(values) : { order: [], ranks: [] };
  fillTable(
    $("strongest"),
    names.map((name) => t(name)),
    [...order.slice(0, 10)].map((index) => {
      const position = positionOf(result, index),
        [x0, y0, x1, y1] = position.box.map(Math.round);
      const multiple = uniform === null ? [] : [(values[index] / uniform).toFixed(1)],
        where = `${partOf(result, position)}x ${x0}-${x1}, y ${y0}-${y1}`;
      return [String(ranks[index]), digits(panel, values[index]), ...multiple, where];
    }),
  );
}
