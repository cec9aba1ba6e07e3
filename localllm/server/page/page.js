// The page: what its parts do together.

const SETTINGS_KEY = "localllm-settings";
const STORED = ["model", "temperature", "maxTokens", "theme"];

const $ = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.api = new Api();
    this.conversation = new Conversation();
    this.earlier = null; // the conversation before the last "new chat"
    this.settings = { model: "", system: "", temperature: "", maxTokens: "", theme: "", ...storedSettings() };
    this.models = new Map(); // name -> whether it sees
    this.context = null;
    this.images = [];
    this.editing = null; // the question that is being edited
    this.abort = null; // of the answer that comes
    this.follows = true; // the end of the conversation is kept in view
  }

  start() {
    this.applySettings();
    this.listen();
    const token = /^#t=([\w-]+)$/.exec(location.hash);
    if (location.hash) history.replaceState(null, "", location.pathname);
    this.open(token && token[1]);
  }

  async open(token) {
    let reason = "";
    if (token) {
      try {
        await this.api.redeem(token);
      } catch (error) {
        reason = error.message;
      }
    }
    await this.loadModels(reason);
  }

  // --- key and models ---

  async loadModels(reason = "") {
    try {
      const list = await this.api.json("/v1/models");
      const tags = await this.api.json("/api/tags");
      this.setModels(list.data, tags.models);
      this.showEntry(false);
      await this.loadContext();
    } catch (error) {
      if (error.status !== 401 && error.status !== 403) {
        this.notify(error.message, "Try again", () => this.loadModels());
        return;
      }
      const wrong = this.api.key && error.status === 403 ? error.message : "This key is not valid (any more).";
      this.showEntry(true, reason || (this.api.key ? wrong : "This server asks for a key."));
      this.api.forgetKey();
    }
  }

  setModels(listed, tagged) {
    const capabilities = new Map(tagged.map((each) => [each.name.replace(/:latest$/, ""), each.capabilities]));
    const of = (name) => capabilities.get(name.replace(/:latest$/, "")) || ["completion"];
    const chats = listed.map((each) => each.id).filter((name) => of(name).includes("completion"));
    this.models = new Map(chats.map((name) => [name, of(name).includes("vision")]));
    if (!this.models.has(this.settings.model)) this.settings.model = chats[0] || "";
    $("model").replaceChildren(...chats.map((name) => new Option(visible(name), name)));
    $("model").value = this.settings.model;
    if (!chats.length) this.notify("This server has no model that chats.", "Look again", () => this.loadModels());
    this.update();
  }

  // Reads the size of the context, and once more whether the model sees; both are known for certain
  // when it is in memory.
  async loadContext() {
    const { model } = this.settings;
    if (!model) return;
    try {
      const props = await this.api.json(`/props?model=${encodeURIComponent(model)}`);
      if (model !== this.settings.model) return;
      this.context = props.default_generation_settings.n_ctx;
      if (!props.is_sleeping) this.models.set(model, props.modalities.vision);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      this.context = null; // the meter shows what it can
    }
    this.update();
  }

  showEntry(shown, reason = "") {
    $("entry").hidden = !shown;
    document.body.classList.toggle("locked", shown);
    $("entry-reason").textContent = reason;
    $("key").value = "";
    $(shown ? "key" : "question").focus();
  }

  // --- asking ---

  ask() {
    const text = $("question").value;
    if (this.abort || !this.settings.model || (!text.trim() && !this.images.length)) return;
    const parent = this.editing ? this.editing.parent : this.conversation.last;
    const turn = this.conversation.add(parent, new Turn("user", text, this.images));
    this.editing = null;
    this.setQuestion("", []);
    this.earlier = null;
    this.notify("");
    this.answer(turn);
  }

  async answer(question) {
    const turn = this.conversation.add(question, new Turn("assistant"));
    turn.model = this.settings.model;
    this.follows = true;
    this.showTurns(turn);
    const view = this.live;
    this.abort = new AbortController();
    this.update();
    this.announce("The answer is coming.");
    try {
      for await (const event of this.api.chat(this.requestFor(question), this.abort.signal)) {
        if (event.comment !== undefined) $("meter").textContent = visible(event.comment);
        else this.take(event.chunk, turn, view);
      }
    } catch (error) {
      if (error.name === "AbortError") turn.notes.push("Stopped.");
      else turn.error = error instanceof RequestError ? error.message : `This page failed: ${error.message}`;
      if (error.status === 401) {
        this.showEntry(true, "The key is not valid (any more): the server was started again, or the key revoked.");
        this.api.forgetKey();
      }
    }
    await this.ended(turn, view);
  }

  requestFor(question) {
    const { model, system, temperature, maxTokens } = this.settings;
    const body = {
      model,
      messages: this.conversation.messages(question, system),
      stream: true,
      return_progress: true,
    };
    if (temperature !== "") body.temperature = Number(temperature);
    if (maxTokens !== "") body.max_tokens = Number(maxTokens);
    return body;
  }

  take(chunk, turn, view) {
    if (chunk.prompt_progress) {
      const { processed, total } = chunk.prompt_progress;
      $("meter").textContent = `reading ${INTEGER.format(processed)} of ${INTEGER.format(total)} tokens`;
    }
    for (const note of chunk.warnings || []) turn.notes.push(visible(note));
    if (chunk.dropped_messages) turn.notes.push(`${chunk.dropped_messages} earlier messages were left out.`);
    if (chunk.usage) turn.usage = chunk.usage;
    if (chunk.timings) turn.timings = chunk.timings;
    const choice = chunk.choices[0];
    if (!choice) return;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta;
    if (content || reasoning) {
      turn.text += content || "";
      turn.reasoning += reasoning || "";
      view.add({ text: content || "", reasoning: reasoning || "" });
    }
    for (const piece of calls || []) {
      const call = (turn.calls[piece.index] ||= { name: "", arguments: "" });
      call.name += piece.function.name || "";
      call.arguments += piece.function.arguments || "";
    }
    if (choice.finish_reason === "length") turn.notes.push("The answer ends here: it has reached its limit of tokens.");
  }

  async ended(turn, view) {
    if (!turn.error && !turn.notes.length && !turn.text && !turn.calls.length) turn.notes.push("The model wrote nothing.");
    const box = $("turns").lastElementChild;
    await view.finish(turn);
    this.abort = null;
    this.live = null;
    box.removeAttribute("aria-busy");
    box.append(turnBar(turn, this.actions));
    this.update();
    this.scroll();
    this.announce(turn.error ? "" : `The answer is complete. ${turn.text.slice(0, 2000)}`);
    if (this.context === null) await this.loadContext();
    this.showMeter(turn);
    if (!document.body.classList.contains("locked")) $("question").focus();
  }

  stop() {
    if (this.abort) this.abort.abort();
  }

  get actions() {
    return {
      edit: (turn) => this.edit(turn),
      again: (turn) => !this.abort && this.answer(turn.parent),
      show: (turn, index) => {
        if (this.abort) return;
        this.conversation.show(turn, index);
        this.showTurns();
      },
    };
  }

  edit(turn) {
    if (this.abort) return;
    this.editing = turn;
    this.setQuestion(turn.text, turn.images);
    this.notify("You edit a question: what follows it is kept as an earlier version.", "Leave it", () => this.leaveEdit());
    $("question").focus();
  }

  leaveEdit() {
    this.editing = null;
    this.setQuestion("", []);
    this.notify("");
    $("question").focus();
  }

  newChat() {
    if (this.abort) return;
    const before = this.conversation;
    this.editing = null;
    this.conversation = new Conversation();
    this.setQuestion("", []);
    this.showTurns();
    $("meter").textContent = "";
    this.notify("");
    if (before.path().length) {
      this.earlier = before;
      this.notify("The conversation was closed.", "Bring it back", () => this.bringBack());
    }
    $("question").focus();
  }

  bringBack() {
    if (this.abort || !this.earlier) return;
    this.conversation = this.earlier;
    this.earlier = null;
    this.notify("");
    this.showTurns();
  }

  export() {
    const blob = new Blob([this.conversation.markdown()], { type: "text/markdown" });
    const url = URL.createObjectURL(blob);
    const stamp = new Date().toISOString().slice(0, 16).replace("T", " ").replace(":", ".");
    element("a", { href: url, download: `conversation ${stamp}.md` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // --- what is seen ---

  // Shows the conversation. `coming`: the answer that comes, into a view of its own.
  showTurns(coming = null) {
    const turns = this.conversation.path();
    $("turns").replaceChildren();
    for (const turn of turns) {
      if (turn !== coming) {
        $("turns").append(turnElement(turn, this.actions));
        continue;
      }
      const box = element("article", { className: "answer", "aria-label": "Answer", "aria-busy": "true" });
      this.live = new AnswerView(box);
      this.live.onRender = () => this.scroll();
      $("turns").append(box);
    }
    const last = turns.at(-1);
    if (!coming) this.showMeter(last);
    this.update();
    this.scroll();
  }

  showMeter(turn) {
    $("meter").textContent = turn ? meterText({ usage: turn.usage, timings: turn.timings, context: this.context }) : "";
  }

  scroll() {
    if (this.follows) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }

  update() {
    const busy = this.abort !== null;
    const sees = this.models.get(this.settings.model) || false;
    document.body.classList.toggle("busy", busy);
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    $("new").disabled = busy;
    $("model").disabled = busy;
    $("attach").hidden = !sees;
    $("empty").hidden = $("turns").childElementCount > 0;
    $("export").disabled = $("turns").childElementCount === 0;
    $("send").textContent = this.editing ? "Resend" : "Send";
    $("attached").replaceChildren(
      ...this.images.map((url, i) =>
        element("span", {}, element("img", { src: url, alt: `Image ${i + 1}` }),
          button("\u00d7", () => this.setQuestion(null, this.images.toSpliced(i, 1)), { ariaLabel: `Remove image ${i + 1}` })),
      ),
    );
  }

  setQuestion(text, images) {
    if (text !== null) $("question").value = text;
    this.images = images;
    this.fitQuestion();
    this.update();
  }

  fitQuestion() {
    const area = $("question");
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  }

  notify(message, label = "", action = null) {
    $("notice").hidden = !message;
    $("notice").replaceChildren(message);
    if (action) $("notice").append(" ", button(label, action));
    if (message) this.announce(message);
  }

  announce(message) {
    $("status").textContent = visible(message);
  }

  async attach(files) {
    if (!files.length) return;
    if (!this.models.get(this.settings.model)) {
      this.notify("This model sees no images. Choose another one.");
      return;
    }
    for (const file of files) {
      if (this.images.length >= MOST_IMAGES) {
        this.notify(`A question has at most ${MOST_IMAGES} images.`);
        break;
      }
      try {
        this.setQuestion(null, [...this.images, await scaledImage(file)]);
      } catch (error) {
        this.notify(visible(error.message));
      }
    }
    $("question").focus();
  }

  // --- settings ---

  applySettings() {
    const { system, temperature, maxTokens, theme } = this.settings;
    $("system").value = system;
    $("temperature").value = temperature;
    $("max-tokens").value = maxTokens;
    $("theme").value = theme;
    document.documentElement.dataset.theme = theme;
  }

  readSettings() {
    const number = (id) => ($(id).value !== "" && $(id).validity.valid ? $(id).value : "");
    Object.assign(this.settings, {
      system: $("system").value,
      temperature: number("temperature"),
      maxTokens: number("max-tokens"),
      theme: $("theme").value,
      model: $("model").value || this.settings.model,
    });
    this.applySettings();
    storeSettings(this.settings);
  }

  // --- events ---

  listen() {
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    $("entry-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.api.key = $("key").value.trim();
      this.loadModels();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("new").addEventListener("click", () => this.newChat());
    $("export").addEventListener("click", () => this.export());
    $("open-settings").addEventListener("click", () => $("settings").showModal());
    $("close-settings").addEventListener("click", () => $("settings").close());
    $("settings").addEventListener("close", () => this.readSettings());
    $("theme").addEventListener("change", () => this.readSettings());
    $("model").addEventListener("change", () => {
      this.readSettings();
      this.context = null;
      this.loadContext();
    });
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => {
      this.attach([...$("files").files]);
      $("files").value = "";
    });
    $("question").addEventListener("input", () => this.fitQuestion());
    addEventListener("resize", () => this.fitQuestion());
    $("question").addEventListener("paste", (event) => this.dropped(event, event.clipboardData));
    $("question").addEventListener("keydown", (event) => this.questionKey(event));
    document.addEventListener("keydown", (event) => this.anyKey(event));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault(); // a file that is dropped here never replaces the page
      this.dropped(event, event.dataTransfer);
    });
    document.addEventListener("scroll", () => {
      const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
      this.follows = scrollHeight - clientHeight - scrollTop < 80;
    }, { passive: true });
    addEventListener("beforeunload", (event) => {
      if (this.conversation.path().length) event.preventDefault();
    });
  }

  dropped(event, transfer) {
    const files = imageFiles(transfer);
    if (!files.length) return;
    event.preventDefault();
    this.attach(files);
  }

  questionKey(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.ask();
    } else if (event.key === "ArrowUp" && !$("question").value && !this.editing) {
      const asked = this.conversation.path().filter((turn) => turn.role === "user");
      if (!asked.length) return;
      event.preventDefault();
      this.edit(asked.at(-1));
    }
  }

  anyKey(event) {
    if (event.isComposing || $("settings").open) return;
    if (event.key === "Escape") {
      if (this.abort) this.stop();
      else if (this.editing) this.leaveEdit();
    } else if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.newChat();
    }
  }
}

function storedSettings() {
  try {
    const stored = JSON.parse(localStorage.getItem(SETTINGS_KEY)) || {};
    return Object.fromEntries(STORED.filter((name) => typeof stored[name] === "string").map((name) => [name, stored[name]]));
  } catch {
    return {}; // it is switched off, or somebody else wrote there
  }
}

function storeSettings(settings) {
  try {
    localStorage.setItem(SETTINGS_KEY, JSON.stringify(Object.fromEntries(STORED.map((name) => [name, settings[name]]))));
  } catch {
    // it is switched off: the settings end with this window
  }
}

new Page().start();
