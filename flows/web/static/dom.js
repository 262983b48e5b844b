/**
 * Building the page. Whatever the server sends becomes a text node here, never markup: there is no other way in.
 */

const SVG = "http://www.w3.org/2000/svg";

/** Characters that are not seen or that turn a line around: shown by their number, so that no text can pose as another. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g;

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {Record<string, unknown>} Attributes `class`, `on` ({event: listener}), `data`; the rest as attributes, or as
 *   properties where the value is no string.
 */

/**
 * An element with its attributes and children; strings become text.
 * @param {string} tag @param {Attributes} [attributes] @param {...(Child | Child[])} children @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. @param {string} tag @param {Attributes} [attributes] @param {...(Child | Child[])} children @returns {any} */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** @param {any} element @param {Attributes} attributes @param {(Child | Child[])[]} children */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (value === true || typeof value === "string" || typeof value === "number") element.setAttribute(name, value === true ? "" : String(value));
    else element[name] = value;
  }
  append(element, children);
  return element;
}

/** @param {any} element @param {any[]} children */
function append(element, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
}

/** Puts these in the place of what an element holds. @param {Element} element @param {...(Child | Child[])} children */
export function put(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/**
 * Text of others: what cannot be seen in it is marked.
 * @param {unknown} text @returns {DocumentFragment}
 */
export function foreign(text) {
  const made = document.createDocumentFragment();
  const whole = String(text ?? "");
  let at = 0;
  for (const found of whole.matchAll(UNSEEN)) {
    if (found.index > at) made.append(whole.slice(at, found.index));
    const code = "U+" + found[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    made.append(h("span", { class: "unseen", title: "a character that is not seen" }, code));
    at = found.index + 1;
  }
  if (at < whole.length) made.append(whole.slice(at));
  return made;
}

/** An address of others: as text, and a link only where a browser may safely follow it. @param {unknown} url @returns {any} */
export function address(url) {
  const shown = foreign(url);
  if (typeof url !== "string" || !/^https?:\/\//i.test(url)) return h("span", { class: "url" }, shown);
  return h("a", { class: "url", href: url, rel: "noopener noreferrer", target: "_blank" }, shown);
}

/** @param {string} label @param {() => void} press @param {Attributes} [more] @returns {HTMLButtonElement} */
export function button(label, press, more = {}) {
  return h("button", { type: "button", ...more, on: { click: press, .../** @type {object} */ (more.on ?? {}) } }, label);
}

/** A label over its control. @param {string} label @param {any} control @param {string} [help] */
export function field(label, control, help = "") {
  return h("label", { class: "field", title: help || null }, h("span", {}, label), control);
}

/** @param {string[] | [string, string][]} options @param {string} [chosen] @param {Attributes} [more] */
export function select(options, chosen = "", more = {}) {
  const made = options.map((each) => (Array.isArray(each) ? each : [each, each]))
    .map(([value, label]) => h("option", { value, selected: value === chosen || null }, label));
  return h("select", more, made);
}

/** Facts as a list of names and values; empty ones are left out. @param {[string, Child | Child[]][]} pairs */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/**
 * A table that becomes a list on a narrow screen.
 * @param {string} caption @param {string[]} heads @param {(Child | Child[])[][]} rows
 */
export function table(caption, heads, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}

/** Parts of a difference, as inserted, deleted and equal text. @param {{kind: string, text: string}[]} parts */
export function difference(parts) {
  const tags = { insert: "ins", delete: "del" };
  return h("pre", { class: "text" }, parts.map((part) => h(tags[part.kind] ?? "span", {}, foreign(part.text))));
}

/** @param {unknown} value @param {number} [digits] */
export function number(value, digits = 3) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

/** @param {number} bytes */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < units.length - 1; unit++) bytes /= 1000;
  return `${number(bytes)} ${units[unit]}`;
}
