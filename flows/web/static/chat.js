/**
 * The view Chat: conversations, kept in this browser alone, and answers that stream in, of one model or of several.
 */

import { Failure, ask, events } from "./api.js";
import { answerView, switcher, tokenView } from "./answer.js";
import { button, field, foreign, h, put } from "./dom.js";
import { TokenReader } from "./tokens.js";
import { add, choose, end, exported, imported, newConversation, newId, path, turns } from "./tree.js";

/** @typedef {import("./tree.js").Conversation} Conversation @typedef {import("./tree.js").Message} Message */

const KEPT = "headwater.chats";
const SAMPLING = "headwater.sampling";
/** Name, label, least, greatest, step, what is meant. */
const CONTROLS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0 takes the likeliest token each time"],
  ["top_p", "Top-p", 0, 1, 0.01, "only the likeliest tokens that hold this share of the probability"],
  ["top_k", "Top-k", 0, 1000, 1, "only so many of the likeliest; 0: all"],
  ["min_p", "Min-p", 0, 1, 0.01, "only tokens this likely, as a share of the likeliest"],
  ["max_tokens", "Longest answer", 1, 100000, 1, "tokens; empty: as many as fit"],
  ["repetition_penalty", "Repetition penalty", 0.1, 10, 0.05, "1: none"],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, "0: none"],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, "0: none"],
  ["seed", "Seed", 0, 9007199254740991, 1, "empty: another each time"],
];

