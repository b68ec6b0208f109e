// Texts in the chosen language, number formats, and builders of elements.

/** The language, and the kind of result whose own texts come before those of all kinds. */
const view = { language: (navigator.language || "en").startsWith("zh") ? "zh" : "en", kind: "" };

/** The text of a key in the chosen language: `key@kind` if the kind of result has a text of its own. */
function t(key, ...parts) {
  const words = WORDS[view.language],
    text = words[`${key}@${view.kind}`] ?? words[key] ?? WORDS.en[key] ?? key.replace(/^map_/, "");
  return text.replace(/\{(\d+)\}/g, (_, number) => String(parts[Number(number)] ?? ""));
}

/** Set an element's text if it differs: screen readers read a live region again whenever its text is set. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @type {(id: string) => any} */
const $ = (id) => document.getElementById(id);

/** @type {(selector: string) => any[]} */
const $$ = (selector) => [...document.querySelectorAll(selector)];

/** Create an HTML element with properties or attributes and children; strings become text, never markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Fill a list with [value, text] options; unchanged options are not replaced. */
function fillList(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...options.map(([name, text]) => make("option", { value: name }, text)));
  }
  select.value = value;
}

/** Fill a table; a row is a list of texts, the first of which names it, or an element. */
function fillTable(table, headings, rows) {
  const rowOfTexts = ([first, ...texts]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...texts.map((text) => make("td", {}, text)));
  table.tHead.replaceChildren(make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, text))));
  table.tBodies[0].replaceChildren(...rows.map((row) => (row instanceof Element ? row : rowOfTexts(row))));
}

const SVG = "http://www.w3.org/2000/svg";

/** Create an SVG element with attributes and children. */
function makeSvg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set the texts of all elements that name a key of `WORDS`, in the chosen language. */
function translate() {
  document.documentElement.lang = view.language === "zh" ? "zh-CN" : "en";
  for (const element of $$("[data-t]")) setText(element, t(element.dataset.t));
  for (const element of $$("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  const button = $("language");
  button.textContent = view.language === "zh" ? "English" : "中文";
  button.lang = view.language === "zh" ? "en" : "zh";
}

/** Three significant digits, as `core.text.compact`. */
function compact(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** A figure with a fixed number of digits; a dash where there is none. */
const fixed = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** A share as a percentage, as `core.text.percent`. */
function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

const times = (multiple) => t("times", multiple.toFixed(multiple < 100 ? 1 : 0));

/** Connect the buttons for language and theme; `redraw` draws the page again. */
function listenToHeader(redraw) {
  $("language").addEventListener("click", () => {
    view.language = view.language === "zh" ? "en" : "zh";
    redraw();
  });
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    redraw();
  });
}
