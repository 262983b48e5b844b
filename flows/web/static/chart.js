/**
 * Drawings in SVG: curves over steps, bars, intervals, and who was made from whom.
 */

import { foreign, h, number, s } from "./dom.js";

/** @typedef {{name: string, points: [number, number | null][]}} Line */

const WIDE = 720;
const HIGH = 300;
const EDGE = { left: 62, right: 12, top: 12, bottom: 34 };

/**
 * Curves over one axis of steps. A value that is no number breaks its line.
 * @param {Line[]} lines @param {{title: string, log?: boolean}} options
 */
export function curves(lines, { title, log = false }) {
  const good = (value) => value !== null && Number.isFinite(value) && (!log || value > 0);
  const points = lines.flatMap((line) => line.points.filter(([, value]) => good(value)));
  if (!points.length) return h("p", { class: "note" }, "No figures yet.");
  const scale = log ? Math.log10 : (value) => value;
  const [x0, x1] = bounds(points.map(([step]) => step));
  const [y0, y1] = bounds(points.map(([, value]) => scale(/** @type {number} */ (value))));
  const x = (step) => EDGE.left + ((step - x0) / (x1 - x0)) * (WIDE - EDGE.left - EDGE.right);
  const y = (value) => HIGH - EDGE.bottom - ((scale(value) - y0) / (y1 - y0)) * (HIGH - EDGE.top - EDGE.bottom);
  const back = (at) => (log ? 10 ** at : at);
  const parts = ticks(y0, y1).map((at) => s("g", {},
    s("line", { class: "grid-line", x1: EDGE.left, x2: WIDE - EDGE.right, y1: y(back(at)), y2: y(back(at)) }),
    s("text", { class: "tick", x: EDGE.left - 6, y: y(back(at)) + 4, "text-anchor": "end" }, number(back(at)))));
  parts.push(...ticks(x0, x1).map((at) => s("text", { class: "tick", x: x(at), y: HIGH - 14, "text-anchor": "middle" }, number(at))));
  const last = (line) => line.points.filter(([, value]) => good(value)).at(-1);
  lines.forEach((line, place) => {
    let pen = "M";
    const path = line.points.map(([step, value]) => {
      if (!good(value)) { pen = "M"; return ""; }
      const drawn = `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
      return drawn;
    }).join("");
    parts.push(s("path", { class: `line c${place % 8}`, d: path }, s("title", {}, line.name)));
    if (line.points.length === 1 && last(line)) parts.push(s("circle", { class: `dot c${place % 8}`, cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 4 }));
  });
  const said = lines.map((line) => `${line.name}: ${number(last(line)?.[1])} at step ${number(last(line)?.[0])}`);
  return h("figure", {},
    h("ul", { class: "legend" }, lines.map((line, place) => h("li", {}, h("span", { class: `swatch c${place % 8}` }), foreign(line.name), h("small", {}, ` ${number(last(line)?.[1], 4)}`)))),
    s("svg", { class: "chart", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${title}. ${said.join("; ")}` }, parts,
      s("text", { class: "tick", x: WIDE - EDGE.right, y: HIGH - 1, "text-anchor": "end" }, "step")));
}

/** @param {number[]} values @returns {[number, number]} */
function bounds(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

/** Round numbers from low to high. @param {number} low @param {number} high @returns {number[]} */
export function ticks(low, high, about = 5) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw) ?? raw;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

/** An estimate with its interval, on an axis that rows share. @param {number} low @param {number} at @param {number} high @param {[number, number]} axis */
export function interval(low, at, high, [from, to]) {
  const x = (value) => 5 + (190 * (Math.max(from, Math.min(to, value)) - from)) / (to - from || 1);
  return s("svg", { class: "interval", viewBox: "0 0 200 16", role: "img", "aria-label": `${number(at)}, from ${number(low)} to ${number(high)}` },
    s("line", { class: "track", x1: 0, x2: 200, y1: 8, y2: 8 }), s("line", { class: "whisker", x1: x(low), x2: x(high), y1: 8, y2: 8 }), s("circle", { class: "estimate", cx: x(at), cy: 8, r: 5 }));
}

/** A share as a bar with parts. @param {[number, string, string][]} parts Amount, class, what it is. @param {number} whole */
export function bar(parts, whole) {
  const made = parts.map(([amount, kind, label]) => h("span", { class: kind, title: `${label}: ${number(amount)}` }));
  made.forEach((each, place) => { each.style.width = `${(100 * parts[place][0]) / (whole || 1)}%`; });
  return h("div", { class: "stack", role: "img", "aria-label": parts.map(([amount, , label]) => `${label} ${number(amount)}`).join(", ") }, made);
}

/**
 * Datasets from left to right in the order in which they were made from each other.
 * @param {{id: string, name: string, note: string, inputs: string[]}[]} nodes @param {(id: string) => void} open
 */
export function lineage(nodes, open) {
  const by = new Map(nodes.map((node) => [node.id, node]));
  const depths = new Map();
  const depth = (id, seen = new Set()) => {
    if (depths.has(id)) return depths.get(id);
    const before = by.get(id).inputs.filter((each) => by.has(each) && !seen.has(each));
    depths.set(id, before.length ? 1 + Math.max(...before.map((each) => depth(each, new Set([...seen, id])))) : 0);
    return depths.get(id);
  };
  const rows = new Map();
  const places = new Map(nodes.map((node) => {
    const column = depth(node.id);
    const row = rows.get(column) ?? 0;
    rows.set(column, row + 1);
    return [node.id, { x: 8 + column * 158, y: 8 + row * 54 }];
  }));
  const wide = 8 + 158 * (1 + Math.max(0, ...rows.keys()));
  const high = 8 + 54 * Math.max(1, ...rows.values());
  const edges = nodes.flatMap((node) => node.inputs.filter((each) => places.has(each)).map((each) => {
    const [from, to] = [places.get(each), places.get(node.id)];
    const bend = (from.x + 130 + to.x) / 2;
    return s("path", { class: "edge", d: `M${from.x + 130} ${from.y + 20}C${bend} ${from.y + 20} ${bend} ${to.y + 20} ${to.x} ${to.y + 20}` });
  }));
  const boxes = nodes.map((node) => {
    const { x, y } = places.get(node.id);
    return s("g", { class: "node", tabindex: "0", role: "button", "aria-label": `${node.name}, ${node.note}`, on: {
      click: () => open(node.id), keydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(node.id); } } } },
    s("rect", { class: "box", x, y, width: 130, height: 40, rx: 8 }), s("text", { class: "box-name", x: x + 10, y: y + 17 }, foreign(node.name).textContent), s("text", { class: "box-note", x: x + 10, y: y + 32 }, node.note));
  });
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Lineage" }, s("svg", { class: "lineage", width: wide, height: high, viewBox: `0 0 ${wide} ${high}` }, edges, boxes));
}