/** @param {any} site What /api/site told. @param {(text: string) => void} whereFrom */
export function chatView(site, whereFrom) {
  const state = {
    talks: stored(KEPT, []),
    at: 0,
    sampling: stored(SAMPLING, { temperature: 0.7, max_tokens: 256 }),
    models: new Set(site.models.filter((model) => model.chat).slice(0, 1).map((model) => model.id)),
    /** @type {Map<string, AbortController>} */
    running: new Map(),
    editing: "",
  };
  if (!state.models.size && site.models.length) state.models.add(site.models[0].id);
  if (!state.talks.length) state.talks.push(newConversation());
  const talk = () => /** @type {Conversation} */ (state.talks[state.at]);
  const list = h("div", { class: "talks" });
  const log = h("div", { class: "log", role: "log", "aria-live": "polite", "aria-label": "Conversation" });
  const status = h("p", { class: "note", role: "status" });
  const input = h("textarea", { id: "chat-input", rows: 3, "aria-label": "Your message", placeholder: "Write to the model. Enter sends, Shift+Enter makes a line.",
    on: { keydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); } } } });
  const system = h("textarea", { rows: 2, "aria-label": "System prompt", on: { input: () => { talk().system = system.value; keep(); } } });
  const stop = button("Stop", () => { for (const running of state.running.values()) running.abort(); }, { class: "danger", hidden: true });

  function keep() {
    status.textContent = keepChats(state.talks);
  }

  function send() {
    const text = input.value.trim();
    if (!text || !state.models.size) return;
    input.value = "";
    const question = add(talk(), end(talk()), { text });
    answer(question, [...state.models]);
  }

  /** @param {Message} question @param {string[]} models */
  function answer(question, models) {
    const own = talk();
    const made = models.map((model) => add(own, question.id, { role: "assistant", model, sampling: { ...state.sampling } }));
    draw();
    for (const message of made) write(own, question, message);
  }

  /** @param {Conversation} own @param {Message} question @param {Message} message */
  async function write(own, question, message) {
    const running = new AbortController();
    const reader = new TokenReader();
    state.running.set(message.id, running);
    redraw(message);
    try {
      await stream(site, own, question, message, reader, running.signal, (text) => {
        log.querySelector(`[data-text="${message.id}"]`)?.append(foreign(text));
      });
    } catch (error) {
      if (running.signal.aborted) message.finish = "stopped";
      else message.error = error instanceof Failure ? error.message : "The answer broke off.";
    }
    message.tokens = reader.tokens;
    state.running.delete(message.id);
    redraw(message);
    keep();
  }

  /** @param {Message} message */
  function redraw(message) {
    const old = log.querySelector(`[data-message="${message.id}"]`);
    const answers = turns(talk()).map((turn) => turn.answers).find((each) => each.some((shown) => shown.message === message));
    const shown = answers?.find((each) => each.message === message);
    if (old && answers && shown) old.replaceWith(answerView(shown, state.running.has(message.id), acts, answers.length > 1));
    log.setAttribute("aria-busy", String(state.running.size > 0));
    stop.hidden = !state.running.size;
  }

  const acts = {
    whereFrom,
    /** @param {Message} message */
    again(message) {
      const question = talk().messages.find((each) => each.id === message.parent);
      if (question) answer(question, [message.model ?? ""]);
    },
    /** @param {Message} message @param {boolean} goOn */
    choose(message, goOn) {
      choose(talk(), message, goOn);
      keep();
      draw();
    },
    /** @param {Message} message */
    edit(message) {
      state.editing = message.id;
      draw();
      log.querySelector("textarea")?.focus();
    },
  };

  /** @param {import("./tree.js").Turn} turn */
  function turnView(turn) {
    const { message } = turn.question;
    const asked = state.editing === message.id ? editor(message) : h("div", { class: "bubble you" }, h("div", { class: "text" }, foreign(message.text)));
    return h("div", { class: "turn" }, asked,
      h("div", { class: "acts" }, switcher(turn.question, acts.choose), button("Edit", () => acts.edit(message), { class: "quiet" })),
      h("div", { class: "answers" }, turn.answers.map((each) => answerView(each, state.running.has(each.message.id), acts, turn.answers.length > 1))));
  }

  /** @param {Message} message */
  function editor(message) {
    const text = h("textarea", { rows: 3, "aria-label": "Edit your message", value: null }, message.text);
    const leave = () => { state.editing = ""; draw(); };
    const send = () => {
      state.editing = "";
      answer(add(talk(), message.parent, { text: text.value.trim() || message.text }), [...state.models]);
    };
    return h("div", { class: "editor" }, text, h("div", { class: "acts" }, button("Send as a branch", send), button("Leave as it is", leave, { class: "quiet" })));
  }

  function draw() {
    system.value = talk().system;
    put(list, state.talks.map((each, place) => h("div", { class: "talk-row" },
      button(each.title || "New conversation", () => { state.at = place; state.editing = ""; draw(); }, { class: "quiet talk", "aria-current": place === state.at ? "true" : null }),
      button("✕", () => remove(place), { class: "quiet", "aria-label": `Delete ${each.title || "conversation"}` }))));
    put(log, turns(talk()).map(turnView));
    if (!log.childElementCount) put(log, h("p", { class: "note" }, "Nothing is said yet. Conversations stay in this browser."));
    log.scrollTop = log.scrollHeight;
  }

  /** @param {number} place */
  function remove(place) {
    if (state.talks[place].messages.length && !confirm("Delete this conversation?")) return;
    state.talks.splice(place, 1);
    if (!state.talks.length) state.talks.push(newConversation());
    state.at = Math.min(state.at, state.talks.length - 1);
    keep();
    draw();
  }

  /** @param {FileList} files */
  async function load(files) {
    try {
      for (const file of files) {
        const known = new Set(state.talks.map((each) => each.id));
        const found = imported(await file.text());
        state.talks.push(...found.map((each) => (known.has(each.id) ? { ...each, id: newId() } : each)));
      }
      state.at = state.talks.length - 1;
      keep();
      draw();
    } catch (error) {
      status.textContent = error.message;
    }
    opened.value = ""; // the same file may be chosen again
  }

  const opened = h("input", { type: "file", accept: "application/json,.json", hidden: true, "aria-label": "Conversations to import", on: { change: () => load(opened.files) } });
  const begin = () => { state.talks.push(newConversation()); state.at = state.talks.length - 1; draw(); input.focus(); };
  draw();
  return h("div", { class: "chat" },
    h("aside", { class: "side card" },
      button("New conversation", begin), list,
      h("div", { class: "acts" }, button("Export", () => download("headwater-chats.json", exported(state.talks)), { class: "quiet" }), button("Import", () => opened.click(), { class: "quiet" }), opened),
      models(site, state.models), h("details", {}, h("summary", {}, "System prompt"), system),
      h("details", {}, h("summary", {}, "Sampling"), sampling(state.sampling))),
    h("section", { class: "talk-pane" }, log, tokenView(log), status,
      h("div", { class: "composer" }, input, h("div", { class: "acts" }, button("Send", send, { class: "primary" }), stop))));
}

