/**
 * A conversation is a tree of messages. Editing a question or asking for another answer adds a sibling; nothing is lost.
 *
 * A question's answers stand side by side, one column a model; of one model's answers one is shown. The conversation goes on
 * from the answer that is chosen.
 *
 * @typedef {[text: string, logprob: number, alternatives: [string, number][]]} Token
 * @typedef {{id: string, parent: string, role: "user" | "assistant", text: string, model?: string, finish?: string,
 *   error?: string, sampling?: Record<string, unknown>, tokens?: Token[]}} Message
 * @typedef {{id: string, title: string, system: string, messages: Message[], chosen: Record<string, string>}} Conversation
 * @typedef {{message: Message, siblings: Message[]}} Shown
 * @typedef {{question: Shown, answers: (Shown & {goesOn: boolean})[]}} Turn
 */

export const ROOT = "";
const FORMAT = "headwater-chats";

/** @returns {string} */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {Conversation} */
export function newConversation() {
  return { id: newId(), title: "", system: "", messages: [], chosen: {} };
}

/**
 * @param {Conversation} talk @param {string} parent @param {Partial<Message>} told @returns {Message} The new message, chosen.
 */
export function add(talk, parent, told) {
  const message = { id: newId(), parent, role: "user", text: "", ...told };
  talk.messages.push(message);
  choose(talk, message, message.role === "user" || !talk.chosen[parent]);
  if (!talk.title && message.role === "user") talk.title = message.text.slice(0, 60);
  return message;
}

/** Shows a message among its siblings; `goOn`: the conversation goes on from it. @param {Conversation} talk @param {Message} message @param {boolean} goOn */
export function choose(talk, message, goOn = true) {
  if (message.role === "assistant") talk.chosen[`${message.parent}/${message.model}`] = message.id;
  if (goOn) talk.chosen[message.parent] = message.id;
}

/** @param {Conversation} talk @param {string} id @returns {Message[]} */
export const children = (talk, id) => talk.messages.filter((message) => message.parent === id);

/** What is seen: the turns from the first question to the last. @param {Conversation} talk @returns {Turn[]} */
export function turns(talk) {
  const seen = [];
  for (let at = ROOT; ; ) {
    const questions = children(talk, at);
    const question = questions.find((each) => each.id === talk.chosen[at]) ?? questions.at(-1);
    if (!question) return seen;
    const answers = children(talk, question.id);
    const models = [...new Set(answers.map((each) => each.model ?? ""))];
    const onward = answers.find((each) => each.id === talk.chosen[question.id])?.model ?? models[0];
    const columns = models.map((model) => {
      const siblings = answers.filter((each) => (each.model ?? "") === model);
      const shown = siblings.find((each) => each.id === talk.chosen[`${question.id}/${model}`]) ?? siblings[siblings.length - 1];
      return { message: shown, siblings, goesOn: model === (onward ?? "") };
    });
    seen.push({ question: { message: question, siblings: questions }, answers: columns });
    const last = columns.find((each) => each.goesOn)?.message;
    if (!last) return seen;
    at = last.id;
  }
}

/** The messages from the beginning to this one, as a model is asked. @param {Conversation} talk @param {Message} last */
export function path(talk, last) {
  const by = new Map(talk.messages.map((message) => [message.id, message]));
  const found = [];
  for (let at = by.get(last.id); at; at = by.get(at.parent)) found.unshift({ role: at.role, content: at.text });
  return talk.system ? [{ role: "system", content: talk.system }, ...found] : found;
}

/** Where a question that follows what is seen hangs. @param {Conversation} talk */
export function end(talk) {
  const last = turns(talk).at(-1);
  return last?.answers.find((each) => each.goesOn)?.message.id ?? last?.question.message.parent ?? ROOT;
}

/** @param {Conversation[]} talks @returns {string} */
export function exported(talks) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations: talks }, null, 1);
}

/**
 * The conversations of an exported file. Throws one sentence about anything else.
 * @param {string} text @returns {Conversation[]}
 */
export function imported(text) {
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    throw new Error("This file is no JSON: choose one that was exported here.");
  }
  if (told?.format !== FORMAT || told.version !== 1 || !Array.isArray(told.conversations)) {
    throw new Error("This file holds no conversations: choose one that was exported here.");
  }
  return told.conversations.map(checked);
}

/** @param {any} talk @returns {Conversation} */
function checked(talk) {
  const messages = Array.isArray(talk?.messages) ? talk.messages : [];
  const ids = new Set([ROOT, ...messages.map((each) => each.id)]);
  const before = new Set([ROOT]);
  for (const each of messages) {
    const whole = typeof each.id === "string" && each.id && typeof each.text === "string" && ["user", "assistant"].includes(each.role);
    if (!whole || !before.has(each.parent) || before.has(each.id)) throw new Error("A conversation in this file is broken: a message has no place.");
    before.add(each.id);
  }
  const chosen = Object.entries(talk.chosen ?? {}).filter(([, id]) => typeof id === "string" && ids.has(id));
  const id = typeof talk.id === "string" && talk.id ? talk.id : newId();
  for (const each of messages) {
    if (each.role === "assistant") each.model = String(each.model ?? "");
    if (!Array.isArray(each.tokens) || !each.tokens.every((token) => Array.isArray(token) && typeof token[0] === "string" && Array.isArray(token[2]))) delete each.tokens;
  }
  return { id, title: String(talk.title ?? ""), system: String(talk.system ?? ""), messages, chosen: Object.fromEntries(chosen) };
}
