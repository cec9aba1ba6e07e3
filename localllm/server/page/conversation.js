// A conversation as a tree: an edited question or another answer stands beside the one before, so that
// there is a way back. It is in memory alone.

class Turn {
  constructor(role, text = "", images = []) {
    this.role = role;
    this.text = text;
    this.images = images;
    this.reasoning = "";
    this.calls = [];
    this.notes = [];
    this.error = "";
    this.children = [];
    this.active = 0;
    this.parent = null;
  }

  get versions() {
    return this.parent.children;
  }

  get next() {
    return this.children[this.active] || null;
  }
}

class Conversation {
  constructor() {
    this.root = new Turn("root");
  }

  // The turns that are shown, in order.
  path() {
    const turns = [];
    for (let turn = this.root.next; turn; turn = turn.next) turns.push(turn);
    return turns;
  }

  get last() {
    return this.path().at(-1) || this.root;
  }

  // Adds a turn behind `parent`, as the version of its place that is shown.
  add(parent, turn) {
    turn.parent = parent;
    parent.active = parent.children.push(turn) - 1;
    return turn;
  }

  show(turn, index) {
    turn.parent.active = index;
  }

  // The messages of a request that is to be answered behind `turn`.
  messages(turn, system) {
    const messages = [];
    for (let each = turn; each.parent; each = each.parent) {
      if (each.role === "assistant" && !each.text) continue;
      messages.unshift({ role: each.role, content: contentOf(each) });
    }
    if (system.trim()) messages.unshift({ role: "system", content: system });
    return messages;
  }

  markdown() {
    const parts = this.path().map((turn) => {
      const images = turn.images.map(() => "(an image)\n\n").join("");
      const name = turn.role === "user" ? "Question" : `Answer${turn.model ? ` (${turn.model})` : ""}`;
      return `## ${name}\n\n${images}${visible(turn.text)}\n`;
    });
    return `# Conversation\n\n${parts.join("\n")}`;
  }
}

function contentOf(turn) {
  if (!turn.images.length) return turn.text;
  const images = turn.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return [...images, { type: "text", text: turn.text }];
}
