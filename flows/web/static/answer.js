/**
 * One answer as it is read: its text token by token, and what may be done with it.
 *
 * A finished answer is one stop of the Tab key; within it the arrow keys go from token to token. The token that is pointed at
 * tells its probability and what else the model might have written.
 */

import { button, foreign, h, put } from "./dom.js";
import { inTokens } from "./tokens.js";

/** @typedef {import("./tree.js").Message} Message @typedef {import("./tree.js").Token} Token */

const FINISHED = { length: "cut at the longest answer", stopped: "stopped" };
/** What each token element stands for. @type {WeakMap<Element, Token>} */
const told = new WeakMap();

/**
 * @param {import("./tree.js").Shown & {goesOn: boolean}} shown @param {boolean} running
 * @param {{whereFrom: (text: string) => void, again: (message: Message) => void, choose: (message: Message, goOn: boolean) => void}} acts
 * @param {boolean} [several] Whether other models answer beside it.
 */
export function answerView(shown, running, acts, several = false) {
  const { message } = shown;
  const text = h("div", { class: "text", data: { text: message.id } }, running ? foreign(message.text) : tokens(message));
  if (!running) Object.assign(text, { tabIndex: 0, onkeydown: walk });
  text.setAttribute("aria-label", `Answer of ${message.model}`);
  text.setAttribute("role", "group");
  const note = message.error ?? FINISHED[message.finish ?? ""];
  const selected = () => within(text) || message.text;
  return h("article", { class: `bubble model${running ? " running" : ""}`, data: { message: message.id } },
    h("small", {}, foreign(message.model), note ? h("span", { class: message.error ? "bad" : "soft" }, ` · ${note}`) : null),
    text,
    running ? null : h("div", { class: "acts" }, switcher(shown, acts.choose, shown.goesOn),
      button("Regenerate", () => acts.again(message), { class: "quiet" }),
      button("Where from", () => acts.whereFrom(selected()), { class: "quiet", title: "Looks for the selected words, or the whole answer, in the training data", on: { mousedown: (event) => event.preventDefault() } }),
      button("Copy", () => navigator.clipboard?.writeText(message.text), { class: "quiet" }),
      several ? button(shown.goesOn ? "Goes on from here" : "Go on from here", () => acts.choose(message, true), { class: "quiet", "aria-pressed": String(shown.goesOn) }) : null));
}

/** ‹ 2/3 › @param {import("./tree.js").Shown} shown @param {(message: Message, goOn: boolean) => void} choose */
export function switcher(shown, choose, goOn = true) {
  const { message, siblings } = shown;
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(message);
  const to = (place) => choose(siblings[place], goOn);
  return h("span", { class: "switch" },
    button("‹", () => to(at - 1), { class: "quiet", "aria-label": "The one before", disabled: at === 0 }),
    `${at + 1}/${siblings.length}`,
    button("›", () => to(at + 1), { class: "quiet", "aria-label": "The next one", disabled: at === siblings.length - 1 }));
}

/** @param {Message} message */
function tokens(message) {
  const cut = message.tokens && inTokens(message.text, message.tokens);
  if (!cut) return foreign(message.text);
  return cut.map(({ text, token }) => {
    const made = h("span", { class: `token ${likelihood(token[1])}` }, foreign(text));
    told.set(made, token);
    return made;
  });
}

/** @param {number} logprob */
function likelihood(logprob) {
  const p = Math.exp(logprob);
  return p < 0.05 ? "p0" : p < 0.3 ? "p1" : p < 0.7 ? "p2" : "p3";
}

/** Arrow keys in an answer. @param {KeyboardEvent} event */
function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const all = [.../** @type {Element} */ (event.currentTarget).querySelectorAll(".token")];
  if (!step || !all.length || event.shiftKey) return;
  event.preventDefault();
  const at = all.findIndex((each) => each.classList.contains("at"));
  all[at]?.classList.remove("at");
  const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + step))];
  next.classList.add("at");
  next.dispatchEvent(new CustomEvent("token", { bubbles: true }));
}

/** The box that tells about the token under the pointer or the arrow keys. @param {HTMLElement} log */
export function tokenView(log) {
  const box = h("div", { class: "token-box card", role: "status", hidden: true });
  /** @param {Event} event */
  const show = (event) => {
    const element = /** @type {Element} */ (event.target).closest?.(".token");
    const token = element && told.get(element);
    box.hidden = !token;
    if (!element || !token) return;
    const [text, logprob, others] = token;
    put(box, h("div", {}, h("strong", {}, spelt(text)), ` ${percent(logprob)}`), h("ol", { class: "alternatives" }, others.map(([other, value]) =>
      h("li", {}, h("code", {}, spelt(other)), h("meter", { min: 0, max: 1, value: String(Math.exp(value)) }), percent(value)))));
    const place = element.getBoundingClientRect();
    box.style.left = `${Math.max(8, Math.min(place.left, innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${place.bottom + box.offsetHeight + 8 > innerHeight ? place.top - box.offsetHeight - 4 : place.bottom + 4}px`;
  };
  log.addEventListener("mouseover", show);
  log.addEventListener("token", show);
  log.addEventListener("mouseleave", () => { box.hidden = true; });
  log.addEventListener("focusout", () => { box.hidden = true; });
  log.addEventListener("keydown", (event) => { if (event.key === "Escape") box.hidden = true; });
  return box;
}

/** White space that can be seen. @param {string} token */
const spelt = (token) => foreign(token.replaceAll("\n", "↵").replaceAll(" ", "␣") || "(part of a character)");

/** @param {number} logprob */
const percent = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(3)} %`;

/** What is selected inside an element. @param {Element} element */
function within(element) {
  const selection = getSelection();
  return selection?.rangeCount && element.contains(selection.getRangeAt(0).commonAncestorContainer) ? selection.toString().trim() : "";
}
