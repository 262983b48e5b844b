/**
 * What a model says of its tokens, whichever API told it, and how tokens lie in the text that is shown.
 *
 * A token may be a part of a character: its bytes are kept until the character is whole, and it is shown with the token that
 * completes it.
 */

/** @typedef {import("./tree.js").Token} Token */

const SPELT = /\\x([0-9a-f]{2})/g;

/** @param {string} token @returns {Uint8Array} */
function bytesOf(token) {
  if (!token.startsWith("bytes:\\x")) return new TextEncoder().encode(token);
  return Uint8Array.from(token.matchAll(SPELT), ([, hex]) => parseInt(hex, 16));
}

export class TokenReader {
  constructor() {
    /** @type {Token[]} */
    this.tokens = [];
    this._decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  /** The log-probabilities of one choice, of the chat's form or of the completions'. @param {any} told */
  take(told) {
    for (const each of told?.content ?? []) {
      // A control token has no bytes: it stands for no text.
      this._add(Uint8Array.from(each.bytes ?? []), each.logprob,
        (each.top_logprobs ?? []).map((other) => [other.token, other.logprob]));
    }
    (told?.tokens ?? []).forEach((token, place) => {
      this._add(bytesOf(token), told.token_logprobs[place], Object.entries(told.top_logprobs?.[place] ?? {}));
    });
  }

  /** @param {Uint8Array} bytes @param {number | null} logprob @param {[string, number][]} others */
  _add(bytes, logprob, others) {
    const rounded = others.map(([token, value]) => /** @type {[string, number]} */ ([token, round(value)]));
    this.tokens.push([this._decoder.decode(bytes, { stream: true }), round(logprob ?? NaN), rounded.sort((a, b) => b[1] - a[1])]);
  }
}

/** @param {number} value */
const round = (value) => Number(value.toFixed(4));

/**
 * A text cut into its tokens; null where they do not spell it. A character that the last token leaves unfinished is the last's.
 * @param {string} text @param {Token[]} tokens @returns {{text: string, token: Token}[] | null}
 */
export function inTokens(text, tokens) {
  const unfinished = text.endsWith("\ufffd") ? "\ufffd" : "";
  const whole = tokens.map(([spelt]) => spelt).join("") + unfinished;
  let skip = whole.startsWith(text) ? 0 : whole.length - whole.trimStart().length;
  if (!whole.slice(skip).startsWith(text)) return null;
  const cut = [];
  let left = text.length;
  for (const token of tokens) {
    const spelt = token[0].slice(skip, skip + left);
    skip = Math.max(0, skip - token[0].length);
    left -= spelt.length;
    if (spelt) cut.push({ text: spelt, token });
  }
  if (left && cut.length) cut[cut.length - 1].text += unfinished;
  return cut;
}
