/**
 * The frame: views as tabs, the address's fragment as the place in them, the theme, and the key where the server wants one.
 */

import { TOKEN, json, keepKey } from "./api.js";
import { chatView } from "./chat.js";
import { compareView } from "./compare.js";
import { documentsView } from "./documents.js";
import { button, field, h, put } from "./dom.js";
import { findView } from "./find.js";
import { runsView } from "./runs.js";

const THEMES = ["auto", "light", "dark"];
const panel = /** @type {HTMLElement} */ (document.getElementById("panel"));
const bar = /** @type {HTMLElement} */ (document.getElementById("tabs"));
const notice = /** @type {HTMLElement} */ (document.getElementById("notice"));

/** What cannot be done, said where everybody sees it. @param {string} sentence */
function say(sentence) {
  notice.textContent = sentence;
  notice.hidden = !sentence;
}

/** @param {string} theme */
function wear(theme) {
  const toggle = /** @type {HTMLElement} */ (document.getElementById("theme"));
  document.documentElement.dataset.theme = theme;
  toggle.textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme] ?? theme;
  toggle.setAttribute("aria-label", `Colours: ${theme}. Press for the next.`);
  toggle.onclick = () => {
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem("headwater.theme", next);
    wear(next);
  };
}

/** @param {any} site */
function start(site) {
  const place = (fragment) => { location.hash = fragment; };
  let find;
  const views = [
    { name: "chat", label: "Chat", make: () => chatView(site, (text) => { place("find"); find(text); }) },
    { name: "find", label: "Where from", make: () => { const made = findView(); find = made.look; return made.view; } },
    { name: "compare", label: "Compare", make: () => compareView() },
    { name: "documents", label: "Documents", make: () => documentsView() },
    { name: "runs", label: "Runs", make: () => runsView() },
  ].filter((view) => !TOKEN || view.name === "compare");
  /** @type {Map<string, HTMLElement>} */
  const made = new Map();
  const tabs = views.map((view) => button(view.label, () => place(view.name), { role: "tab", id: `tab-${view.name}`, "aria-controls": `view-${view.name}` }));
  put(bar, tabs);
  bar.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = tabs.findIndex((tab) => tab === document.activeElement);
    if (!step || at < 0) return;
    const next = (at + step + tabs.length) % tabs.length;
    place(views[next].name);
    tabs[next].focus();
  };

  function show() {
    const [asked, rest = ""] = location.hash.slice(1).split(/\/(.*)/s);
    const name = views.some((view) => view.name === asked) ? asked : views.find((view) => site.tabs[view.name])?.name ?? views[0].name;
    views.forEach((view, place) => {
      const chosen = view.name === name;
      tabs[place].setAttribute("aria-selected", String(chosen));
      tabs[place].tabIndex = chosen ? 0 : -1;
      if (view.name === "find" || chosen) if (!made.has(view.name)) made.set(view.name, framed(site, view));
      const section = made.get(view.name);
      if (!section) return;
      if (!section.isConnected) panel.append(section);
      section.hidden = !chosen;
      section.dispatchEvent(new CustomEvent(chosen ? "shown" : "left", { detail: rest }));
    });
    document.title = `${views.find((view) => view.name === name)?.label} · Headwater`;
  }
  onhashchange = show;
  show();
}

/** A view in its panel, under a line that says why it has nothing to show. @param {any} site @param {any} view */
function framed(site, view) {
  const why = site.tabs.why_not?.[view.name];
  const inner = view.make();
  const section = h("section", { role: "tabpanel", id: `view-${view.name}`, "aria-labelledby": `tab-${view.name}`, class: "view" }, why ? h("p", { class: "notice soft", role: "note" }, why) : null, inner);
  for (const event of ["shown", "left"]) section.addEventListener(event, (told) => inner.dispatchEvent(new CustomEvent(event, { detail: /** @type {any} */ (told).detail })));
  return section;
}

/** Asks for the key, keeps it, and begins. @param {string} sentence */
function askKey(sentence) {
  const key = h("input", { type: "password", autocomplete: "current-password", required: true });
  put(panel, h("form", { class: "card narrow", on: { submit: (event) => { event.preventDefault(); keepKey(key.value.trim()); begin(); } } },
    h("h1", {}, "This server wants a key"), h("p", { class: "note" }, sentence), field("Key", key), h("button", { class: "primary" }, "Open")));
  key.focus();
}

async function begin() {
  try {
    const site = await json("/api/site");
    panel.replaceChildren();
    start(site);
  } catch (error) {
    if (error.status === 401) askKey(error.message);
    else say(error.message);
  }
}

addEventListener("unhandledrejection", (event) => say(String(event.reason?.message ?? event.reason)));
wear(localStorage.getItem("headwater.theme") ?? "auto");
begin();
