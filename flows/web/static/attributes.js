/**
 * The histogram of an attribute with a threshold that can be moved, which documents would go, and the line of YAML for it.
 */

import { json, query } from "./api.js";
import { button, field, foreign, h, number, put, s, select } from "./dom.js";

const WIDE = 720;
const HIGH = 200;
const PAUSE = 150;

/** @param {(all: any[]) => void} known Is told the attributes. @returns {HTMLElement} */
export function attributesView(known) {
  const state = { at: "", keep: "above", timer: 0, asked: 0 };
  const pick = h("span", { class: "acts" });
  const drawing = h("div", {});
  const told = h("div", { "aria-live": "polite" });
  const trouble = (error) => put(told, h("p", { class: "notice", role: "alert" }, error.message));

  async function begin() {
    const all = await json("/api/attributes");
    known(all);
    if (!all.length) return;
    const chosen = select(all.map((each) => [each.name, each.name]), "", { on: { change: () => draw(chosen.value).catch(trouble) } });
    put(pick, field("Attribute", chosen));
    view.hidden = false;
    await draw(chosen.value);
  }

  /** @param {string} attribute */
  async function draw(attribute) {
    const found = await json(query("/api/histogram", { attribute, bins: 40 }));
    put(told);
    put(drawing, found.kind === "category" ? categories(found, moved) : numbers(found, moved),
      h("p", { class: "note" }, `${number(found.total)} documents${found.undefined ? `, and ${number(found.undefined)} without a value` : ""}${found.partial ? `; of ${number(found.of)}, those read in time` : ""}. `, h("span", { class: "swatch kept" }), "kept today ", h("span", { class: "swatch dropped" }), "dropped today"));
  }

  /** The threshold moved: asked once it rests. @param {string} attribute @param {string} at @param {string} keep */
  function moved(attribute, at, keep) {
    clearTimeout(state.timer);
    const mine = ++state.asked;
    state.timer = setTimeout(async () => {
      try {
        const answer = await json(query("/api/threshold", { attribute, at, keep }));
        if (mine === state.asked) put(told, taken(answer));
      } catch (error) {
        trouble(error);
      }
    }, PAUSE);
  }

  const view = h("section", { class: "card thresholds", hidden: true, on: { shown: () => begin().catch(() => undefined) } }, // no attributes: nothing to show
    h("h2", {}, "What a threshold would take"), pick, drawing, told);
  return view;
}

/** @param {any} found @param {(attribute: string, at: string, keep: string) => void} moved */
function categories(found, moved) {
  return h("div", { class: "acts" }, found.bins.map((bin) => button(`${bin.value}: ${number(bin.kept + bin.dropped)}`, () => moved(found.attribute, bin.value, "is_not"), { class: "quiet", title: "What would go without these" })));
}

/** @param {any} found @param {(attribute: string, at: string, keep: string) => void} moved */
function numbers(found, moved) {
  const { bins } = found;
  if (!bins.length) return h("p", { class: "note" }, "No document has a value.");
  const most = Math.max(...bins.map((bin) => bin.kept + bin.dropped), 1);
  const wide = WIDE / bins.length;
  const bars = bins.map((bin, place) => {
    const [kept, all] = [(HIGH * bin.kept) / most, (HIGH * (bin.kept + bin.dropped)) / most];
    return s("g", {}, s("title", {}, `${number(bin.low)} to ${number(bin.high)}: ${number(bin.kept)} kept, ${number(bin.dropped)} dropped`),
      s("rect", { class: "bin dropped", x: place * wide + 0.5, y: HIGH - all, width: Math.max(0.5, wide - 1), height: all - kept }),
      s("rect", { class: "bin kept", x: place * wide + 0.5, y: HIGH - kept, width: Math.max(0.5, wide - 1), height: kept }));
  });
  const line = s("line", { class: "threshold", y1: 0, y2: HIGH });
  const gone = s("rect", { class: "goes", y: 0, height: HIGH });
  const exact = h("input", { type: "number", step: found.whole ? "1" : "any", on: { change: () => { if (exact.value !== "") set(placeOf(bins, Number(exact.value)), Number(exact.value)); } } });
  const keep = select([["above", "keep above"], ["below", "keep below"]], "above", { on: { change: () => set(at) } });
  const svg = s("svg", { class: "histogram", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", tabindex: "0", role: "slider", "aria-label": `Threshold of ${found.attribute}`, "aria-valuemin": bins[0].low, "aria-valuemax": bins.at(-1).high, on: {
    keydown: (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key] ?? { Home: -bins.length, End: bins.length }[event.key];
      if (step) { event.preventDefault(); set(Math.max(0, Math.min(bins.length, (step > 0 ? Math.floor(at + 1e-9) : Math.ceil(at - 1e-9)) + step))); }
    },
    pointerdown: (event) => { svg.setPointerCapture(event.pointerId); drag(event); },
    pointermove: (event) => { if (event.buttons) drag(event); },
  } }, gone, bars, line);
  const drag = (event) => {
    const box = svg.getBoundingClientRect();
    set(Math.max(0, Math.min(bins.length, ((event.clientX - box.left) / box.width) * bins.length)));
  };
  let at = 0;

  /** @param {number} place In bins. @param {number} [value] */
  function set(place, value = valueAt(bins, place)) {
    at = place;
    if (found.whole) value = Math.round(value);
    const x = place * wide;
    for (const end of ["x1", "x2"]) line.setAttribute(end, String(x));
    gone.setAttribute("x", String(keep.value === "above" ? 0 : x));
    gone.setAttribute("width", String(keep.value === "above" ? x : WIDE - x));
    svg.setAttribute("aria-valuenow", String(value));
    svg.setAttribute("aria-valuetext", `${keep.value} ${number(value, 4)}`);
    exact.value = String(value);
    moved(found.attribute, String(value), keep.value);
  }

  set(placeOf(bins, bins[Math.floor(bins.length / 4)].low));
  return h("div", {}, svg, h("div", { class: "ends" }, h("span", {}, number(bins[0].low)), h("span", {}, number(bins.at(-1).high))), h("div", { class: "acts" }, field("Threshold", exact), field("Rule", keep)));
}

/** Bins are equally wide to the eye, whatever they span. @param {any[]} bins @param {number} place */
export function valueAt(bins, place) {
  const bin = bins[Math.min(bins.length - 1, Math.floor(place))];
  return Number((bin.low + (place - bins.indexOf(bin)) * (bin.high - bin.low)).toPrecision(4));
}

/** @param {any[]} bins @param {number} value */
export function placeOf(bins, value) {
  const place = bins.findIndex((bin) => value < bin.high);
  if (place < 0) return bins.length;
  const { low, high } = bins[place];
  return place + Math.max(0, (value - low) / (high - low || 1));
}

/** @param {any} told */
function taken(told) {
  const copied = button("Copy", () => navigator.clipboard?.writeText(told.yaml), { class: "quiet" });
  return [h("p", {}, h("strong", {}, `${number(told.goes)} documents would go`), `, ${number(told.stays)} would stay; ${number(told.already)} are dropped already.`, told.partial ? ` Counted among ${number(told.looked_at)} of ${number(told.of)}.` : ""),
    h("div", { class: "acts" }, h("pre", { class: "yaml" }, told.yaml), copied), told.note ? h("p", { class: "note" }, foreign(told.note)) : null,
    h("ul", { class: "plain" }, told.examples.map((each) => h("li", {}, h("a", { href: `#documents/${each.id}` }, foreign(each.title || each.url || each.id)), h("span", { class: "note" }, ` ${number(each.value)}`))))];
}
