"""The tools that Anthropic defines and a client runs, with the schemas that clients do not send.

A model of Anthropic's knows them from its training; any other one must be shown what it can call.
The names of fields and commands are those that Anthropic's documentation gives the tools, and the
clients' own code reads (`anthropic.types.beta.beta_memory_tool_20250818_command` for one).
"""

from localllm.engine.messages import Tool
from localllm.server.generation.tools import make_tool

_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_COORDINATE = {
    "type": "array",
    "items": _INTEGER,
    "minItems": 2,
    "maxItems": 2,
    "description": "x and y in pixels, from the upper left corner",
}
_PATH = {"type": "string", "description": "absolute path of a file or directory"}
_VIEW_RANGE = {
    "type": "array",
    "items": _INTEGER,
    "minItems": 2,
    "maxItems": 2,
    "description": "of view: first and last line, from 1; -1: to the end",
}
_REPLACEMENT = {
    "old_str": {"type": "string", "description": "of str_replace: text that occurs once"},
    "new_str": {"type": "string", "description": "of str_replace: the text instead of it"},
    "insert_line": {"type": "integer", "description": "of insert: the line to insert after"},
    "insert_text": {"type": "string", "description": "of insert: the new text"},
    "file_text": {"type": "string", "description": "of create: the whole content"},
}

_OLD_ACTIONS = (
    "key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "middle_click",
    "double_click", "screenshot", "cursor_position",
)  # fmt: skip
_ACTIONS = (
    *_OLD_ACTIONS, "left_mouse_down", "left_mouse_up", "triple_click", "scroll", "hold_key", "wait",
)  # fmt: skip


def client_tool(kind: str, name: str | None, display: tuple[object, object]) -> Tool:
    """Make the tool of a type such as `bash_20250124`. `display`: width and height of a computer's
    screen in pixels."""
    family, _, version = kind.rpartition("_")
    match family:
        case "bash":
            return _bash(name or "bash")
        case "memory":
            return _memory(name or "memory")
        case "computer":
            return _computer(name or "computer", version, display)
        case _:
            return _text_editor(name or "str_replace_based_edit_tool", version)


def _bash(name: str) -> Tool:
    properties = {
        "command": {"type": "string", "description": "the command line to run"},
        "restart": {"type": "boolean", "description": "true: start the shell anew"},
    }
    description = "Run a command in a bash shell, which stays the same from call to call."
    return make_tool(name, description, _object(properties))


def _text_editor(name: str, version: str) -> Tool:
    """The tool's versions differ in `undo_edit`, and in the name of what `insert` inserts: since
    20250728 Anthropic's models send `insert_text`, which its page called `new_str`
    (anthropic-sdk-python issue 1155, 2026-01)."""
    commands = ["view", "create", "str_replace", "insert"]
    properties: dict[str, object] = {"path": _PATH, "view_range": _VIEW_RANGE, **_REPLACEMENT}
    if version < "20250429":
        commands.append("undo_edit")
    if version < "20250728":
        del properties["insert_text"]
        properties["new_str"] = {
            "type": "string",
            "description": "of str_replace: the text instead of it; of insert: the new text",
        }
    properties = {"command": {"type": "string", "enum": commands}, **properties}
    description = "View, create and edit text files."
    return make_tool(name, description, _object(properties, "command", "path"))


def _memory(name: str) -> Tool:
    commands = ["view", "create", "str_replace", "insert", "delete", "rename"]
    properties = {
        "command": {"type": "string", "enum": commands},
        "path": {"type": "string", "description": "a path below /memories; not of rename"},
        "view_range": _VIEW_RANGE,
        **_REPLACEMENT,
        "old_path": {"type": "string", "description": "of rename"},
        "new_path": {"type": "string", "description": "of rename"},
    }
    description = "Read and write files below /memories, which are kept between conversations."
    return make_tool(name, description, _object(properties, "command"))


def _computer(name: str, version: str, display: tuple[object, object]) -> Tool:
    actions = list(_OLD_ACTIONS if version < "20250124" else _ACTIONS)
    properties: dict[str, object] = {
        "coordinate": _COORDINATE,
        "text": {"type": "string", "description": "of type; of key, the keys, such as ctrl+s"},
    }
    if version >= "20250124":
        properties |= {
            "start_coordinate": _COORDINATE,
            "scroll_direction": {"type": "string", "enum": ["up", "down", "left", "right"]},
            "scroll_amount": _INTEGER,
            "duration": {"type": "number", "description": "seconds, of wait and hold_key"},
        }
    if version >= "20251124":
        actions.append("zoom")
        properties["region"] = {
            "type": "array",
            "items": _INTEGER,
            "minItems": 4,
            "maxItems": 4,
            "description": "of zoom: left, top, right, bottom",
        }
    properties = {"action": {"type": "string", "enum": actions}, **properties}
    width, height = display
    size = f" of {width} x {height} pixels" if isinstance(width, int) else ""
    description = f"See and use a screen{size} with mouse and keyboard."
    return make_tool(name, description, _object(properties, "action"))


def _object(properties: dict[str, object] | dict[str, dict[str, str]], *required: str) -> object:
    return {"type": "object", "properties": properties, "required": list(required)}
