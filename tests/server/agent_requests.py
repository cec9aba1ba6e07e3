"""What coding agents send to an address that they take for Anthropic's: one request of each shape.

Written for these tests, after the requests that the agents' own code and documentation describe
(Claude Code 2.1, opencode 1, aider 0.86, Cline 3, Zed 1; autumn 2026). The texts and tools are
ours, and shorter.
"""

from dataclasses import dataclass, field

VERSION = {"anthropic-version": "2023-06-01"}
CLAUDE_CODE = {
    **VERSION,
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,"
    "context-management-2025-06-27,prompt-caching-scope-2026-01-05,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "x-claude-code-session-id": "0b6c1f4e-7c1f-4d53-9d3f-2f6a6d0a2b11",
    "user-agent": "claude-cli/2.1.177 (external, cli)",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}
AI_SDK = {
    **VERSION,
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,"
    "fine-grained-tool-streaming-2025-05-14",
    "user-agent": "opencode/1.0 ai-sdk/anthropic/2.0",
}
CACHED: dict[str, object] = {"type": "ephemeral"}
LONG_CACHED: dict[str, object] = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
METADATA = {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'}

Body = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequest:
    """One request; `answered`: the status that the agent gets."""

    name: str
    line: str
    headers: dict[str, str] = field(default_factory=lambda: VERSION)
    body: Body | None = None
    answered: int = 200


def text(value: str, **fields: object) -> Body:
    return {"type": "text", "text": value, **fields}


def tool(name: str, description: str, /, *required: str, **optional: Body) -> Body:
    properties: Body = {each: {"type": "string", "description": each} for each in required}
    return {
        "name": name,
        "description": description,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {**properties, **optional},
            "required": list(required),
            "additionalProperties": False,
        },
    }


NUMBER: Body = {"type": "number", "exclusiveMinimum": 0, "maximum": 600000}
FLAG: Body = {"type": "boolean", "default": False}
TODOS: Body = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "content": {"type": "string", "minLength": 1},
            "status": {"type": "string", "enum": ["pending", "in_progress", "completed"]},
        },
        "required": ["content", "status"],
    },
}
TOOLS: list[Body] = [
    tool("Task", "Start an agent for a task.", "description", "prompt", "subagent_type"),
    tool("Bash", "Run a command.", "command", timeout=NUMBER, run_in_background=FLAG),
    tool("Glob", "Find files by a pattern.", "pattern", path={"type": "string"}),
    tool("Grep", "Search with a regular expression.", "pattern", glob={"type": "string"}),
    tool("Read", "Read a file.", "file_path", offset=NUMBER, limit=NUMBER),
    tool("Edit", "Replace text in a file.", "file_path", "old_string", "new_string",
         replace_all=FLAG),
    tool("Write", "Write a file.", "file_path", "content"),
    tool("NotebookEdit", "Edit a cell.", "notebook_path", "new_source",
         edit_mode={"type": "string", "enum": ["replace", "insert", "delete"]}),
    tool("WebFetch", "Read a page.", "url", "prompt"),
    tool("TodoWrite", "Keep the list of tasks.", todos=TODOS),
    tool("BashOutput", "Read what a command wrote.", "bash_id"),
    tool("KillShell", "Stop a command.", "shell_id"),
    tool("Skill", "Use a skill.", "skill"),
    tool("ExitPlanMode", "Show the plan.", "plan"),
    tool("mcp__a_server_with_a_long_name__and_a_tool_whose_name_is_even_longer_than_that", "x."),
]  # fmt: skip


def code_system(number: int) -> list[Body]:
    """A system prompt of Claude Code, whose first block is another one in each request."""
    billing = f"cc_version=2.1.177.01c; cc_entrypoint=cli; cch={number:05x};"
    return [
        text(f"x-anthropic-billing-header: {billing}"),
        text("You are an agent for the command line.", cache_control=LONG_CACHED),
        text("# Rules\nBe brief.\n# Environment\ncwd: /work", cache_control=CACHED),
    ]


def code_body(number: int, **fields: object) -> Body:
    """A request of Claude Code's main conversation."""
    return {
        "model": "claude-sonnet-4-6",
        "max_tokens": 32000,
        "stream": True,
        "system": code_system(number),
        "tools": TOOLS[1:6],
        "metadata": METADATA,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        **fields,
    }


REMINDER = "<system-reminder>\nThe date is 2026-11-30.\n</system-reminder>"
FIRST_TURN: Body = {
    "role": "user",
    "content": [text(REMINDER), text("What is in a.txt?", cache_control=CACHED)],
}
LATER_TURNS: list[Body] = [
    FIRST_TURN,
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I must read it.", "signature": "EqQBCgIYAhIM"},
            text("I read it."),
            {"type": "tool_use", "id": "toolu_01A", "name": "Read",
             "input": {"file_path": "/work/a.txt"}},
            {"type": "tool_use", "id": "toolu_01B", "name": "Bash",
             "input": {"command": "cat a.txt"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_01A", "is_error": True,
             "content": "<tool_use_error>File does not exist.</tool_use_error>"},
            {"type": "tool_result", "tool_use_id": "toolu_01B", "is_error": False,
             "content": [text("apples")], "cache_control": CACHED},
            text(REMINDER),
        ],
    },
]  # fmt: skip

