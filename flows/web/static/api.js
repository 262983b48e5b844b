/**
 * Asking the server. Every failure is one sentence; a server that wants a key is given one, which a cookie keeps.
 */

export class Failure extends Error {
  /** @param {string} sentence @param {number} status */
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

/** What an annotator's link holds; it opens the comparisons. */
export const TOKEN = new URLSearchParams(location.search).get("annotator");

/** @param {string} key */
export function keepKey(key) {
  document.cookie = `headwater_key=${encodeURIComponent(key)}; Path=/; SameSite=Strict; Max-Age=31536000${location.protocol === "https:" ? "; Secure" : ""}`;
}

/**
 * @param {string} path @param {{body?: unknown, signal?: AbortSignal, headers?: Record<string, string>}} [options]
 * @returns {Promise<Response>} Only of requests that the server granted.
 */
export async function ask(path, { body, signal, headers = {} } = {}) {
  const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const all = { ...headers, ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  if (TOKEN && !all["X-Annotator"]) all["X-Annotator"] = encodeURIComponent(TOKEN);
  let answer;
  try {
    answer = await fetch(path, { ...sent, headers: all, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure("The server does not answer. Is `headwater serve` still running?", 0);
  }
  if (!answer.ok) throw new Failure(await sentence(answer), answer.status);
  return answer;
}

/** @param {string} path @param {Parameters<typeof ask>[1]} [options] @returns {Promise<any>} null for an empty answer. */
export async function json(path, options) {
  const answer = await ask(path, options);
  return answer.status === 204 ? null : answer.json();
}

/** @param {Response} answer */
async function sentence(answer) {
  try {
    const told = await answer.json();
    if (typeof told.error === "object") return told.error.message;
    const where = told.where && !told.where.startsWith("/api/") ? ` (${told.where})` : "";
    return `${told.error ?? "The server refused"}${where}. ${told.remedy ?? ""}`.trim();
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

/** Parameters with a value, as a query. @param {string} path @param {Record<string, unknown>} parameters */
export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : path;
}

/**
 * The objects of a server-sent stream, until it says that it is done.
 * @param {ReadableStream<Uint8Array>} body @returns {AsyncGenerator<any>}
 */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      waiting += decoder.decode(value, { stream: !done });
      const lines = waiting.split(/\r?\n/);
      waiting = done ? "" : (lines.pop() ?? "");
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => undefined); // a stream that was aborted is cancelled already
  }
}
