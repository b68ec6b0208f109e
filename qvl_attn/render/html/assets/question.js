// What a question's result has of its own: its words, the words that attend to a cell, and the grid of heads.

/** Wrap a text in marks that isolate its writing direction. */
const isolate = (text) => `\u2068${text}\u2069`;

function drawWords() {
  const panel = active(),
    result = resultOf(panel);
  for (const name of ["question", "answer"]) {
    const pieces = result.pieces[name].map(([text, row]) => {
      if (row === null) return text;
      const button = make("button", { type: "button", class: "word" }, text);
      button.dataset.row = row;
      button.setAttribute("aria-pressed", String(hasRow(mapOf(panel), row) && panel.row === row));
      button.addEventListener("click", () => change(() => chooseRow(state.active, row)));
      return button;
    });
    $(name).replaceChildren(...(pieces.length ? pieces : [t("no_answer")]));
  }
  $("supplied").textContent = supplied(result);
  drawAttendingWords();
}

/** The model's own answer where the answer was supplied; otherwise empty. */
const supplied = ({ own_answer: own }) => (own === null ? "" : ` (${t("supplied", isolate(own || t("no_answer")))})`);

/** Question and answer, as the texts above a saved view. */
const savedWords = (result) => [
  [`${t("question")}: ${isolate(result.question)}`, "#181a1f"],
  [`${t("answer")}: ${isolate(result.answer || t("no_answer"))}${supplied(result)}`, "#be3e14"],
];

/** List the words that attend to the selected cell in the panel's layers, highest multiple of uniform first. */
function drawAttendingWords() {
  const list = $("attending"),
    selected = state.selected,
    panel = selected && state.panels[selected.panel];
  $("attending-of").hidden = true;
  if (!panel || mapOf(panel).kind !== "attention" || headNow(panel) !== null || resultOf(panel).kind !== "question")
    return list.replaceChildren();
  const result = resultOf(panel),
    drawnSource = sourceOf(panel);
  const source = drawnSource.rows === result.rows.length ? drawnSource : mapOf(panel).sources[0];
  $("attending-of").hidden = source === drawnSource;
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
    .filter((word) => word.row.is_word && word.value !== undefined);
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
      $$(`.word[data-row="${word.number}"]`)[0]?.style.setProperty("--attention", word.multiple / highest);
  }
}

/** Draw the grid of layers by heads, coloured by a figure of each. */
function drawHeadGrid() {
  const panel = active(),
    { heads } = resultOf(panel).maps[0],
    by = $("heads-by").value;
  $("heads-card").hidden = !heads;
  if (!heads) return;
  const values = heads.layers.map((_, layer) => heads[by][layer].slice(0, heads.numbers.length)),
    head = panel.map === 0 ? headNow(panel) : null,
    chosen = head === null ? null : [headLayer(panel), head];
  const describeHead = (layer, index) =>
    `${t("head_of", heads.layers[layer], heads.numbers[index])}: ${percent(values[layer][index])}`;
  drawMatrix($("heads"), {
    values,
    layers: heads.layers,
    heads: heads.numbers,
    chosen,
    label: t("heads"),
    describe: describeHead,
    pick: (layer, index) => change(() => chooseHead(panel, layer, index)),
  });
  const ends = t("heads_ends", ...endsOf(values).map(percent));
  setText($("heads-hint"), `${chosen ? describeHead(...chosen) : t("heads_hint")} ${ends}`);
}

/** What tells questions with the same text apart: picture, layers or method, and how a clip was split into prompts. */
function questionDetails({ maps, headline, clip, media }) {
  const [source] = maps[headline].sources,
    map = headline ? t("method", maps[headline].name) : layersName(source.layers);
  return [media[0].name, map, ...(clip && clip.way !== "clip" ? [clip.way] : [])];
}

/** Describe the map of a method, which is one of the headline's query or of none. */
function describeMethod(panel) {
  const map = mapOf(panel),
    source = sourceOf(panel),
    label = view.language === "en" ? map.layer_label : t("layer");
  const sourceLabel = source.id === "layer" ? `${label} ${source.layers[0]}` : map.caption,
    query = map.follows_query ? ` · ${describeRow(resultOf(panel).rows[0])}` : "";
  return `${t("method", map.name)} · ${sourceLabel}${query}`;
}
