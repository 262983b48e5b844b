/**
 * The view Runs: datasets and what they were made from, funnels, and the curves of trainings while they go on.
 */

import { json, query } from "./api.js";
import { bar, curves, lineage } from "./chart.js";
import { button, facts, field, foreign, h, number, put, select, size, table } from "./dom.js";

const EVERY = 2000;
const SLOW = 15_000;

/** @returns {HTMLElement} */
export function runsView() {
  const state = { shown: false, timer: 0, begun: false };
  const [runs, made, funnel] = [h("div", {}), h("div", {}), h("div", {})];
  const course = curvesView();
  const trouble = h("p", { class: "notice", role: "alert", hidden: true });

  async function refresh() {
    if (!state.shown) return;
    try {
      const [datasets, known] = await Promise.all([json("/api/datasets"), json("/api/runs")]);
      put(made, datasetsView(datasets));
      put(runs, runsTable(known));
      course.offer(datasets);
      if (!state.begun) offerFunnels(funnel, known);
      state.begun = true;
      trouble.hidden = true;
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
    state.timer = setTimeout(refresh, SLOW);
  }

  return h("div", { on: {
    shown: () => { if (!state.shown) { state.shown = true; refresh(); course.go(true); } },
    left: () => { state.shown = false; clearTimeout(state.timer); course.go(false); },
  } }, trouble, course.view,
  h("section", { class: "card" }, h("h2", {}, "Funnel"), funnel),
  h("section", { class: "card" }, h("h2", {}, "Datasets and lineage"), made),
  h("section", { class: "card" }, h("h2", {}, "Runs"), runs));
}

/** @param {any[]} datasets */
function datasetsView(datasets) {
  const id = (each) => `${each.name}/${each.fingerprint}`;
  const told = h("div", { "aria-live": "polite" });
  const open = (address) => {
    const each = datasets.find((dataset) => id(dataset) === address);
    const link = (other) => button(other, () => open(other), { class: "quiet" });
    const after = datasets.filter((other) => other.inputs.some((input) => `${input.name}/${input.fingerprint}` === address));
    put(told, h("h3", {}, foreign(address)), facts([
      ["State", each.state], ["Rows", number(each.rows)], ["Size", each.bytes === undefined ? null : size(each.bytes)], ["Labels", (each.labels ?? []).join(", ")], ["Run", foreign(each.run ?? "–")],
      ["Made from", each.inputs.length ? each.inputs.map((input) => link(`${input.name}/${input.fingerprint}`)) : "no dataset"], ["Used by", after.length ? after.map((other) => link(id(other))) : "none"]]));
  };
  if (!datasets.length) return h("p", { class: "note" }, "Nothing is published here yet.");
  const latest = datasets.filter((each) => each.labels?.length || each.state === "running");
  const drawn = (latest.length ? latest : datasets).map((each) => ({ id: id(each), name: each.name, note: each.state === "running" ? "running" : `${number(each.rows)} rows`, inputs: each.inputs.map((input) => `${input.name}/${input.fingerprint}`) }));
  return [lineage(drawn, open), told, h("details", {}, h("summary", {}, "All datasets"), table("Datasets", ["Dataset", "Rows", "Size", "Labels", ""], datasets.map((each) => [foreign(id(each)), number(each.rows), each.bytes === undefined ? "–" : size(each.bytes), (each.labels ?? []).join(", "), button("Open", () => open(id(each)), { class: "quiet", "aria-label": `Open ${id(each)}` })])))];
}

/** @param {any[]} runs */
function runsTable(runs) {
  if (!runs.length) return h("p", { class: "note" }, "Nothing was run here yet.");
  return table("Runs", ["Run", "Recipe", "State", "Stages", "Began"], runs.map((run) => [foreign(run.id), foreign(run.recipe), h("span", { class: `state ${run.state}` }, run.state), number(Object.keys(run.stages ?? {}).length), foreign(run.started)]));
}

/** @param {HTMLElement} place @param {any[]} runs */
function offerFunnels(place, runs) {
  const shown = h("div", {});
  const look = async () => {
    try {
      put(shown, funnelView(await json(query("/api/funnel", { run: chosen.value }))));
    } catch (error) {
      put(shown, h("p", { class: "note" }, error.message));
    }
  };
  const chosen = select([["", "what is labelled latest"], ...runs.map((run) => /** @type {[string, string]} */ ([run.id, run.id]))], "", { on: { change: look } });
  put(place, field("Run", chosen), shown);
  look();
}

/** @param {any} told */
function funnelView(told) {
  if (!told.stages.length) return h("p", { class: "note" }, "No document stage was run.");
  const most = Math.max(...told.stages.map((stage) => stage.incoming), 1);
  return told.stages.map((stage) => {
    const rules = Object.entries(stage.dropped);
    const lost = rules.reduce((sum, [, amount]) => sum + Number(amount), 0);
    return h("div", { class: "step" }, h("strong", {}, foreign(stage.stage)), ` ${number(stage.kept)} of ${number(stage.incoming)} kept`,
      bar([[stage.kept, "kept", "kept"], [lost, "lost", "dropped"], [stage.failed ?? 0, "failed", "failed"]], most),
      rules.length ? h("p", { class: "note" }, rules.slice(0, 6).map(([rule, amount], place) => [place ? ", " : "", foreign(rule), ` ${number(amount)}`]).flat(), rules.length > 6 ? ` and ${rules.length - 6} more rules` : "") : null);
  });
}

/** Curves of up to two trainings, laid over each other; of one that still runs, what is new is asked for. */
function curvesView() {
  /** @type {Map<string, any>} */
  const held = new Map();
  const state = { going: false, timer: 0, options: "" };
  const drawing = h("div", {});
  const status = h("p", { class: "note", role: "status" });
  const [first, second, metric] = [h("select", { "aria-label": "Training" }), h("select", { "aria-label": "Laid over it" }), h("select", { "aria-label": "Figure" })];
  const log = h("input", { type: "checkbox", on: { change: draw } });
  first.onchange = second.onchange = () => { clearTimeout(state.timer); follow(); };
  metric.onchange = draw;

  /** @param {any[]} datasets */
  function offer(datasets) {
    const trained = datasets.filter((each) => each.curves);
    view.hidden = !trained.length;
    const ids = trained.map((each) => `${each.name}/${each.fingerprint}`).reverse();
    if (ids.join() === state.options) return;
    state.options = ids.join();
    const [was, over] = [first.value, second.value];
    put(first, ids.map((id) => h("option", { value: id }, id)));
    put(second, h("option", { value: "" }, "no other"), ids.map((id) => h("option", { value: id }, id)));
    const preferred = ids.find((id) => id.startsWith("pretrain/")) ?? ids[0];
    first.value = ids.includes(was) ? was : preferred ?? "";
    second.value = ids.includes(over) ? over : "";
    follow();
  }

  async function follow() {
    clearTimeout(state.timer);
    const wanted = [first.value, second.value].filter(Boolean);
    try {
      for (const dataset of wanted) await update(dataset);
      draw();
    } catch (error) {
      status.textContent = error.message;
    }
    if (state.going && wanted.some((dataset) => held.get(dataset)?.running)) state.timer = setTimeout(follow, EVERY);
  }

  /** @param {string} dataset */
  async function update(dataset) {
    const known = held.get(dataset);
    if (known && !known.running) return;
    const told = await json(query("/api/curves", { dataset, since: known?.last ?? 0 }));
    const series = known?.series ?? {};
    for (const [name, points] of Object.entries(told.series)) series[name] = [...(series[name] ?? []), ...points];
    const last = Math.max(known?.last ?? 0, ...Object.values(told.series).map((points) => points.at(-1)?.[0] ?? 0));
    held.set(dataset, { series, last, running: told.running, total: told.total_steps });
  }

  function draw() {
    const chosen = [first.value, second.value].filter((each, place, all) => held.has(each) && all.indexOf(each) === place);
    const names = [...new Set(chosen.flatMap((dataset) => Object.keys(held.get(dataset).series)))].sort();
    const was = names.includes(metric.value) ? metric.value : names.includes("loss") ? "loss" : names[0];
    put(metric, names.map((name) => h("option", { value: name, selected: name === was || null }, name)));
    const lines = chosen.map((dataset) => ({ name: dataset, points: held.get(dataset).series[was] ?? [] }));
    put(drawing, curves(lines, { title: was ?? "", log: log.checked }));
    status.textContent = chosen.map((dataset) => { const { running, last, total } = held.get(dataset); return running ? `${dataset} is at step ${number(last)}${total ? ` of ${number(total)}` : ""}.` : ""; }).filter(Boolean).join(" ");
  }

  const view = h("section", { class: "card", hidden: true }, h("h2", {}, "Curves"),
    h("div", { class: "acts" }, field("Training", first), field("Laid over it", second), field("Figure", metric), h("label", { class: "check" }, log, "logarithmic")), status, drawing);
  return { view, offer, go: (going) => { state.going = going; if (going && state.options) follow(); else clearTimeout(state.timer); } };
}
