// Value, rank and pixels of the pointed or selected cell, the words that attend to it, and the strongest cells.

function inspect() {
  const cell = state.cell ?? state.selected,
    panel = cell && state.panels[cell.panel];
  setText($("cell"), panel ? describeCell(panel, cell.index) : t("cell_hint"));
}

function describeCell(panel, index) {
  const result = resultOf(panel),
    position = positionOf(result, index),
    { values, fine } = valuesOf(panel);
  if (!position) return "";
  if (!fine) return t("not_yet");
  const where =
    (result.media.length > 1 ? t("picture_n", position.number + 1) : "") +
    (result.clip ? t("step_n", position.step + 1) : "");
  const uniform = entryOf(panel).mass / values.length,
    box = position.box.map((edge) => Number(edge.toFixed(1)));
  return t(
    "told_cell",
    where,
    position.row + 1,
    position.column + 1,
    compact(values[index]),
    uniform > 0 ? times(values[index] / uniform) : "0",
    ranksOf(values).ranks[index],
    values.length,
    box[0],
    box[2],
    box[1],
    box[3],
  );
}

/** List the words that attend to the selected cell in the panel's layers, highest multiple of uniform first. */
function drawAttendingWords() {
  const list = $("lookers"),
    selected = state.selected,
    panel = selected && state.panels[selected.panel];
  for (const word of $$(".word")) word.style.removeProperty("--look");
  $("lookers-of").hidden = true;
  if (!panel || mapOf(panel).name !== "attention" || panel.head) return list.replaceChildren();
  const result = resultOf(panel),
    drawnSource = mapOf(panel).sources[panel.source];
  const source = drawnSource.rows === result.rows.length ? drawnSource : mapOf(panel).sources[0];
  $("lookers-of").hidden = source === drawnSource;
  const words = result.rows
    .map((row, number) => {
      const values = rowOf(source.block, number),
        mass = source.mass[number];
      return {
        row,
        number,
        value: values?.[selected.index],
        multiple: values && mass > 0 ? (values[selected.index] * values.length) / mass : 0,
      };
    })
    .filter((word) => word.row.kind.endsWith(" word") && word.value !== undefined);
  const highest = Math.max(...words.map((word) => word.multiple), 1e-9),
    position = positionOf(result, selected.index);
  list.setAttribute("aria-label", t("cell_of", position.row + 1, position.column + 1));
  list.replaceChildren(
    ...words
      .sort((a, b) => b.multiple - a.multiple)
      .slice(0, 8)
      .map((word) => {
        const button = make(
          "button",
          { type: "button" },
          make("b", {}, word.row.text),
          make("span", {}, `${times(word.multiple)} · ${compact(word.value)}`),
        );
        button.style.setProperty("--share", word.multiple / highest);
        button.addEventListener("click", () => change(() => chooseRow(selected.panel, word.number)));
        return make("li", { title: t(word.row.kind === "answer word" ? "answer" : "question") }, button);
      }),
  );
  if (selected.panel === state.active) {
    for (const word of words)
      $$(`.word[data-row="${word.number}"]`)[0]?.style.setProperty("--look", word.multiple / highest);
  }
}

/** The ten strongest cells as a table, an alternative to the map for screen readers. */
function drawStrongest() {
  const panel = active(),
    result = resultOf(panel),
    { values, fine } = valuesOf(panel),
    table = $("strongest");
  const names = ["looked_rank", "looked_value", "looked_even", "looked_where"];
  table.tHead.replaceChildren(make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, t(name)))));
  const uniform = entryOf(panel).mass / values.length,
    { order, ranks } = fine && uniform > 0 ? ranksOf(values) : { order: [], ranks: [] };
  table.tBodies[0].replaceChildren(
    ...[...order.slice(0, 10)].map((index) => {
      const position = positionOf(result, index),
        [x0, y0, x1, y1] = position.box.map(Math.round);
      const where = `${result.media.length > 1 ? t("picture_n", position.number + 1) : ""}${result.clip ? t("step_n", position.step + 1) : ""}x ${x0}-${x1}, y ${y0}-${y1}`;
      return make(
        "tr",
        {},
        ...[ranks[index], compact(values[index]), (values[index] / uniform).toFixed(1), where].map((text) =>
          make("td", {}, String(text)),
        ),
      );
    }),
  );
}
