/**
 * The view Documents: search, one document from its archive to its steps, and what a threshold would take.
 */

import { json, query } from "./api.js";
import { attributesView } from "./attributes.js";
import { address, button, difference, facts, field, foreign, h, number, put, select, table } from "./dom.js";

const WORDS = [["url", "Address"], ["domain", "Domain"], ["text", "Text"], ["source", "Source"], ["language", "Language"], ["rule", "Rule"], ["stage", "Stage"]];
const FATES = /** @type {[string, string][]} */ ([["", "any fate"], ["kept", "kept"], ["dropped", "dropped"], ["failed", "failed"]]);

/** @returns {HTMLElement} */
export function documentsView() {
  const found = h("div", { "aria-live": "polite" });
  const one = h("div", {});
  const search = h("div", {});
  const bounds = h("span", { class: "acts" });
  const form = h("form", { class: "card filters", on: { submit: (event) => { event.preventDefault(); look([""]); } } },
    WORDS.map(([name, label]) => field(label, h("input", { name }))), field("Fate", select(FATES, "", { name: "fate" })), bounds, h("button", { class: "primary" }, "Search"));
  const attributes = attributesView((all) => bounded(bounds, all));
  put(search, form, found, attributes);
  let begun = false;

  /** @param {string[]} cursors Of the pages so far; the last is that of the page that is asked for. */
  async function look(cursors) {
    put(found, h("p", { class: "note" }, "Looking …"));
    try {
      const told = await json(query("/api/documents", { ...asked(form), after: cursors.at(-1), limit: 20 }));
      put(found, page(told, cursors, look));
    } catch (error) {
      put(found, h("p", { class: "notice", role: "alert" }, error.message));
    }
  }

  /** @param {string} id */
  async function open(id) {
    search.hidden = Boolean(id);
    one.hidden = !id;
    if (!id) return;
    put(one, h("p", { class: "note" }, "Reading …"));
    try {
      put(one, documentView(await json(`/api/documents/${id}`)));
    } catch (error) {
      put(one, h("a", { href: "#documents" }, "‹ All documents"), h("p", { class: "notice", role: "alert" }, error.message));
    }
  }

  return h("div", { on: { shown: (event) => { if (!begun) { begun = true; look([""]); attributes.dispatchEvent(new Event("shown")); } open(event.detail); } } }, search, one);
}

/** A least and a greatest value of one attribute. @param {HTMLElement} place @param {any[]} all */
function bounded(place, all) {
  const chosen = select(/** @type {[string, string][]} */ ([["", "no attribute"], ...all.filter((each) => each.kind === "number").map((each) => [each.name, each.name])]), "", { name: "attribute" });
  put(place, field("Attribute", chosen), field("At least", h("input", { name: "min", type: "number", step: "any" })), field("At most", h("input", { name: "max", type: "number", step: "any" })));
}

/** @param {HTMLFormElement} form */
function asked(form) {
  const { attribute, min, max, ...words } = /** @type {Record<string, string>} */ (Object.fromEntries(new FormData(form)));
  return attribute ? { ...words, [`min.${attribute}`]: min, [`max.${attribute}`]: max } : words;
}

/** @param {any} told @param {string[]} cursors @param {(cursors: string[]) => void} look */
function page(told, cursors, look) {
  const rows = told.documents.map((each) => h("li", { class: `sample ${each.fate?.verdict ?? ""}` },
    h("a", { href: `#documents/${each.id}` }, foreign(each.title || each.url || each.id)), h("div", { class: "url" }, foreign(each.url)),
    h("div", { class: "note" }, [each.source, each.language, fate(each.fate), each.characters ? `${number(each.characters)} characters` : ""].filter(Boolean).map((text, place) => [place ? " · " : "", foreign(text)]).flat())));
  const much = told.partial ? ` Looked at ${number(told.looked_at)} of ${number(told.of)} before the time was over; go on for more.` : "";
  return [h("p", { class: "note" }, rows.length ? `Page ${cursors.length}.${much}` : `Nothing found.${much}`), h("ul", { class: "plain results" }, rows),
    h("div", { class: "acts" }, cursors.length > 1 ? button("‹ Page before", () => look(cursors.slice(0, -1))) : null, told.next ? button("Next page ›", () => look([...cursors, told.next])) : null)];
}

