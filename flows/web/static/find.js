/**
 * The view Where from: the longest runs of a text's words that stand in the training data, and in which documents.
 */

import { json, query } from "./api.js";
import { address, button, facts, field, foreign, h, number, put, select } from "./dom.js";

/** @typedef {{start: number, end: number, tokens: number, count: number, matches: any[]}} Span */

/** @returns {{view: HTMLElement, look: (text: string) => void}} */
export function findView() {
  const text = h("textarea", { id: "find-text", rows: 4, required: true, on: { keydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) look(); } } });
  const dataset = h("span", {});
  const found = h("div", { "aria-live": "polite" });
  const form = h("form", { class: "card", on: { submit: (event) => { event.preventDefault(); look(); } } },
    field("A text, or words of an answer", text), h("div", { class: "acts" }, dataset, h("button", { class: "primary" }, "Find")));

  async function look() {
    if (!text.value.trim()) return;
    put(found, h("p", { class: "note" }, "Looking …"));
    try {
      const chosen = form.querySelector("select")?.value;
      const told = await json("/api/find", { body: { text: text.value, limit: 10, ...(chosen ? { dataset: chosen } : {}) } });
      put(found, result(text.value, told));
    } catch (error) {
      put(found, h("p", { class: "notice", role: "alert" }, error.message));
    }
  }

  async function offer() {
    const all = await json(query("/api/datasets", {}));
    const known = all.filter((each) => (each.kind ?? each.name) === "index").map((each) => `${each.name}/${each.fingerprint}`).reverse();
    if (known.length > 1) put(dataset, field("Index", select([["", "the newest"], ...known.map((each) => /** @type {[string, string]} */ ([each, each]))])));
  }

  offer().catch(() => undefined); // without a choice the newest index is asked
  const view = h("div", {}, form, found);
  return { view, look: (words) => { text.value = words; look(); } };
}

/** @param {string} asked @param {{tokens: number, milliseconds: number, spans: Span[]}} told */
function result(asked, told) {
  const characters = Array.from(asked); // the server counts characters, not halves of them
  const details = h("div", { "aria-live": "polite" });
  const open = (span) => {
    for (const each of text.querySelectorAll(".span")) each.setAttribute("aria-pressed", String(each.dataset.span === String(told.spans.indexOf(span))));
    put(details, spanView(characters, span));
  };
  const text = h("div", { class: "found text", "aria-label": "The text, with what was found" }, pieces(characters, told.spans).map((piece) => {
    if (!piece.span) return foreign(piece.text);
    const label = `${piece.span.tokens} tokens, ${piece.span.count} times`;
    const press = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(piece.span); } };
    return h("span", { role: "button", tabindex: "0", class: `span ${length(piece.span.tokens)}`, title: label, data: { span: told.spans.indexOf(piece.span) }, on: { click: () => open(piece.span), keydown: press } }, foreign(piece.text)); // a button would not break between lines
  }));
  const rows = told.spans.map((span) => h("li", {}, button(`${number(span.tokens)} tokens · ${number(span.count)} ×`, () => open(span), { class: `quiet span ${length(span.tokens)}` }), " ", foreign(clipped(characters.slice(span.start, span.end).join("")))));
  if (told.spans.length) open(told.spans[0]);
  return h("div", { class: "two" },
    h("section", { class: "card" }, text, h("p", { class: "note" }, told.spans.length ? `${number(told.spans.length)} matches among ${number(told.tokens)} tokens of the text, in ${number(told.milliseconds)} ms.` : `None of this text stands in the training data, looked up in ${number(told.milliseconds)} ms.`), h("ul", { class: "plain" }, rows)),
    details);
}

/** The text in pieces, each with the longest span over it. @param {string[]} characters @param {Span[]} spans */
export function pieces(characters, spans) {
  const cuts = [...new Set([0, characters.length, ...spans.flatMap((span) => [span.start, span.end])])].sort((a, b) => a - b);
  const made = [];
  for (let place = 0; place + 1 < cuts.length; place++) {
    const over = spans.filter((span) => span.start <= cuts[place] && span.end >= cuts[place + 1]);
    const span = over.sort((a, b) => b.tokens - a.tokens)[0];
    const text = characters.slice(cuts[place], cuts[place + 1]).join("");
    const last = made.at(-1);
    if (last && last.span === span) last.text += text;
    else made.push({ text, span });
  }
  return made;
}

/** @param {number} tokens */
const length = (tokens) => (tokens < 6 ? "l0" : tokens < 12 ? "l1" : tokens < 25 ? "l2" : "l3");

/** @param {string} text */
const clipped = (text) => (text.length > 90 ? `${text.slice(0, 90)}…` : text);

/** @param {string[]} characters @param {Span} span */
function spanView(characters, span) {
  return h("section", { class: "card matches" },
    h("h2", {}, `${number(span.count)} ${span.count === 1 ? "place" : "places"}`),
    h("p", { class: "note" }, "“", foreign(clipped(characters.slice(span.start, span.end).join(""))), "”"),
    h("ol", { class: "plain" }, span.matches.map(match)));
}

/** @param {any} found */
function match(found) {
  const steps = (found.steps ?? []).map((each) => `${each.model} at ${number(each.step)}`);
  return h("li", { class: "sample" },
    h("strong", {}, foreign(found.title ?? "")), " ", h("div", {}, address(found.url)),
    h("p", { class: "text" }, foreign(found.before), h("mark", {}, foreign(found.text)), foreign(found.after)),
    facts([
      ["Source", foreign(found.source)], ["Archive", found.archive ? foreign(found.archive) : null], ["Offset", found.offset === null ? null : number(found.offset)],
      ["Quality", found.quality === null || found.quality === undefined ? null : number(found.quality)], ["Shard and row", foreign(`${found.shard} · ${found.row}`)],
      ["Steps that trained on it", steps.length ? foreign(steps.slice(0, 6).join(", ") + (steps.length > 6 ? ` and ${steps.length - 6} more` : "")) : null],
    ]),
    h("a", { href: `#documents/${encodeURIComponent(found.id)}` }, "The document"));
}
