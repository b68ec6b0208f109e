// Tables of a check: figures, methods and samples; and the dialog of one sample.

const interval = ({ low, high }) => (low === null || low === undefined ? "–" : `${fixed(low)} – ${fixed(high)}`);

function drawFigures() {
  const controls = DATA.controls;
  fillTable(
    $("figures"),
    ["", t("mean"), t("interval"), ...controls.map((name) => t(`c_${name}`)), t("all_layers")],
    DATA.figures
      .filter((name) => DATA.headline[name] && DATA.headline[name].mean !== null)
      .map((name) => {
        const figure = DATA.headline[name];
        return [
          t(`f_${name}`),
          fixed(figure.mean),
          interval(figure),
          ...controls.map((control) => fixed(figure[control])),
          fixed(figure.all_layers?.mean),
        ];
      }),
  );
  const cells = DATA.answers_and_grounding,
    total = sum(Object.values(cells));
  $("both").hidden = !total;
  const share = (name) => `${cells[name]} (${percent(cells[name] / (total || 1))})`;
  fillTable(
    $("both"),
    ["", t("grounded"), t("elsewhere")],
    ["right", "wrong"].map((verdict) => [t(verdict), share(`${verdict}_grounded`), share(`${verdict}_elsewhere`)]),
  );
  const methods = Object.entries(DATA.methods ?? {}).filter(([, figures]) => Object.keys(figures).length);
  $("methods").hidden = !methods.length;
  const names = [
    "pointing",
    "lift",
    "auc",
    "iou",
    "deletion_blur",
    "deletion_mean",
    "insertion_blur",
    "insertion_mean",
    "weights_rank",
    "question_rank",
    "picture_rank",
  ].filter((name) => methods.some(([, figures]) => figures[name]));
  fillTable(
    $("methods"),
    [t("method_name"), ...names.map((name) => t(`f_${name}`))],
    methods.map(([method, figures]) => [method, ...names.map((name) => fixed(figures[name]?.mean))]),
  );
}

function drawRows() {
  const rows = filteredRows();
  const names = ["pointing", "lift", "mass", "auc", "iou", "vision_mass"];
  fillTable(
    $("rows"),
    [t("id"), t("question"), t("answer"), t("accepted_head"), t("judged"), ...names.map((name) => t(`f_${name}`))],
    rows.slice(0, filters.shown).map((index) => {
      const row = DATA.rows[index],
        open = make("button", { type: "button", class: "open" }, row.id);
      open.addEventListener("click", () => openSample(index));
      const cells = [row.question, row.error || row.answer, row.references.join(" | ")].map((text) =>
        make("td", {}, text),
      );
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, open),
        ...cells,
        make("td", {}, ...verdicts(row)),
        ...names.map((name) => make("td", {}, figureText(row, name))),
      );
    }),
  );
  $("more").hidden = rows.length <= filters.shown;
}

let openIndex = null;

/** Open the previous or next sample, in the order of the cards and the table. */
function stepSample(by) {
  const order = filteredRows(),
    next = order[order.indexOf(openIndex) + by];
  if (next !== undefined) openSample(next);
}

/** Show one sample in the dialog, with its figures beside those of the controls. */
function openSample(index) {
  openIndex = index;
  const row = DATA.rows[index],
    card = cardOf.get(index);
  $("sample-title").replaceChildren(row.question, " ", ...verdicts(row));
  const steps = card?.times_s.length ? card.times_s.map((time) => `${time.toFixed(2)} s`).join(", ") : "";
  const lines = [
    `${row.id} · ${row.media.join(", ")}`,
    `${t("answer")}: ${row.answer || t("no_answer")}`,
    row.references.length ? t("accepted", row.references.join(" | ")) : "",
    row.error,
    steps ? t("steps_shown", card.places.length, card.of, steps) : "",
    card ? t("brightest", compact(card.high), times(card.high / card.uniform)) : t("no_picture"),
  ];
  $("sample-card").replaceChildren(
    ...(card ? [pictureRow(card)] : []),
    ...lines.filter(Boolean).map((text) => make("p", {}, text)),
  );
  fillTable(
    $("sample-figures"),
    ["", t("headline"), ...DATA.controls.map((name) => t(`c_${name}`))],
    DATA.figures.map((name, i) => [
      t(`f_${name}`),
      figureText(row, name),
      ...row.controls.map((values) => (values[i] === null ? "–" : compact(values[i]))),
    ]),
  );
  if (!$("sample").open) $("sample").showModal();
}
