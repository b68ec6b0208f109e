// Tables of a check: its figures, its methods, its samples; and one sample by itself.

const AT_ONCE = 100;
let rowsShown = AT_ONCE;

const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const interval = (one) =>
  one.low === null || one.low === undefined ? "–" : `${number(one.low)} – ${number(one.high)}`;
const line = (cells, kind = "td") =>
  make(
    "tr",
    {},
    ...cells.map((cell, i) =>
      i || kind === "th" ? make(kind, kind === "th" ? { scope: "col" } : {}, cell) : make("th", { scope: "row" }, cell),
    ),
  );

function fill(table, head, rows) {
  table.tHead.replaceChildren(line(head, "th"));
  table.tBodies[0].replaceChildren(...rows.map((row) => (row instanceof Element ? row : line(row))));
}

function drawFigures() {
  const controls = DATA.controls;
  fill(
    $("figures"),
    ["", t("mean"), t("interval"), ...controls.map((name) => t(`c_${name}`)), t("all_layers")],
    DATA.figures
      .filter((name) => DATA.headline[name] && DATA.headline[name].mean !== null)
      .map((name) => {
        const one = DATA.headline[name];
        return [
          t(`f_${name}`),
          number(one.mean),
          interval(one),
          ...controls.map((control) => number(one[control])),
          number(one.all_layers?.mean),
        ];
      }),
  );
  const cells = DATA.answers_and_grounding,
    total = sum(Object.values(cells));
  $("both").hidden = !total;
  const share = (name) => `${cells[name]} (${percent(cells[name] / (total || 1))})`;
  fill(
    $("both"),
    ["", t("grounded"), t("elsewhere")],
    ["right", "wrong"].map((word) => [t(word), share(`${word}_grounded`), share(`${word}_elsewhere`)]),
  );
  const methods = Object.entries(DATA.methods ?? {}).filter(([, own]) => Object.keys(own).length);
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
  ].filter((name) => methods.some(([, own]) => own[name]));
  fill(
    $("methods"),
    [t("method_name"), ...names.map((name) => t(`f_${name}`))],
    methods.map(([name, own]) => [name, ...names.map((figure) => number(own[figure]?.mean))]),
  );
}

function drawRows() {
  const found = sifted();
  const names = ["pointing", "lift", "mass", "auc", "iou", "vision_mass"];
  fill(
    $("rows"),
    [t("id"), t("question"), t("answer"), t("accepted_head"), t("judged"), ...names.map((name) => t(`f_${name}`))],
    found.slice(0, rowsShown).map((at) => {
      const row = DATA.rows[at],
        open = make("button", { type: "button", class: "open" }, row.id);
      open.addEventListener("click", () => openSample(at));
      const cells = [row.question, row.error || row.answer, row.references.join(" | ")].map((text) =>
        make("td", {}, text),
      );
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, open),
        ...cells,
        make("td", {}, ...verdicts(row)),
        ...names.map((name) => make("td", {}, figureWords(row, name))),
      );
    }),
  );
  $("more").hidden = found.length <= rowsShown;
}

let opened = null;

/** The sample before or after the one that is open, in the order of the cards and the table. */
function stepSample(by) {
  const order = sifted(),
    next = order[order.indexOf(opened) + by];
  if (next !== undefined) openSample(next);
}

/** One sample, large, with all its figures beside those of the controls. */
function openSample(at) {
  opened = at;
  const row = DATA.rows[at],
    card = cardOf.get(at);
  $("sample-title").replaceChildren(row.question, " ", ...verdicts(row));
  const steps = card?.times_s.length ? card.times_s.map((time) => `${time.toFixed(2)} s`).join(", ") : "";
  const told = [
    `${row.id} · ${row.media.join(", ")}`,
    `${t("answer")}: ${row.answer || t("no_answer")}`,
    row.references.length ? t("accepted", row.references.join(" | ")) : "",
    row.error,
    steps ? t("steps_shown", card.places.length, card.of, steps) : "",
    card ? t("brightest", compact(card.high), times(card.high / card.uniform)) : t("no_picture"),
  ];
  $("sample-card").replaceChildren(
    ...(card ? [pictureRow(card)] : []),
    ...told.filter(Boolean).map((text) => make("p", {}, text)),
  );
  fill(
    $("sample-figures"),
    ["", t("headline"), ...DATA.controls.map((name) => t(`c_${name}`))],
    DATA.figures.map((name, i) => [
      t(`f_${name}`),
      figureWords(row, name),
      ...row.controls.map((values) => (values[i] === null ? "–" : compact(values[i]))),
    ]),
  );
  if (!$("sample").open) $("sample").showModal();
}
