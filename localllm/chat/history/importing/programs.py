"""The conversations of other programs, as their exports and files have them.

Formats, from what was public in 2026: ChatGPT's and Claude's conversations.json (docs of
mitkury/chatgpt-export-parser and TomzxCode/llm-conversations-viewer), Open WebUI's export of chats
(its type ChatHistory), LM Studio's conversations (YorkieDev/lm-studio-conversation-converter),
Jan's messages.jsonl (docs/specs of janhq/jan). Fields that are not there, or of another type, are
left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from localllm.chat.conversation import Attachment, ChatMessage, Conversation
from localllm.chat.history.importing.nodes import (
    Node,
    chain,
    conversation,
    joined,
    made_id,
    mapping,
    message,
    sequence,
    text,
)

Reader = Callable[[Mapping[str, object]], Conversation | None]


def reader_of(document: Mapping[str, object]) -> Reader | None:
    """Return the reader of conversations of this form; None: there is none."""
    if "mapping" in document:
        return chatgpt
    if "chat_messages" in document:
        return claude
    if isinstance(document.get("chat"), dict) or _is_open_webui(document):
        return open_webui
    if "messages" in document and "name" in document:
        return lm_studio
    return None


def chatgpt(document: Mapping[str, object]) -> Conversation | None:
    """Read a conversation of ChatGPT: a tree, `current_node` is the end of what is shown."""
    key = _id(document, "conversation_id") or _id(document, "id") or _key_of(document)
    nodes = []
    for name, value in mapping(document.get("mapping")).items():
        node = mapping(value)
        entry = mapping(node.get("message"))
        author = mapping(entry.get("author"))
        content = mapping(entry.get("content"))
        hidden = mapping(entry.get("metadata")).get("is_visually_hidden_from_conversation") is True
        made = None
        if not hidden and text(entry.get("recipient")) in ("", "all"):
            made = message(
                key=f"{key}/{name}",
                role=author.get("role"),
                body=_chatgpt_text(content),
                created=entry.get("create_time"),
                model=mapping(entry.get("metadata")).get("model_slug"),
            )
        nodes.append(Node(id=name, parent=text(node.get("parent")) or None, message=made))
    return conversation(
        key=f"chatgpt/{key}",
        title=document.get("title"),
        nodes=nodes,
        leaf=text(document.get("current_node")) or None,
        created=document.get("create_time"),
        updated=document.get("update_time"),
        pinned=document.get("is_starred"),
    )


def _chatgpt_text(content: Mapping[str, object]) -> str:
    if content.get("content_type") not in (None, "text", "multimodal_text", "code"):
        return ""  # thoughts, what tools returned
    if "parts" not in content:
        return text(content.get("text"))
    return joined(
        part if isinstance(part, str) else text(mapping(part).get("text"))
        for part in sequence(content.get("parts"))
    )


def claude(document: Mapping[str, object]) -> Conversation | None:
    """Read a conversation of Claude: a list; newer ones say whom each message follows."""
    key = _id(document, "uuid") or _key_of(document)
    nodes: list[Node] = []
    for number, value in enumerate(sequence(document.get("chat_messages"))):
        entry = mapping(value)
        name = text(entry.get("uuid")) or str(number)
        parts = [mapping(part) for part in sequence(entry.get("content"))]
        made = message(
            key=f"{key}/{name}",
            role=entry.get("sender"),
            body=_texts(parts) or text(entry.get("text")),
            created=entry.get("created_at"),
            reasoning=joined(text(part.get("thinking")) for part in parts),
            attachments=_claude_files(entry),
        )
        before = nodes[-1].id if nodes else None
        parent = text(entry.get("parent_message_uuid")) or before
        nodes.append(Node(id=name, parent=parent, message=made))
    return conversation(
        key=f"claude/{key}",
        title=document.get("name"),
        nodes=nodes,
        leaf=text(document.get("current_leaf_message_uuid")) or None,
        created=document.get("created_at"),
        updated=document.get("updated_at"),
        pinned=document.get("is_starred"),
    )


def _claude_files(entry: Mapping[str, object]) -> Iterator[Attachment]:
    for value in sequence(entry.get("attachments")):
        file = mapping(value)
        name = text(file.get("file_name"))[:200] or "file"
        if content := text(file.get("extracted_content")):
            yield Attachment(name=name, media_type="text/plain", text=content)


def open_webui(document: Mapping[str, object]) -> Conversation | None:
    """Read a chat of Open WebUI: a tree in `history`, the chat itself inside a record or alone."""
    chat = mapping(document.get("chat")) or document
    key = _id(document, "id") or _key_of(chat)
    history = mapping(chat.get("history"))
    nodes = []
    for name, value in mapping(history.get("messages")).items():
        entry = mapping(value)
        made = message(
            key=f"{key}/{name}",
            role=entry.get("role"),
            body=_content(entry),
            created=entry.get("timestamp"),
            model=entry.get("modelName") or entry.get("model"),
        )
        nodes.append(Node(id=name, parent=text(entry.get("parentId")) or None, message=made))
    return conversation(
        key=f"open-webui/{key}",
        title=chat.get("title") or document.get("title"),
        nodes=nodes or _plain(key, sequence(chat.get("messages"))),
        leaf=text(history.get("currentId")) or None,
        created=document.get("created_at") or chat.get("timestamp"),
        updated=document.get("updated_at"),
        pinned=document.get("pinned"),
    )


def _is_open_webui(document: Mapping[str, object]) -> bool:
    return "history" in document and isinstance(document["history"], dict)


def lm_studio(document: Mapping[str, object]) -> Conversation | None:
    """Read a conversation of LM Studio: of each message the version that is selected."""
    key = f"{text(document.get('name'))[:1000]}/{document.get('createdAt')!r}"
    messages: list[ChatMessage | None] = []
    for number, value in enumerate(sequence(document.get("messages"))):
        entry = mapping(value)
        versions = sequence(entry.get("versions"))
        selected = entry.get("currentlySelected")
        at = selected if isinstance(selected, int) and 0 <= selected < len(versions) else -1
        version = mapping(versions[at]) if versions else entry
        steps = [mapping(step) for step in sequence(version.get("steps"))]
        body = joined(_content(step) for step in steps if step.get("type") == "contentBlock")
        messages.append(
            message(
                key=f"{key}/{number}",
                role=version.get("role"),
                body=body or _content(version),
                model=mapping(version.get("senderInfo")).get("senderName"),
            )
        )
    return conversation(
        key=f"lm-studio/{key}",
        title=document.get("name"),
        nodes=chain(messages),
        created=document.get("createdAt"),
        updated=document.get("userLastMessagedAt"),
        pinned=document.get("pinned"),
    )


def jan(lines: Iterable[Mapping[str, object]], title: str) -> Conversation | None:
    """Read the messages of a thread of Jan, one a line."""
    key = ""
    messages = []
    for number, entry in enumerate(lines):
        key = key or _id(entry, "thread_id")
        parts = (mapping(part) for part in sequence(entry.get("content")))
        messages.append(
            message(
                key=f"{key}/{text(entry.get('id')) or number}",
                role=entry.get("role"),
                body=joined(text(mapping(part.get("text")).get("value")) for part in parts),
                created=entry.get("created_at"),
                model=mapping(entry.get("metadata")).get("model"),
            )
        )
    return conversation(key=f"jan/{key or title}", title=title, nodes=chain(messages))


def _plain(key: str, messages: Iterable[object]) -> tuple[Node, ...]:
    """Return the nodes of a plain list of roles and contents."""
    entry = map(mapping, messages)
    return chain(
        message(
            key=f"{key}/{number}",
            role=each.get("role"),
            body=_content(each),
            created=each.get("timestamp"),
            model=each.get("model"),
        )
        for number, each in enumerate(entry)
    )


def _content(entry: Mapping[str, object]) -> str:
    content = entry.get("content")
    return content if isinstance(content, str) else _texts(map(mapping, sequence(content)))


def _texts(parts: Iterable[Mapping[str, object]]) -> str:
    return joined(text(part.get("text")) for part in parts if part.get("type") in (None, "text"))


def _id(document: Mapping[str, object], name: str) -> str:
    return text(document.get(name))[:1000]


def _key_of(document: Mapping[str, object]) -> str:
    """Name a conversation that has no id by what it is."""
    return made_id(repr(document)[:100_000])
