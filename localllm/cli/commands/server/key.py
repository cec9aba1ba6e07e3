"""`localllm key`: named keys of the local API, for others than this user, or for less than all.

The owner's own key is not among them: it is made by `localllm serve` and stays in its file.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from localllm.cli import options
from localllm.cli.output import columns, info, print_json, print_line
from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.library.files import paths
from localllm.server.access.named_keys import KeyFile, NamedKey, parse_expiry
from localllm.server.request_record import KeyLimits, Scope


@click.group(name="key")
def command() -> None:
    """Keys of the local API: create, list, revoke. A running server needs no restart."""


@command.command(name="create")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE",
    help="What it may do: infer (the default), embed, admin, metrics; repeatable.",
)  # fmt: skip
@click.option(
    "--model", "models", multiple=True, metavar="MODEL",
    help="A model that it may use, by its installed name or an alias; repeatable (default: all).",
)  # fmt: skip
@click.option("--requests", type=click.IntRange(1, 10_000), metavar="N",
              help="Requests at the same time (default: no limit).")  # fmt: skip
@click.option("--tokens-per-minute", type=click.IntRange(1, 10**9), metavar="N",
              help="Tokens of prompts and answers in any minute (default: no limit).")  # fmt: skip
@click.option("--expires", metavar="TIME", help="After 12h, 30d or 8w, or on 2027-01-31.")
@options.JSON
def create(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    requests: int | None,
    tokens_per_minute: int | None,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key NAME and print it, once: only its hash is kept."""
    now = time.time()
    key, text = _key_file().create(
        name,
        now=now,
        scopes=parse_scopes(scopes),
        models=tuple(dict.fromkeys(models)) or None,
        expires=None if expires is None else parse_expiry(expires, now),
        limits=KeyLimits(requests=requests, tokens_per_minute=tokens_per_minute),
    )
    if as_json:
        print_json({**_document(key, None), "key": text})
        return
    print_line(text, wrap=False)
    info(f"{name} may use {_allowance(key)}. The key is shown this once; only its hash is kept.")


@command.command(name="ls")
@options.JSON
def list_keys(as_json: bool) -> None:
    """The named keys, and when each was last used (to about a minute)."""
    file = _key_file()
    keys, used = file.load(), file.last_used()
    if as_json:
        print_json({"keys": [_document(key, used.get(key.sha256)) for key in keys]})
        return
    if not keys:
        info("There is no named key. Try: localllm key create NAME")
        return
    rows: list[tuple[str, ...]] = [
        ("NAME", "SCOPES", "MODELS", "LIMITS", "CREATED", "LAST USED", "EXPIRES"),
        *(_row(key, used.get(key.sha256)) for key in keys),
    ]
    for i, line in enumerate(columns(rows, left=7)):
        print_line(line, bold=i == 0, wrap=False)


@command.command(name="revoke")
@click.argument("name")
@options.JSON
def revoke(name: str, as_json: bool) -> None:
    """Remove the key NAME: from its next request on it is refused."""
    key = _key_file().revoke(name)
    if as_json:
        print_json(_document(key, None))
    else:
        info(f"{key.name} is revoked. Answers that are being written for it still end.")


def parse_scopes(texts: tuple[str, ...]) -> tuple[Scope, ...]:
    """Read the scopes of a new key, which may be separated by commas. Raises UsageError."""
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in tuple(Scope)]
    if unknown:
        raise UsageError(
            f"{single_line(unknown[0])[:40]!r} is no scope. The scopes are: {', '.join(Scope)}."
        )
    return tuple(dict.fromkeys(map(Scope, words))) or (Scope.INFER,)


def _key_file() -> KeyFile:
    return KeyFile(paths.keys_file(), paths.keys_used_file())


def _document(key: NamedKey, last_used: float | None) -> dict[str, object]:
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "models": None if key.models is None else list(key.models),
        "requests": key.requests,
        "tokens_per_minute": key.tokens_per_minute,
        "created": key.created,
        "expires": key.expires,
        "last_used": last_used,
    }


def _row(key: NamedKey, last_used: float | None) -> tuple[str, ...]:
    return (
        key.name,
        ", ".join(key.scopes),
        "all" if key.models is None else ", ".join(map(single_line, key.models)),
        ", ".join(_limits(key)) or "none",
        _time(key.created),
        "never" if last_used is None else _time(last_used),
        "never" if key.expires is None else _time(key.expires),
    )


def _limits(key: NamedKey) -> Iterator[str]:
    if key.requests is not None:
        yield f"{key.requests} at once"
    if key.tokens_per_minute is not None:
        yield f"{key.tokens_per_minute} tokens/min"


def _allowance(key: NamedKey) -> str:
    models = "all models" if key.models is None else ", ".join(map(single_line, key.models))
    limits = "".join(f", {limit}" for limit in _limits(key))
    return f"{models} for {', '.join(key.scopes)}{limits}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
