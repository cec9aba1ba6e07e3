// What is seen of a conversation: a turn as an element, and an answer while it comes.

const SLOWEST_RENDER = 10; // a frame that took t ms is followed by none for this many times t
const LARGEST_RENDER = 16000; // characters at once, so that the page answers in between

function button(label, onClick, properties = {}) {
  const made = element("button", { type: "button", ...properties }, label);
  made.addEventListener("click", onClick);
  return made;
}

// One turn; `actions` are what its buttons do: edit(turn), again(turn), show(turn, index).
function turnElement(turn, actions) {
  const answer = turn.role === "assistant";
  const root = element("article", { className: answer ? "answer" : "question" });
  root.setAttribute("aria-label", answer ? "Answer" : "Question");
  if (answer) {
    const view = new AnswerView(root);
    view.set(turn);
  } else {
    for (const url of turn.images) root.append(element("img", { src: url, alt: "Image that was sent" }));
    root.append(element("div", { className: "text plain", dir: "auto" }, visible(turn.text)));
  }
  root.append(turnBar(turn, actions));
  return root;
}

function turnBar(turn, actions) {
  const bar = element("div", { className: "bar" });
  const { versions } = turn;
  if (versions.length > 1) {
    const at = versions.indexOf(turn);
    const what = turn.role === "user" ? "question" : "answer";
    bar.append(
      button("\u2039", () => actions.show(turn, at - 1), { disabled: at === 0, ariaLabel: `Earlier ${what}` }),
      element("span", {}, `${at + 1} of ${versions.length}`),
      button("\u203a", () => actions.show(turn, at + 1), { disabled: at === versions.length - 1, ariaLabel: `Later ${what}` }),
    );
  }
  if (turn.role === "user") {
    bar.append(button("Edit", () => actions.edit(turn)));
  } else {
    const copy = button("Copy", () => copyText(visible(turn.text), copy));
    bar.append(copy, button("Again", () => actions.again(turn), { title: "Answer once more; this answer is kept" }));
  }
  return bar;
}

// An answer. While it comes, text is rendered at most once a frame, and seldom when that is slow.
class AnswerView {
  constructor(root) {
    this.reasoning = element("div", { className: "text plain", dir: "auto" });
    this.fold = element("details", { className: "reasoning", hidden: true }, element("summary", {}, "Reasoning"), this.reasoning);
    this.text = element("div", { className: "text" });
    this.calls = element("div", { className: "calls" });
    this.notes = element("div", { className: "notes" });
    root.append(this.fold, this.text, this.calls, this.notes);
    this.markdown = new MarkdownView(this.text);
    this.pending = { text: "", reasoning: "" };
    this.timer = 0;
    this.onRender = () => {};
  }

  set(turn) {
    this.pending.reasoning = turn.reasoning;
    this.pending.text = turn.text;
    this.finish(turn);
  }

  add({ text = "", reasoning = "" }) {
    this.pending.text += text;
    this.pending.reasoning += reasoning;
    if (!this.timer) this.timer = setTimeout(() => this.render(), this.wait || 16);
  }

  render() {
    clearTimeout(this.timer);
    this.timer = 0;
    const began = performance.now();
    const text = this.take("text");
    const reasoning = this.take("reasoning");
    if (reasoning) {
      this.fold.hidden = false;
      this.reasoning.append(visible(reasoning));
    }
    if (text) this.markdown.append(text);
    this.onRender();
    // Reading the height makes the layout happen now, so that its time counts.
    void this.text.offsetHeight;
    this.wait = Math.min(1000, SLOWEST_RENDER * (performance.now() - began));
    if (this.unfinished && !this.timer) this.timer = setTimeout(() => this.render(), this.wait);
  }

  get unfinished() {
    return this.pending.text !== "" || this.pending.reasoning !== "";
  }

  // Takes what is rendered next of the text or the reasoning; no character is cut in two.
  take(name) {
    const pending = this.pending[name];
    let end = LARGEST_RENDER;
    if (/[\ud800-\udbff\r]/.test(pending[end - 1] || "")) end += 1;
    this.pending[name] = pending.slice(end);
    return pending.slice(0, end);
  }

  async finish(turn) {
    for (this.render(); this.unfinished; this.render()) await new Promise((resolve) => setTimeout(resolve));
    clearTimeout(this.timer);
    this.markdown.finish();
    this.showCalls(turn.calls);
    this.notes.replaceChildren(...turn.notes.map((note) => element("p", {}, note)));
    if (turn.error) this.notes.append(element("p", { className: "error", role: "alert" }, turn.error));
  }

  showCalls(calls) {
    this.calls.replaceChildren(
      ...calls.map((call) =>
        element("figure", { className: "code" },
          element("figcaption", {}, element("span", {}, `Calls the tool ${visible(call.name)}`)),
          element("pre", { tabIndex: 0 }, element("code", { dir: "ltr" }, visible(call.arguments)))),
      ),
    );
  }
}

const INTEGER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

// Usage and timings of an answer as one line.
function meterText({ usage, timings, context }) {
  const parts = [];
  if (timings && timings.decode_tps) parts.push(`${timings.decode_tps.toFixed(1)} tokens/s`);
  if (timings && timings.ttft_s != null) parts.push(`first token after ${timings.ttft_s.toFixed(2)} s`);
  if (usage) {
    const used = usage.prompt_tokens + usage.completion_tokens;
    const share = context ? ` of ${INTEGER.format(context)} tokens (${Math.round((100 * used) / context)} %)` : " tokens";
    parts.push(`context ${INTEGER.format(used)}${share}`);
    const cached = usage.prompt_tokens_details && usage.prompt_tokens_details.cached_tokens;
    if (cached) parts.push(`${INTEGER.format(cached)} from the cache`);
  }
  return parts.join(" \u00b7 ");
}
