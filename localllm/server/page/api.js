// The server's API as the page uses it: requests with the key, and answers as a stream of events.

const SESSION_KEY = "localllm-session";

// What went wrong, as one sentence, with what to try.
class RequestError extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Server-sent events from pieces of text that are cut anywhere.
class EventStreamParser {
  constructor() {
    this.pieces = [];
    this.data = [];
  }

  // Yields {data} for each event and {comment} for each comment that is complete.
  *feed(text) {
    let start = 0;
    for (let end; (end = text.indexOf("\n", start)) >= 0; start = end + 1) {
      this.pieces.push(text.slice(start, end));
      const line = this.pieces.join("").replace(/\r$/, "");
      this.pieces = [];
      if (line === "") {
        if (this.data.length) yield { data: this.data.join("\n") };
        this.data = [];
      } else if (line.startsWith(":")) {
        yield { comment: line.slice(1).trim() };
      } else if (line.startsWith("data:")) {
        this.data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    this.pieces.push(text.slice(start));
  }
}

class Api {
  constructor() {
    // A key that a link was exchanged for outlives a reload of this tab; one that was typed does not.
    this.key = sessionStorage.getItem(SESSION_KEY);
  }

  // Exchanges the token of a link for a key of this page's own.
  async redeem(token) {
    sessionStorage.removeItem(SESSION_KEY);
    this.key = null;
    const answer = await this.json("/page/session", { token });
    this.key = answer.key;
    sessionStorage.setItem(SESSION_KEY, answer.key);
  }

  forgetKey() {
    sessionStorage.removeItem(SESSION_KEY);
    this.key = null;
  }

  async json(path, body, signal) {
    return (await this.request(path, body, signal)).json();
  }

  async request(path, body, signal) {
    const headers = {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "omit",
        cache: "no-store",
        redirect: "error",
        referrerPolicy: "no-referrer",
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new RequestError("The server does not answer. Is localllm serve still running?");
    }
    if (response.ok) return response;
    const text = await response.text();
    let found = null;
    try {
      found = JSON.parse(text).error;
    } catch {
      // not ours: a proxy's page
    }
    throw errorOf(found, response.status);
  }

  // Yields {chunk}, {comment}; ends after the stream's own end, and raises when that is missing.
  async *chat(body, signal) {
    const response = await this.request("/v1/chat/completions", body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new EventStreamParser();
    try {
      for (;;) {
        let piece;
        try {
          piece = await reader.read();
        } catch (error) {
          if (error.name === "AbortError") throw error;
          break;
        }
        if (piece.done) break;
        for (const event of parser.feed(piece.value)) {
          if (event.data === "[DONE]") return;
          if (event.data === undefined) {
            yield event;
            continue;
          }
          const chunk = JSON.parse(event.data);
          if (chunk.error) throw errorOf(chunk.error, 200);
          yield { chunk };
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
    throw new RequestError("The answer broke off. Is localllm serve still running?");
  }
}

const HINTS = {
  context_length_exceeded: "Begin a new chat, or edit an earlier question.",
  body_too_large: "Send fewer or smaller images.",
  queue_full: "Try again in a moment.",
  rate_limit_exceeded: "Try again in a minute.",
};

function errorOf(found, status) {
  const message = found && typeof found.message === "string" ? found.message : `Error ${status}.`;
  const code = (found && found.code) || "";
  const hint = HINTS[code];
  return new RequestError(hint ? `${message} ${hint}` : message, { status, code });
}
