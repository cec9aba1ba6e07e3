// Markdown as elements. A model's text is hostile: it only ever becomes the text of an element, never
// markup, an address that runs, or a request. Work is bounded: blocks have a greatest length and depth.

const LONGEST_BLOCK = 16000; // characters; a longer paragraph, list or table goes on as another one
const DEEPEST = 8; // lists and quotes inside each other; what is deeper is plain text
const MOST_COLUMNS = 40;
const LONGEST_LINK = 2000;

// Reordering marks, invisible tags and control characters (ANSI escapes begin with one), which could
// make text look like another one, become visible.
function visible(text) {
  return text
    .replace(/\r\n?/g, "\n")
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u202a-\u202e\u2066-\u2069\u{e0000}-\u{e007f}]/gu, (c) => {
      const code = c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      return `\u27e6U+${code}\u27e7`;
    });
}

// The address of a link as it may be opened, in full (a foreign host's name in ASCII); else null.
function safeAddress(text) {
  if (text.length > LONGEST_LINK || !/^(https?:\/\/|mailto:)/i.test(text)) return null;
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  return url.username || url.password ? null : url.href;
}

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

// --- Within a line ---

function appendLink(parent, text, address) {
  const link = element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, text);
  link.referrerPolicy = "no-referrer";
  if (text !== address && `${text}/` !== address) {
    link.append(" ", element("span", { className: "address" }, address));
  }
  parent.append(link);
}

const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;

// A reader of one block's inline text; `missing` remembers what is known not to come any more.
class InlineReader {
  constructor() {
    this.missing = new Set();
  }

  read(text, parent, depth = 0) {
    if (depth > DEEPEST) {
      parent.append(text);
      return;
    }
    let plain = 0;
    const special = new RegExp(SPECIAL);
    for (let match; (match = special.exec(text)); ) {
      const at = match.index;
      const made = this.special(text, at, match[0], depth);
      if (!made) continue;
      parent.append(text.slice(plain, at), ...made.nodes);
      plain = special.lastIndex = made.end;
    }
    parent.append(text.slice(plain));
  }

  special(text, at, found, depth) {
    switch (found) {
      case "\\":
        return /[!-/:-@[-`{-~]/.test(text[at + 1] || "") ? { nodes: [text[at + 1]], end: at + 2 } : null;
      case "\n":
        return { nodes: [element("br")], end: at + 1 };
      case "`":
        return this.code(text, at);
      case "[":
        return this.link(text, at, at, depth);
      case "!":
        return text[at + 1] === "[" ? this.link(text, at, at + 1, depth) : null;
      case "<":
        return this.angle(text, at);
      case "*":
      case "_":
      case "~":
        return this.emphasis(text, at, depth);
      default:
        return this.bare(text, at);
    }
  }

  code(text, at) {
    const fence = /`+/y;
    fence.lastIndex = at;
    const ticks = fence.exec(text)[0];
    const rest = { nodes: [ticks], end: at + ticks.length };
    if (this.missing.has(ticks)) return rest;
    for (let close = rest.end; (close = text.indexOf(ticks, close)) >= 0; ) {
      fence.lastIndex = close;
      const run = fence.exec(text)[0].length;
      if (run === ticks.length) {
        const inside = text.slice(rest.end, close);
        const padded = inside.length > 2 && inside.startsWith(" ") && inside.endsWith(" ");
        const code = element("code", {}, padded ? inside.slice(1, -1) : inside);
        return { nodes: [code], end: close + run };
      }
      close += run;
    }
    this.missing.add(ticks);
    return rest;
  }

  // [text](address "title"); of ![text](address), an image, only that: nothing is loaded.
  link(text, at, open, depth) {
    if (this.missing.has("](")) return null;
    const close = text.indexOf("](", open);
    if (close < 0) this.missing.add("](");
    if (close < 0 || close - open > LONGEST_LINK) return null;
    const label = text.slice(open + 1, close);
    if (label.includes("[") || label.includes("\n\n")) return null;
    const target = /\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)?)>?(?:\s+["'(][^"'()]*["')])?\s*\)/y;
    target.lastIndex = close;
    const found = target.exec(text);
    if (!found) return null;
    const nodes = document.createDocumentFragment();
    const address = safeAddress(found[1]);
    if (!address) return { nodes: [text.slice(at, target.lastIndex)], end: target.lastIndex };
    appendLink(nodes, label.replace(/[*_`~]/g, "") || address, address);
    if (open > at) nodes.prepend("image: ");
    return { nodes: [nodes], end: target.lastIndex };
  }

  angle(text, at) {
    const br = /<br\s{0,3}\/?>/iy;
    br.lastIndex = at;
    if (br.test(text)) return { nodes: [element("br")], end: br.lastIndex };
    const auto = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;
    auto.lastIndex = at;
    const found = auto.exec(text);
    const address = found && safeAddress(found[1]);
    if (!address) return null;
    const nodes = document.createDocumentFragment();
    appendLink(nodes, found[1], address);
    return { nodes: [nodes], end: auto.lastIndex };
  }

  bare(text, at) {
    if (/\w/.test(text[at - 1] || "")) return null;
    const run = /[^\s<>"`\\*\u27e6\u27e7|]{1,2000}/y;
    run.lastIndex = at;
    let found = run.exec(text)[0].replace(/[.,;:!?'_~]+$/, "");
    while (found.endsWith(")") && !found.includes("(")) found = found.slice(0, -1);
    const address = safeAddress(found);
    if (!address) return null;
    const nodes = document.createDocumentFragment();
    appendLink(nodes, found, address);
    return { nodes: [nodes], end: at + found.length };
  }

  emphasis(text, at, depth) {
    const mark = text[at];
    const run = text.startsWith(mark.repeat(3), at) ? 3 : text[at + 1] === mark ? 2 : 1;
    const marks = mark.repeat(run);
    const rest = { nodes: [marks], end: at + run };
    if ((mark === "~" && run !== 2) || /^\s?$/.test(text[at + run] || "")) return rest;
    if (mark === "_" && /\w/.test(text[at - 1] || "")) return rest;
    if (this.missing.has(marks)) return rest;
    for (let close = at + run, tries = 0; tries < 16; tries++, close++) {
      close = text.indexOf(marks, close);
      if (close < 0) {
        if (tries === 0) this.missing.add(marks);
        break;
      }
      while (text[close + run] === mark) close++;
      if (close === at + run || /\s/.test(text[close - 1]) || text[close - 1] === "\\") continue;
      if (run === 1 && text[close - 1] === mark) continue;
      if (mark === "_" && /\w/.test(text[close + run] || "")) continue;
      const inner = new InlineReader();
      const made = element(mark === "~" ? "del" : run === 1 ? "em" : "strong");
      const inside = run === 3 ? made.appendChild(element("em")) : made;
      inner.read(text.slice(at + run, close), inside, depth + 1);
      return { nodes: [made], end: close + run };
    }
    return rest;
  }
}

// --- Blocks of lines ---

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+|$)/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s{0,3})([-*+]|\d{1,9}[.)])(\s+|$)/;
const QUOTE = /^ {0,3}> ?/;
const DELIMITERS = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