CLAUDE_CODE_REQUESTS = [
    AgentRequest(name="reachable", line="HEAD /", headers={}),
    AgentRequest(name="models", line="GET /v1/models?limit=1000", headers=CLAUDE_CODE),
    AgentRequest(
        name="quota",
        line="POST /v1/messages?beta=true",
        headers=CLAUDE_CODE,
        body={
            "model": "claude-haiku-4-5-20251001",
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "quota"}],
            "metadata": METADATA,
        },
    ),
    AgentRequest(
        name="title",
        line="POST /v1/messages?beta=true",
        headers=CLAUDE_CODE,
        body={
            "model": "claude-haiku-4-5-20251001",
            "max_tokens": 32000,
            "stream": True,
            "temperature": 1,
            "system": [*code_system(1)[:2], text("Write a title of 3 words.")],
            "messages": [{"role": "user", "content": [text("What is in a.txt?")]}],
            "tools": [],
            "thinking": {"type": "disabled"},
            "output_config": {
                "format": {
                    "type": "json_schema",
                    "schema": {
                        "type": "object",
                        "properties": {"title": {"type": "string", "maxLength": 20}},
                        "required": ["title"],
                        "additionalProperties": False,
                    },
                }
            },
            "metadata": METADATA,
        },
    ),
    AgentRequest(
        name="count of the tools",
        line="POST /v1/messages/count_tokens?beta=true",
        headers=CLAUDE_CODE,
        body={
            "model": "claude-sonnet-4-6",
            "messages": [{"role": "user", "content": "foo"}],
            "tools": TOOLS,
        },
    ),
    AgentRequest(
        name="first turn",
        line="POST /v1/messages?beta=true",
        headers=CLAUDE_CODE,
        body=code_body(2, messages=[FIRST_TURN]),
    ),
    AgentRequest(
        name="turn with results",
        line="POST /v1/messages?beta=true",
        headers=CLAUDE_CODE,
        body=code_body(3, messages=LATER_TURNS),
    ),
    AgentRequest(
        name="web search",
        line="POST /v1/messages?beta=true",
        headers=CLAUDE_CODE,
        body={
            "model": "claude-sonnet-4-6",
            "max_tokens": 32000,
            "stream": True,
            "system": [text("You search the web.")],
            "messages": [{"role": "user", "content": [text("Search for: llama.cpp")]}],
            "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        },
    ),
    AgentRequest(
        name="telemetry",
        line="POST /api/event_logging/v2/batch",
        headers=CLAUDE_CODE,
        body={"events": []},
        answered=404,
    ),
]

OTHER_REQUESTS = [
    AgentRequest(
        name="opencode",
        line="POST /v1/messages",
        headers=AI_SDK,
        body={
            "model": "claude-sonnet-4-5",
            "max_tokens": 32000,
            "temperature": 0,
            "stream": True,
            "system": [text("You are opencode.", cache_control=CACHED), text("cwd: /work")],
            "messages": [{"role": "user", "content": [text("hi", cache_control=CACHED)]}],
            "tools": [{**TOOLS[1], "cache_control": CACHED}],
            "tool_choice": {"type": "auto"},
        },
    ),
    AgentRequest(
        name="aider",
        line="POST /v1/messages",
        body={
            "model": "claude-sonnet-4-5",
            "max_tokens": 8192,
            "temperature": 0.0,
            "system": [text("Act as an expert.", cache_control=CACHED)],
            "messages": [
                {"role": "user", "content": [text("Change a.py.")]},
                {"role": "assistant", "content": [text("Ok.")]},
                {"role": "user", "content": [text("print(1)", cache_control=CACHED)]},
                {"role": "assistant", "content": "a.py\n```"},
            ],
        },
    ),
    AgentRequest(
        name="Cline",
        line="POST /anthropic/v1/messages",
        body={
            "model": "claude-sonnet-4-5",
            "max_tokens": 8192,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "system": [text("You are Cline.", cache_control=CACHED)],
            "messages": [{"role": "user", "content": [text("<task>hi</task>"), text("# Time")]}],
            "stream": True,
            "tools": [TOOLS[4]],
            "tool_choice": {"type": "any"},
        },
    ),
    AgentRequest(
        name="Zed",
        line="POST /v1/messages",
        headers={**VERSION, "anthropic-beta": "fine-grained-tool-streaming-2025-05-14"},
        body={
            "model": "claude-sonnet-4-5-latest",
            "max_tokens": 8192,
            "messages": [{"role": "user", "content": [text("hi")]}],
            "tools": [{**TOOLS[4], "eager_input_streaming": True}],
            "tool_choice": None,
            "system": "You are in an editor.",
            "stop_sequences": [],
            "temperature": 1.0,
            "stream": True,
        },
    ),
    AgentRequest(
        name="tools without a schema",
        line="POST /v1/messages",
        headers={**VERSION, "anthropic-beta": "computer-use-2025-01-24"},
        body={
            "model": "claude-sonnet-4-5",
            "max_tokens": 4096,
            "messages": [{"role": "user", "content": "List the files."}],
            "tools": [
                {"type": "bash_20250124", "name": "bash"},
                {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool",
                 "max_characters": 10000},
            ],
            "tool_choice": {"type": "tool", "name": "bash", "disable_parallel_tool_use": True},
        },
    ),
]  # fmt: skip
