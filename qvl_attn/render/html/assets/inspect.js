// The cell that is pointed at or kept: its value, rank and pixels, the words that look at it; and the strongest cells.

function inspect() {
  const cell = state.cell ?? state.kept,
    panel = cell && state.panels[cell.panel];
  say($("cell"), panel ? tellCell(panel, cell.index) : t("cell_hint"));
}

function tellCell(panel, index) {
  const result = resultOf(panel),
    place = placeOf(result, index),
    { values, fine } = valuesOf(panel);
  if (!place) return "";
  if (!fine) return t("not_yet");
  const where =
    (result.media.length > 1 ? t("picture_n", place.number + 1) : "") +
    (result.clip ? t("step_n", place.step + 1) : "");
  const uniform = shownBy(panel).mass / values.length,
    box = place.box.map((edge) => Number(edge.toFixed(1)));
  return t(
    "told_cell",
    where,
    place.row + 1,
    place.column + 1,
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

/** The words that look at the kept cell, with the layers that are shown; the most above even first. */
function drawLookers() {
  const list = $("lookers"),
    kept = state.kept,
    panel = kept && state.panels[kept.panel];
  for (const chip of document.querySelectorAll(".word")) chip.style.removeProperty("--look");
  $("lookers-of").hidden = true;
  if (!panel || mapOf(panel).name !== "attention" || panel.head) return list.replaceChildren();
  const result = resultOf(panel),
    wanted = mapOf(panel).sources[panel.source];
  const source = wanted.rows === result.rows.length ? wanted : mapOf(panel).sources[0];
  $("lookers-of").hidden = source === wanted;
  const found = result.rows
    .map((row, number) => {
      const values = rowOf(source.block, number),
        mass = source.mass[number];
      return {
        row,
        number,
        value: values?.[kept.index],
        multiple: values && mass > 0 ? (values[kept.index] * values.length) / mass : 0,
      };
    })
    .filter((one) => one.row.kind.endsWith(" word") && one.value !== undefined);
  const most = Math.max(...found.map((one) => one.multiple), 1e-9),
    place = placeOf(result, kept.index);
  list.setAttribute("aria-label", t("cell_of", place.row + 1, place.column + 1));
  list.replaceChildren(
    ...found
      .sort((a, b) => b.multiple - a.multiple)
      .slice(0, 8)
      .map((one) => {
        const button = make(
          "button",
          { type: "button" },
          make("b", {}, one.row.text),
          make("span", {}, `${times(one.multiple)} · ${compact(one.value)}`),
        );
        button.style.setProperty("--share", one.multiple / most);
        button.addEventListener("click", () => change(() => chooseRow(kept.panel, one.number)));
        return make("li", { title: t(one.row.kind === "answer word" ? "answer" : "question") }, button);
      }),
  );
  if (kept.panel === state.active) {
    for (const one of found)
      document.querySelector(`.word[data-row="${one.number}"]`)?.style.setProperty("--look", one.multiple / most);
  }
}

/** The ten strongest cells as a table: the map for those who cannot see it. */
function drawStrongest() {
  const panel = active(),
    result = resultOf(panel),
    { values, fine } = valuesOf(panel),
    table = $("strongest");
  const names = ["looked_rank", "looked_value", "looked_even", "looked_where"];
  table.tHead.replaceChildren(make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, t(name)))));
  const uniform = shownBy(panel).mass / values.length,
    { order, ranks } = fine && uniform > 0 ? ranksOf(values) : { order: [], ranks: [] };
  table.tBodies[0].replaceChildren(
    ...[...order.slice(0, 10)].map((index) => {
      const place = placeOf(result, index),
        [x0, y0, x1, y1] = place.box.map(Math.round);
      const where = `${result.media.length > 1 ? t("picture_n", place.number + 1) : ""}${result.clip ? t("step_n", place.step + 1) : ""}x ${x0}-${x1}, y ${y0}-${y1}`;
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