function kindOf(line) {
  if (!line.trim()) return "blank";
  if (line.length > 2000) return "text"; // no marker is that long
  if (FENCE.test(line)) return "fence";
  if (HEADING.test(line)) return "heading";
  if (RULE.test(line)) return "rule";
  if (ITEM.test(line)) return "list";
  if (QUOTE.test(line)) return "quote";
  return "text";
}

function closesFence(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0].repeat(text.length);
}

// Takes the lines of one block: {kind, lines, end, closed}; `closed` false: more lines could join it.
function takeBlock(lines, start) {
  const kind = kindOf(lines[start]);
  let end = start + 1;
  if (kind === "blank" || kind === "heading" || kind === "rule") {
    return { kind, lines: [lines[start]], end, closed: true };
  }
  if (kind === "fence") {
    const fence = FENCE.exec(lines[start])[1];
    while (end < lines.length && !closesFence(lines[end], fence)) end++;
    const closed = end < lines.length;
    const inside = lines.slice(start + 1, end);
    return { kind, lines: inside, end: end + closed, closed, first: lines[start], info: FENCE.exec(lines[start])[2] };
  }
  let length = lines[start].length;
  let blank = false;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const next = kindOf(line);
    if (kind === "list") {
      if (blank && next !== "list" && next !== "blank" && !/^\s{2,}/.test(line)) break;
      if (!/^\s{2,}/.test(line) && ["fence", "heading", "rule", "quote"].includes(next)) break;
      blank = next === "blank";
    } else if (next === "blank" || next === "fence" || next === "heading") {
      break;
    } else if (kind === "quote" ? next === "list" : next === "quote" || next === "list" || next === "rule") {
      if (!(next === "list" && /^\s*\d/.test(line) && !/^\s*1[.)]/.test(line))) break;
    }
    length += line.length + 1;
    if (length > LONGEST_BLOCK) break;
  }
  return { kind, lines: lines.slice(start, end), end, closed: end < lines.length };
}

function renderBlocks(lines, parent, depth) {
  for (let at = 0; at < lines.length; ) {
    const block = takeBlock(lines, at);
    renderBlock(block, parent, depth);
    at = block.end;
  }
}

