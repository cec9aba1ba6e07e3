"""What coding agents and other clients need to use the local server: a table, and nothing that is
done to a user's own configuration.

Each row follows the vendor's documentation as it was in 2026-11 (`source`). Variables hold for the
one process that is started; what can only be said in a file is written to a directory that is gone
afterwards. What a client would send to its vendor meanwhile is switched off where it has a switch.
"""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

DIRECTORY = "{directory}"
"""In the place of the directory of an agent's files, which exists only while it runs."""

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server and the model that an agent is to use. `origin` is without /v1; `certificate`: the
    PEM file of a server with TLS."""

    origin: str
    key: str
    model: str
    certificate: str | None = None

    @property
    def v1(self) -> str:
        return f"{self.origin}/v1"


Variables = Callable[[Target], Mapping[str, str]]
Arguments = Callable[[Target], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A client: its program, how it is installed, and what it gets.

    `unset`: variables of the user that would lead it elsewhere. `arguments` stand before the
    user's, `default` are those of a call without any. `files` by name, in DIRECTORY. `context`: the
    tokens that its own prompt and a task take at least; None: it needs no more than its user does.
    """

    program: str
    install: str
    source: str
    environment: Variables
    unset: tuple[str, ...] = ()
    arguments: Arguments = lambda _target: ()
    default: tuple[str, ...] = ()
    files: Variables = lambda _target: {}
    context: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command, what changes in its environment (None: unset) and the files that it needs."""

    command: tuple[str, ...]
    environment: Mapping[str, str | None]
    files: Mapping[str, str]


def standard_variables(target: Target) -> dict[str, str]:
    """Return the variables that the official clients of OpenAI, Anthropic and Ollama read."""
    return {
        "OPENAI_BASE_URL": target.v1,
        "OPENAI_API_BASE": target.v1,
        "OPENAI_API_KEY": target.key,
        "OPENAI_MODEL": target.model,
        "ANTHROPIC_BASE_URL": target.origin,
        "ANTHROPIC_API_KEY": target.key,
        "OLLAMA_HOST": target.origin,
        "OLLAMA_API_KEY": target.key,
    }


def _claude(target: Target) -> dict[str, str]:
    models = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL")
    return {
        "ANTHROPIC_BASE_URL": target.origin,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        **{f"ANTHROPIC_{name}": target.model for name in models},
        "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def _codex(target: Target) -> tuple[str, ...]:
    # The values are TOML, in which a JSON string is a string.
    provider = (
        f'{{name = "localllm", base_url = {json.dumps(target.v1)}, '
        'env_key = "LOCALLLM_API_KEY", wire_api = "responses"}'
    )
    settings = (
        'model_provider="localllm"',
        f"model={json.dumps(target.model)}",
        f"model_providers.localllm={provider}",
        "check_for_update_on_startup=false",
    )
    return tuple(word for each in settings for word in ("-c", each))


def _opencode(target: Target) -> dict[str, str]:
    model = f"localllm/{target.model}"
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "localllm",
        "options": {"baseURL": target.v1, "apiKey": target.key},
        "models": {target.model: {}},
    }
    config = {
        "provider": {"localllm": provider},
        "model": model,
        "small_model": model,
        "autoupdate": False,
        "share": "disabled",
    }
    return {
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }


def _aider(target: Target) -> tuple[str, ...]:
    # Arguments, since a .env file in a repository would beat variables.
    model = f"openai/{target.model}"
    return (
        *("--model", model, "--weak-model", model, "--openai-api-base", target.v1),
        *("--no-analytics", "--no-check-update", "--no-show-model-warnings"),
    )


def _llm(target: Target) -> dict[str, str]:
    entry = {
        "model_id": target.model,
        "model_name": target.model,
        "api_base": target.v1,
        "api_key_name": "localllm",  # there is none of this name: OPENAI_API_KEY counts
        "supports_schema": True,
        "supports_tools": True,
    }
    return {
        "extra-openai-models.yaml": json.dumps([entry]),  # JSON is YAML
        "default_model.txt": target.model,
    }


def _continue(target: Target) -> dict[str, str]:
    model = {
        "name": target.model,
        "provider": "openai",
        "model": target.model,
        "apiBase": target.v1,
        "apiKey": target.key,
        "roles": ["chat", "edit", "apply"],
    }
    config = {"name": "localllm", "version": "1.0.0", "schema": "v1", "models": [model]}
    return {"config.yaml": json.dumps(config)}


AGENTS: Mapping[str, Agent] = {
    "claude": Agent(
        program="claude",
        install="npm install -g @anthropic-ai/claude-code",
        source="https://code.claude.com/docs/en/env-vars",
        environment=_claude,
        unset=(
            "ANTHROPIC_API_KEY",
            "CLAUDE_CODE_USE_BEDROCK",
            "CLAUDE_CODE_USE_VERTEX",
            "CLAUDE_CODE_USE_FOUNDRY",
        ),
        context=32_768,
    ),
    "codex": Agent(
        program="codex",
        install="npm install -g @openai/codex",
        source="https://github.com/openai/codex/blob/main/docs/config.md",
        environment=lambda target: {"LOCALLLM_API_KEY": target.key},
        arguments=_codex,
        context=32_768,
    ),
    "opencode": Agent(
        program="opencode",
        install="npm install -g opencode-ai",
        source="https://opencode.ai/docs/config",
        environment=_opencode,
        context=32_768,
    ),
    "aider": Agent(
        program="aider",
        install="pip install aider-install, then aider-install",
        source="https://aider.chat/docs/config/options.html",
        environment=lambda target: {"OPENAI_API_KEY": target.key, "OPENAI_API_BASE": target.v1},
        arguments=_aider,
        context=8192,
    ),
    "goose": Agent(
        program="goose",
        install="see https://goose-docs.ai/docs/getting-started/installation",
        source="https://goose-docs.ai/docs/guides/environment-variables",
        environment=lambda target: {
            "GOOSE_PROVIDER": "openai",
            "GOOSE_MODEL": target.model,
            "OPENAI_HOST": target.origin,
            "OPENAI_BASE_PATH": "v1/chat/completions",
            "OPENAI_API_KEY": target.key,
        },
        default=("session",),
        context=16_384,
    ),
    "qwen": Agent(
        program="qwen",
        install="npm install -g @qwen-code/qwen-code",
        source="https://qwenlm.github.io/qwen-code-docs/en/cli/openai-auth",
        environment=lambda target: {
            "OPENAI_BASE_URL": target.v1,
            "OPENAI_API_KEY": target.key,
            "OPENAI_MODEL": target.model,
            "QWEN_USAGE_STATISTICS_ENABLED": "false",
            "QWEN_TELEMETRY_ENABLED": "false",
        },
        context=32_768,
    ),
    "continue": Agent(
        program="cn",
        install="npm install -g @continuedev/cli",
        source="https://docs.continue.dev/cli/configuration",
        environment=lambda _target: {"CONTINUE_TELEMETRY_ENABLED": "0"},
        arguments=lambda _target: ("--config", f"{DIRECTORY}/config.yaml"),
        files=_continue,
        context=16_384,
    ),
    "llm": Agent(
        program="llm",
        install="pip install llm",
        source="https://llm.datasette.io/en/stable/other-models.html",
        environment=lambda target: {
            "LLM_USER_PATH": DIRECTORY,
            "OPENAI_API_KEY": target.key,
        },
        files=_llm,
        note="Its log, templates and stored keys are those of this one run.",
    ),
    "open-webui": Agent(
        program="open-webui",
        install="pip install open-webui",
        source="https://docs.openwebui.com/getting-started/env-configuration",
        environment=lambda target: {
            "OPENAI_API_BASE_URL": target.v1,
            "OPENAI_API_KEY": target.key,
            "ENABLE_OLLAMA_API": "false",
            "ENABLE_PERSISTENT_CONFIG": "false",  # else what its database has from before counts
            "DEFAULT_MODELS": target.model,
            "SCARF_NO_ANALYTICS": "true",
            "DO_NOT_TRACK": "true",
            "ANONYMIZED_TELEMETRY": "false",
        },
        default=("serve", "--host", "127.0.0.1"),
    ),
    "zed": Agent(
        program="zed",
        install="see https://zed.dev/download",
        source="https://zed.dev/docs/ai/use-api-access",
        environment=lambda target: {"OPENAI_API_KEY": target.key},
        note=(
            "Zed takes the key from here and the address from its settings.json alone: "
            '"language_models": {"openai": {"api_url": "ADDRESS", "available_models": '
            '[{"name": "MODEL", "max_tokens": 32768}]}}'
        ),
    ),
}
"""Name -> what it needs. Beside them `env` stands for any other program."""

ANY_PROGRAM = "env"


def make_launch(agent: Agent, target: Target, arguments: tuple[str, ...]) -> Launch:
    """Say how an agent is started with a user's `arguments`. DIRECTORY stands in it for the place
    of its files."""
    environment: dict[str, str | None] = dict.fromkeys(agent.unset)
    environment |= agent.environment(target)
    environment |= reach_variables(target, os.environ)
    return Launch(
        command=(agent.program, *agent.arguments(target), *(arguments or agent.default)),
        environment=environment,
        files=agent.files(target),
    )


def make_command_launch(target: Target, command: tuple[str, ...]) -> Launch:
    """Say how any other program is started: with the variables that official clients read."""
    environment: dict[str, str | None] = dict(standard_variables(target))
    environment |= reach_variables(target, os.environ)
    return Launch(command=command, environment=environment, files={})


def reach_variables(target: Target, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a client needs to reach this machine: no proxy for it, and trust in the server's
    own certificate."""
    found = {}
    for name in ("NO_PROXY", "no_proxy"):
        given = [each.strip() for each in environment.get(name, "").split(",") if each.strip()]
        found[name] = ",".join(dict.fromkeys((*given, *LOCAL_NAMES)))
    if target.certificate is not None:
        found["NODE_EXTRA_CA_CERTS"] = target.certificate
        found["SSL_CERT_FILE"] = target.certificate
    return found