/** @param {any} told */
const fate = (told) => (told ? `${told.verdict}${told.stage ? ` by ${told.stage}` : ""}${told.rule ? ` (${told.rule})` : ""}` : "");

/** @param {any} told */
function documentView(told) {
  const origin = told.origin ?? {};
  const { tokens } = told;
  return [h("a", { href: "#documents" }, "‹ All documents"),
    h("section", { class: "card" }, h("h1", {}, foreign(told.title || told.url || told.id)), h("p", {}, address(told.url)),
      facts([["Id", h("code", {}, told.id)], ["Source", foreign(told.source)], ["Language", foreign(told.language)], ["Archive", origin.archive ? foreign(origin.archive) : null], ["Offset", origin.offset === undefined || origin.offset === null ? null : number(origin.offset)]])),
    h("h2", {}, "Through the stages"), h("ol", { class: "plain" }, told.stages.map(stage)),
    h("h2", {}, "As crawled"), crawled(told.crawled ?? {}),
    h("h2", {}, "Near duplicates"), told.duplicates.length ? h("ul", { class: "plain" }, told.duplicates.map(duplicate)) : h("p", { class: "note" }, "None is known."),
    h("h2", {}, "Tokens and steps"), h("section", { class: "card" },
      facts([["Tokens", number(tokens.count)], ["Shards", foreign(tokens.dataset)], ["Model", foreign(tokens.model)], ["Steps that trained on it", tokens.steps?.length ? tokens.steps.map((each) => number(each)).join(", ") : null]]),
      tokens.rows?.length ? table("Rows of the shards", ["Split", "Shard", "Row", "From", "To"], tokens.rows.map((row) => [row.split, foreign(row.shard), number(row.row), number(row.start), number(row.end)])) : null)];
}

/** @param {any} told */
function stage(told) {
  const score = told.score === null || told.score === undefined ? null : `${number(told.score)}${told.threshold === null || told.threshold === undefined ? "" : ` against ${number(told.threshold)}`}`;
  const body = told.changes ? difference(told.changes) : told.text !== null && told.text !== undefined ? h("pre", { class: "text" }, foreign(told.text)) : null;
  return h("li", { class: `sample ${told.verdict}` }, h("strong", {}, foreign(told.stage)), " ", h("span", { class: `verdict ${told.verdict}` }, told.verdict),
    facts([["Rule", foreign(told.rule).textContent ? foreign(told.rule) : null], ["Score", score], ["Detail", told.detail ? foreign(told.detail) : null]]),
    body && h("details", { open: Boolean(told.changes) || null }, h("summary", {}, told.changes ? "What changed" : "Text", told.cut ? " (its beginning)" : ""), body));
}

/** @param {any} told */
function crawled(told) {
  if (told.unavailable) return h("p", { class: "note" }, foreign(told.unavailable));
  const part = (label, text) => (text === null || text === undefined ? null : h("details", {}, h("summary", {}, label, told.cut ? " (its beginning)" : ""), h("pre", { class: "text" }, foreign(text))));
  return h("section", { class: "card" }, part("Markup", told.markup), part("Text", told.text));
}

/** @param {any} told */
function duplicate(told) {
  return h("li", { class: "sample" }, h("a", { href: `#documents/${told.id}` }, foreign(told.url || told.id)),
    h("div", { class: "note" }, foreign(told.relation), told.similarity === null ? "" : ` · ${number(100 * told.similarity)} % alike`),
    told.difference ? h("details", {}, h("summary", {}, "The difference"), difference(told.difference)) : null);
}