function renderBlock(block, parent, depth) {
  const { kind, lines } = block;
  if (kind === "blank") return;
  if (depth > DEEPEST) {
    parent.append(element("p", {}, lines.join("\n")));
    return;
  }
  if (kind === "fence") parent.append(new CodeBlock(block.info).add(lines.join("\n")).root);
  else if (kind === "heading") parent.append(heading(lines[0]));
  else if (kind === "rule") parent.append(element("hr"));
  else if (kind === "list") renderList(lines, parent, depth);
  else if (kind === "quote") {
    const quote = parent.appendChild(element("blockquote"));
    renderBlocks(lines.map((line) => line.replace(QUOTE, "")), quote, depth + 1);
  } else if (block.columns || (lines.length > 1 && lines[0].includes("|") && isDelimiters(lines[1]))) {
    parent.append(table(block));
  } else {
    const text = lines.map((line) => line.trim()).join("\n");
    for (let at = 0; at < text.length; at += 2 * LONGEST_BLOCK) {
      const paragraph = parent.appendChild(element("p", { dir: "auto" }));
      new InlineReader().read(text.slice(at, at + 2 * LONGEST_BLOCK), paragraph);
    }
  }
}

function isDelimiters(line) {
  return line.length < 2000 && line.includes("|") && DELIMITERS.test(line);
}