def placed(launch: Launch, directory: str) -> Launch:
    """Put a directory in the place of DIRECTORY."""
    return Launch(
        command=tuple(each.replace(DIRECTORY, directory) for each in launch.command),
        environment={
            name: None if value is None else value.replace(DIRECTORY, directory)
            for name, value in launch.environment.items()
        },
        files=launch.files,
    )


def masked(launch: Launch, key: str) -> Launch:
    """Hide the key wherever it stands."""

    def hide(text: str) -> str:
        return text.replace(key, "***").replace(json.dumps(key)[1:-1], "***")

    return Launch(
        command=tuple(map(hide, launch.command)),
        environment={
            name: None if value is None else hide(value)
            for name, value in launch.environment.items()
        },
        files={name: hide(content) for name, content in launch.files.items()},
    )


def shell_lines(environment: Mapping[str, str | None], platform: str) -> list[str]:
    """Write an environment as commands of a shell: sh, on Windows PowerShell."""
    return [_shell_line(name, value, platform) for name, value in environment.items()]


def _shell_line(name: str, value: str | None, platform: str) -> str:
    if platform != "win32":
        return f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
    if value is None:
        return f"Remove-Item Env:{name} -ErrorAction SilentlyContinue"
    quoted = value.replace("'", "''")
    return f"$env:{name} = '{quoted}'"