/** Writes a message as the model does. @param {any} site @param {Conversation} own @param {Message} question @param {Message} message @param {TokenReader} reader @param {AbortSignal} signal @param {(text: string) => void} wrote */
async function stream(site, own, question, message, reader, signal, wrote) {
  const chats = site.models.find((model) => model.id === message.model)?.chat;
  const said = path(own, question);
  const what = chats ? { messages: said, logprobs: true, top_logprobs: 5 } : { prompt: said.map((each) => each.content).join("\n"), logprobs: 5 };
  const { stop, ...sampling } = message.sampling ?? {};
  const body = { model: message.model, stream: true, ...sampling, ...(stop ? { stop: [String(stop)] } : {}), ...what };
  const response = await ask(chats ? "/v1/chat/completions" : "/v1/completions", { body, signal });
  for await (const told of events(/** @type {any} */ (response.body))) {
    if (told.error) throw new Failure(told.error.message, 500);
    const choice = told.choices[0];
    if (!choice) continue;
    const text = choice.delta?.content ?? choice.text ?? "";
    reader.take(choice.logprobs);
    message.text += text;
    message.finish = choice.finish_reason ?? message.finish;
    if (text) wrote(text);
  }
}

/** @param {any} site @param {Set<string>} chosen */
function models(site, chosen) {
  const box = (model) => h("label", { class: "check" },
    h("input", { type: "checkbox", value: model.id, checked: chosen.has(model.id), on: { change: (event) => (event.target.checked ? chosen.add(model.id) : chosen.delete(model.id)) } }),
    h("span", {}, foreign(model.id), h("small", {}, model.chat ? ` ${model.context} tokens` : " continues text")));
  return h("fieldset", {}, h("legend", {}, "Models"), site.models.map(box));
}

/** @param {Record<string, any>} values */
function sampling(values) {
  const store = () => localStorage.setItem(SAMPLING, JSON.stringify(values));
  const set = (name, value) => { if (value === "") delete values[name]; else values[name] = value; store(); };
  const controls = CONTROLS.map(([name, label, min, max, step, help]) => field(String(label), h("input", {
    type: "number", name, min, max, step, value: String(values[name] ?? ""),
    on: { change: (event) => set(name, event.target.value === "" || !event.target.validity.valid ? "" : Number(event.target.value)) } }), String(help)));
  const stop = h("input", { name: "stop", value: String(values.stop ?? ""), on: { change: () => set("stop", stop.value) } });
  return h("div", { class: "controls" }, controls, field("Stop at", stop, "a text at which the answer ends"));
}

/** @param {string} name @param {string} text */
function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** @param {string} name @param {any} otherwise */
function stored(name, otherwise) {
  try {
    const text = localStorage.getItem(name);
    if (!text) return otherwise;
    return name === KEPT ? imported(text) : JSON.parse(text);
  } catch {
    return otherwise; // spoilt by hand or by another version: begun anew
  }
}

/** Keeps conversations; where the browser has no room, without the tokens' figures. @param {Conversation[]} talks @returns {string} What to say about it. */
function keepChats(talks) {
  const bare = talks.map((talk) => ({ ...talk, messages: talk.messages.map(({ tokens, ...message }) => message) }));
  for (const [what, note] of [[talks, ""], [bare, "The browser's store is nearly full: tokens' probabilities are not kept."]]) {
    try {
      localStorage.setItem(KEPT, exported(what));
      return note;
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
    }
  }
  return "The browser's store is full: export conversations, and delete some.";
}