function heading(line) {
  const marker = HEADING.exec(line);
  const level = Math.min(6, marker[1].length + 2); // the page has the first two
  const made = element(`h${level}`, { dir: "auto", className: `level-${marker[1].length}` });
  new InlineReader().read(line.slice(marker[0].length).replace(/ +#+ *$/, ""), made);
  return made;
}

function renderList(lines, parent, depth) {
  let list = null;
  let kind = "";
  for (let at = 0; at < lines.length; ) {
    const marker = ITEM.exec(lines[at]);
    if (!marker) {
      renderBlocks([lines[at++].trim()], list ? list.lastChild : parent, depth + 1);
      continue;
    }
    const ordered = /\d/.test(marker[2]);
    if (!list || kind !== marker[2].slice(-1)) {
      list = parent.appendChild(element(ordered ? "ol" : "ul"));
      if (ordered) list.start = parseInt(marker[2], 10);
      kind = marker[2].slice(-1);
    }
    const indent = Math.min(marker[0].length, marker[1].length + marker[2].length + 4);
    const inside = [lines[at++].slice(indent)];
    const base = marker[1].length;
    while (at < lines.length) {
      const next = ITEM.exec(lines[at]);
      if (next && next[1].length < base + 2) break;
      inside.push(dedent(lines[at++], indent));
    }
    const item = list.appendChild(element("li", { dir: "auto" }));
    appendItem(inside, item, depth);
  }
}

function appendItem(lines, item, depth) {
  const task = /^\[([ xX])\] /.exec(lines[0]);
  if (task) {
    item.append(task[1] === " " ? "\u2610 " : "\u2611 ");
    lines[0] = lines[0].slice(4);
  }
  let end = lines.findIndex((line) => kindOf(line) !== "text");
  if (end < 0) end = lines.length;
  // What begins an item stands in it without a paragraph of its own.
  new InlineReader().read(lines.slice(0, end).map((line) => line.trim()).join("\n"), item);
  renderBlocks(lines.slice(end), item, depth + 1);
}

function dedent(line, most) {
  let count = 0;
  while (count < most && line[count] === " ") count++;
  return line[0] === "\t" ? line.slice(1) : line.slice(count);
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/);
  const kept = cells.slice(0, MOST_COLUMNS);
  if (cells.length > MOST_COLUMNS) kept[MOST_COLUMNS - 1] = cells.slice(MOST_COLUMNS - 1).join("|");
  return kept.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

// The sides to which the cells of each column are set.
function sidesOf(line) {
  return cellsOf(line).map((cell) => {
    if (!cell.endsWith(":")) return "left";
    return cell.startsWith(":") ? "center" : "right";
  });
}

function table({ lines, columns }) {
  // `columns`: of a table that goes on here.
  const sides = columns || sidesOf(lines[1]);
  const made = element("table");
  const row = (line, name) => {
    const cells = cellsOf(line).slice(0, sides.length);
    return element("tr", {}, ...cells.map((text, i) => {
      const cell = element(name, { className: sides[i], dir: "auto" });
      new InlineReader().read(text, cell);
      return cell;
    }));
  };
  if (!columns) made.append(element("thead", {}, row(lines[0], "th")));
  const body = made.appendChild(element("tbody"));
  for (const line of lines.slice(columns ? 0 : 2)) body.append(row(line, "td"));
  return element("div", { className: "table", tabIndex: 0, role: "region", "aria-label": "Table" }, made);
}

class CodeBlock {
  constructor(info) {
    const language = info.trim().split(/\s/)[0].slice(0, 40);
    this.code = element("code", { dir: "ltr" });
    const copy = element("button", { type: "button" }, "Copy");
    copy.addEventListener("click", () => copyText(this.code.textContent, copy));
    const pre = element("pre", { tabIndex: 0 }, this.code);
    const title = element("figcaption", {}, element("span", {}, language || "text"), copy);
    this.root = element("figure", { className: "code" }, title, pre);
  }

  add(text) {
    for (let at = 0; at < text.length; at += LONGEST_BLOCK) this.code.append(text.slice(at, at + LONGEST_BLOCK));
    return this;
  }
}

async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Not a secure context (http, another machine): the old way.
    const area = document.body.appendChild(element("textarea", { value: text, className: "hidden" }));
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    if (!done) {
      button.textContent = "Not allowed";
      return;
    }
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

// An answer that grows: blocks that are complete stay as they are, only the last one is made again.
class MarkdownView {
  constructor(root) {
    this.root = root;
    this.tail = root.appendChild(element("div", { className: "tail" }));
    this.text = ""; // from the beginning of the last block on
    this.code = null; // a fence that is open: its text only grows
    this.columns = null; // of a table that was cut
  }

  append(text) {
    this.text += visible(text);
    this.update(false);
  }

  finish() {
    this.update(true);
    this.root.append(...this.tail.childNodes);
    this.tail.remove();
  }

  update(whole) {
    if (this.code && !this.growCode(whole)) return;
    const lines = this.text.split("\n");
    // The last line may go on: what it is, and what it ends, is not known yet.
    const complete = whole ? lines : lines.slice(0, -1);
    let start = 0;
    this.tail.replaceChildren();
    while (start < complete.length) {
      const block = this.continued(takeBlock(complete, start));
      if (!block.closed && !whole) {
        if (block.kind === "fence") {
          this.openCode(block, lines.slice(start + 1).join("\n"));
          return;
        }
        break;
      }
      this.columns = block.end < complete.length ? columnsAfterCut(block, complete[block.end]) : null;
      this.freeze(block);
      start = block.end;
    }
    const rest = lines.slice(start);
    if (!whole) {
      while (rest.length === 1 && rest[0].length > LONGEST_BLOCK) {
        // So long a line is cut: what comes after this costs no more.
        this.freeze({ kind: "text", lines: [rest[0].slice(0, LONGEST_BLOCK)] });
        rest[0] = rest[0].slice(LONGEST_BLOCK);
      }
      for (let at = 0; at < rest.length; ) {
        const block = takeBlock(rest, at);
        renderBlock(at === 0 ? this.continued(block) : block, this.tail, 0);
        at = block.end;
      }
    }
    this.text = rest.join("\n");
  }

  continued(block) {
    const goesOn = this.columns && block.kind === "text" && block.lines[0].includes("|");
    return goesOn ? { ...block, columns: this.columns } : block;
  }

  freeze(block) {
    renderBlock(block, this.root, 0);
    this.root.append(this.tail);
  }

  // Begins a block of code whose end has not come.
  openCode(block, text) {
    const fence = FENCE.exec(block.first)[1];
    this.code = { block: new CodeBlock(block.info), fence, first: true };
    this.root.insertBefore(this.code.block.root, this.tail);
    this.text = text;
    this.growCode(false);
  }

  // Adds the complete lines of an open block of code. Returns true when its end has come.
  growCode(whole) {
    const { block, fence } = this.code;
    const lines = this.text.split("\n");
    const rest = whole ? "" : lines.pop();
    const end = lines.findIndex((line) => closesFence(line, fence));
    const inside = end < 0 ? lines : lines.slice(0, end);
    if (inside.length) {
      block.add((this.code.first ? "" : "\n") + inside.join("\n"));
      this.code.first = false;
    }
    if (end >= 0) {
      this.text = [...lines.slice(end + 1), rest].join("\n");
      this.code = null;
      return true;
    }
    if (rest.length > LONGEST_BLOCK && !closesFence(rest, fence)) {
      // A line without an end: what is there of it cannot be the fence that closes the block.
      block.add((this.code.first ? "" : "\n") + rest);
      this.code = { block, fence, first: true };
      this.text = "";
    } else {
      this.text = rest;
    }
    if (whole) this.code = null;
    return whole;
  }
}

// The columns of a table that was cut for its length before `next`; null when that begins anew.
function columnsAfterCut(block, next) {
  if (block.kind !== "text" || !next.includes("|")) return null;
  if (block.columns) return block.columns;
  if (block.lines.length < 2 || !isDelimiters(block.lines[1])) return null;
  return sidesOf(block.lines[1]);
}
