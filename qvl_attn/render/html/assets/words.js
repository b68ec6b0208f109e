// How a page speaks: its strings in the chosen language, its numbers, its elements.

const view = { language: (navigator.language || "en").startsWith("zh") ? "zh" : "en" };

function t(key, ...parts) {
  const text = WORDS[view.language][key] ?? WORDS.en[key] ?? key.replace(/^map_/, "");
  return text.replace(/\{(\d+)\}/g, (_, number) => String(parts[Number(number)] ?? ""));
}

/** Put a text where screen readers speak what changes: the same text again would be spoken again. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A text whose direction reaches no further than itself. */
const isolated = (text) => `\u2068${text}\u2069`;

const $ = (id) => document.getElementById(id);

/** An element with properties, data and children; text is always text. */
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

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Put the chosen language into everything that carries a key of `WORDS`. */
function translate() {
  document.documentElement.lang = view.language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) say(element, t(element.dataset.t));
  for (const element of document.querySelectorAll("[data-t-label]"))
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  const other = $("language");
  other.textContent = view.language === "zh" ? "English" : "中文";
  other.lang = view.language === "zh" ? "en" : "zh";
}

/** As `numbers.compact`: three digits. */
function compact(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** As `numbers.percent`. */
function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

const times = (multiple) => t("times", multiple.toFixed(multiple < 100 ? 1 : 0));

/** `[0, 1, 2, 5]` as `0-2,5`. */
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    const last = runs[runs.length - 1];
    if (last && number === last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

/** The two buttons that every page has. */
function listenToTop(again) {
  $("language").addEventListener("click", () => {
    view.language = view.language === "zh" ? "en" : "zh";
    again();
  });
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    again();
  });
}
