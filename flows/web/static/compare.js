/**
 * The view Compare: two answers, and which one a person prefers. Who wrote which is not known here.
 */

import { TOKEN, json } from "./api.js";
import { interval } from "./chart.js";
import { button, field, foreign, h, number, put, table } from "./dom.js";

const NAME = "headwater.annotator";
const CHOICES = [["left", "1  Left"], ["right", "2  Right"], ["tie", "3  Tie"], ["both_bad", "4  Both bad"]];
const BOARD_EVERY = 10_000;

/** @returns {HTMLElement} */
export function compareView() {
  const state = { pair: /** @type {any} */ (null), since: 0, shown: false, timer: 0, doing: /** @type {Promise<void> | null} */ (null) };
  const name = h("input", { maxlength: 64, value: null, placeholder: "me", on: { change: () => { localStorage.setItem(NAME, name.value.trim()); afterwards(following); } } });
  name.value = localStorage.getItem(NAME) ?? "";
  const pair = h("div", { "aria-live": "polite" });
  const progress = h("div", { class: "progress" });
  const trouble = h("p", { class: "notice", role: "alert", hidden: true });
  const guidelines = h("details", { class: "card", hidden: true });
  const board = h("div", {});
  const choices = h("div", { class: "choices", role: "group", "aria-label": "Which answer is better?" }, CHOICES.map(([winner, label]) => button(label, () => vote(winner), { data: { winner } })));
  const undo = button("Undo (u)", () => afterwards(async () => take(await call("undo", {}))), { class: "quiet" });
  const typed = h("input", { maxlength: 4000 });
  const own = h("form", { class: "acts", on: { submit: (event) => { event.preventDefault(); const text = typed.value.trim(); if (text) afterwards(async () => { await call("prompt", { text }); typed.value = ""; await following(); }); } } },
    field("A prompt of your own", typed), h("button", {}, "Ask the models"));

  /** @param {string} path @param {unknown} [body] */
  const call = (path, body) => json(`/api/compare/${path}`, { body, headers: TOKEN ? {} : { "X-Annotator": encodeURIComponent(name.value.trim()) } });

  /** One thing at a time: a vote while something is under way is left out. @param {() => Promise<void>} what */
  function act(what) {
    if (state.doing) return;
    trouble.hidden = true;
    state.doing = what().catch((error) => {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }).finally(() => { state.doing = null; });
  }

  /** What was typed, or is taken back, is not left out: it waits for what is under way. @param {() => Promise<void>} what */
  async function afterwards(what) {
    while (state.doing) await state.doing;
    act(what);
  }

  async function following() {
    put(pair, h("p", { class: "note" }, "The models write …"));
    choices.hidden = true;
    take(await call("next"));
  }

  const next = () => act(following);

  /** @param {any} told */
  function take(told) {
    state.pair = told?.pair ?? null;
    state.since = performance.now();
    choices.hidden = !state.pair;
    put(pair, state.pair ? pairView(state.pair) : h("p", { class: "card" }, "Nothing is left to compare. Thank you."));
    if (!told) return;
    counted(told);
    if (told.guidelines) {
      guidelines.hidden = false;
      const text = typeof told.guidelines === "string" ? told.guidelines : JSON.stringify(told.guidelines);
      put(guidelines, h("summary", {}, "Guidelines"), h("div", { class: "text" }, foreign(text)));
    }
  }

  /** @param {any} told */
  function counted({ progress: counts, annotator }) {
    if (!counts) return;
    put(progress, h("progress", { max: String(counts.total || 1), value: String(counts.done), "aria-label": "Compared so far" }),
      h("span", {}, `${number(counts.done)} of ${number(counts.total)}`, annotator ? [" · ", foreign(annotator)] : null));
  }

  /** @param {string} winner */
  const vote = (winner) => act(async () => {
    if (!state.pair) return;
    const seconds = Math.min(86400, (performance.now() - state.since) / 1000);
    counted(await call("vote", { pair: state.pair.id, winner, seconds }));
    await following();
  });

  /** @param {KeyboardEvent} event */
  function key(event) {
    if (!state.shown || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (/^(input|textarea|select)$/i.test(/** @type {Element} */ (event.target).tagName)) return;
    const choice = CHOICES[Number(event.key) - 1];
    if (choice) vote(choice[0]);
    else if (event.key === "u") undo.click();
  }

  async function refresh() {
    if (!state.shown) return;
    try {
      put(board, boardView(await call("board")));
    } catch (error) {
      put(board, h("p", { class: "note" }, error.message));
    }
    state.timer = setTimeout(refresh, BOARD_EVERY);
  }

  addEventListener("keydown", key);
  return h("div", { on: {
    shown: () => { if (!state.shown) { state.shown = true; clearTimeout(state.timer); if (!state.pair) next(); refresh(); } },
    left: () => { state.shown = false; },
  } },
  h("div", { class: "acts head" }, progress, TOKEN ? null : field("Your name", name)), trouble, guidelines, pair,
  h("div", { class: "acts" }, choices, undo), own,
  h("section", { class: "board" }, h("h2", {}, "Board"), board));
}

/** @param {any} pair */
function pairView(pair) {
  const asked = pair.prompt.map((message) => h("div", { class: message.role === "assistant" ? "bubble model" : "bubble you" }, message.role === "user" ? null : h("small", {}, message.role), h("div", { class: "text" }, foreign(message.content))));
  const side = (label, answer) => h("article", { class: "bubble model", tabindex: "0", "aria-label": label }, h("small", {}, label), h("div", { class: "text" }, foreign(answer.text)));
  return h("div", { data: { pair: pair.id } }, asked, h("div", { class: "answers" }, side("Left", pair.left), side("Right", pair.right)));
}

/** @param {any} told */
function boardView(told) {
  const rated = told.models.filter((each) => Number.isFinite(each.rating));
  const axis = /** @type {[number, number]} */ ([Math.min(...rated.map((each) => each.low ?? each.rating)), Math.max(...rated.map((each) => each.high ?? each.rating))]);
  const { agreement } = told;
  return [
    table("Models", ["Model", "Rating", "95 %", "", "At equal length", "Votes"], told.models.map((each) => [
      foreign(each.model), number(each.rating), `${number(each.low)} … ${number(each.high)}`,
      Number.isFinite(each.rating) ? interval(each.low ?? each.rating, each.rating, each.high ?? each.rating, axis) : null, number(each.rating_length_controlled), number(each.votes)])),
    h("p", { class: "note" }, agreement && Number.isFinite(agreement.alpha)
      ? `Agreement (Krippendorff's α): ${number(agreement.alpha)}, 95 % ${number(agreement.low)} … ${number(agreement.high)}, of ${number(agreement.pairs)} pairs that several judged.`
      : "Agreement is not known: no pair was judged by several people."),
    table("Annotators", ["Name", "Votes", "Consistency", "Seconds, median"], told.annotators.map((each) => [foreign(each.name), number(each.votes), number(each.consistency?.value ?? each.consistency), number(each.median_seconds)])),
  ];
}
