"""The keys of a policy: the one table that parsing, messages, `policy explain` and docs/policy.md
come from.

A key means the same in `[enforced]`, which nobody can override, and in `[recommended]`, which a
person's own word overrides.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from localllm.core.units import parse_bytes
from localllm.errors import UsageError

PolicyValue = bool | int | str | tuple[str, ...]
"""A value of a policy; sizes are bytes."""

HISTORY_MODES = ("off", "memory", "disk")
"""How conversations may be kept, the tightest first."""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_ENDPOINT = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class ValueKind(StrEnum):
    """What a key holds."""

    SWITCH = "true or false"
    COUNT = "a whole number"
    SIZE = "a size such as 8GiB, or a whole number of bytes"
    TEXT = "a text"
    LIST = "a list of texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyKey:
    """A key with what it means. `meaning` is a sentence with `{value}` in it, for a value that
    restricts something; `item` returns what is wrong with a text, or with one of a list. `setting`
    is the key of the user's setting that it bounds, `example` a value as TOML has it."""

    key: str
    kind: ValueKind
    meaning: str
    example: str
    minimum: int = 0
    item: Callable[[str], str | None] | None = None
    words: tuple[str, ...] = ()
    setting: str | None = None

    def problem(self, value: object) -> str | None:
        """Say why a TOML value is not allowed, as the end of a sentence; None when it is."""
        must = f"must be {self.kind.value}"
        match self.kind:
            case ValueKind.SWITCH:
                return None if isinstance(value, bool) else must
            case ValueKind.COUNT:
                good = type(value) is int and value >= self.minimum
                return None if good else f"{must} from {self.minimum}"
            case ValueKind.SIZE:
                return _size_problem(value, must)
            case ValueKind.TEXT:
                texts: object = (value,)
            case ValueKind.LIST:
                if not isinstance(value, list):
                    return must
                texts = tuple(value)
        assert isinstance(texts, tuple)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                return must
            if self.words and text not in self.words:
                return f"must be one of {', '.join(self.words)}"
            if self.item is not None and (reason := self.item(text)) is not None:
                return f"holds {text[:80]!r}, which is {reason}"
        return None

    def value_of(self, value: object) -> PolicyValue:
        """Return an allowed TOML value as the policy holds it."""
        if self.kind is ValueKind.SIZE and isinstance(value, str):
            return parse_bytes(value)
        if isinstance(value, list):
            return tuple(str(each).strip() for each in value)
        assert isinstance(value, bool | int | str)
        return value


def _size_problem(value: object, must: str) -> str | None:
    if type(value) is int:
        return None if value > 0 else must
    if not isinstance(value, str):
        return must
    try:
        parse_bytes(value)
    except UsageError as error:
        return f"{must}: {str(error).removesuffix('.')}"
    return None


def _sha256_problem(text: str) -> str | None:
    return None if _SHA256.fullmatch(text) else "no SHA-256: 64 hexadecimal digits"


def _network_problem(text: str) -> str | None:
    import ipaddress  # few policies name one

    if text in ("loopback", "unix"):
        return None
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "no IP address, no network such as 10.0.0.0/8, and neither loopback nor unix"
    return None


def _endpoint_problem(text: str) -> str | None:
    return None if _ENDPOINT.fullmatch(text) else "no http(s) address without user and query"


def _repository_problem(text: str) -> str | None:
    good = text.count("/") == 1 or text.startswith("local:")
    return None if good else "no ORGANIZATION/REPOSITORY and no local:SOURCE"


def _place_problem(text: str) -> str | None:
    absolute = text.startswith(("/", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", text)
    return None if absolute else "no absolute path"


_TABLE = (
    PolicyKey(
        key="offline",
        kind=ValueKind.SWITCH,
        meaning="Nothing is sent to another machine.",
        example="true",
        setting="offline",
    ),
    PolicyKey(
        key="hub.endpoints",
        kind=ValueKind.LIST,
        meaning="Models are searched for and fetched only at {value}.",
        example='["https://hub.example.org"]',
        item=_endpoint_problem,
        setting="hub.endpoints",
    ),
    PolicyKey(
        key="models.organizations_allowed",
        kind=ValueKind.LIST,
        meaning="Only models of these organizations are fetched and loaded: {value}.",
        example='["ggml-org", "local:starter"]',
    ),
    PolicyKey(
        key="models.organizations_denied",
        kind=ValueKind.LIST,
        meaning="Models of these organizations are neither fetched nor loaded: {value}.",
        example='["somebody"]',
    ),
    PolicyKey(
        key="models.repositories_allowed",
        kind=ValueKind.LIST,
        meaning="Only models of these repositories are fetched and loaded: {value}.",
        example='["Qwen/*-GGUF", "local:*"]',
        item=_repository_problem,
    ),
    PolicyKey(
        key="models.repositories_denied",
        kind=ValueKind.LIST,
        meaning="Models of these repositories are neither fetched nor loaded: {value}.",
        example='["*/*-abliterated*"]',
        item=_repository_problem,
    ),
    PolicyKey(
        key="models.licenses_allowed",
        kind=ValueKind.LIST,
        meaning="Only models under these licenses are fetched and loaded: {value}.",
        example='["apache-2.0", "mit"]',
    ),
    PolicyKey(
        key="models.licenses_denied",
        kind=ValueKind.LIST,
        meaning="Models under these licenses are neither fetched nor loaded: {value}.",
        example='["cc-by-nc-4.0"]',
    ),
    PolicyKey(
        key="models.sha256_allowed",
        kind=ValueKind.LIST,
        meaning="Only model files with one of {count} SHA-256 sums are fetched and loaded.",
        example='["0000000000000000000000000000000000000000000000000000000000000000"]',
        item=_sha256_problem,
    ),
    PolicyKey(
        key="models.sha256_denied",
        kind=ValueKind.LIST,
        meaning="Model files with one of {count} SHA-256 sums are neither fetched nor loaded.",
        example='["ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]',
        item=_sha256_problem,
    ),
    PolicyKey(
        key="models.max_bytes",
        kind=ValueKind.SIZE,
        meaning="No model whose files have more than {value} is fetched or loaded.",
        example='"8GiB"',
    ),
    PolicyKey(
        key="models.signature_required",
        kind=ValueKind.SWITCH,
        meaning="Only models with a signature that was verified are fetched and loaded.",
        example="true",
    ),
    PolicyKey(
        key="templates.sha256_allowed",
        kind=ValueKind.LIST,
        meaning="Only chat templates with one of {count} SHA-256 sums are used.",
        example='["0000000000000000000000000000000000000000000000000000000000000000"]',
        item=_sha256_problem,
    ),
    PolicyKey(
        key="engines.allowed",
        kind=ValueKind.LIST,
        meaning="Only these builds of llama.cpp are started: {value}.",
        example='["llama-cpp-python"]',
    ),
    PolicyKey(
        key="serve.bind_allowed",
        kind=ValueKind.LIST,
        meaning="The local API listens only on {value}.",
        example='["loopback", "unix"]',
        item=_network_problem,
    ),
    PolicyKey(
        key="serve.tls_required",
        kind=ValueKind.SWITCH,
        meaning="The local API listens on a port only with TLS.",
        example="true",
    ),
    PolicyKey(
        key="serve.key_required",
        kind=ValueKind.SWITCH,
        meaning="The local API answers only requests with an API key.",
        example="true",
    ),
    PolicyKey(
        key="history",
        kind=ValueKind.TEXT,
        meaning="Conversations are kept at most so: {value}.",
        example='"memory"',
        words=HISTORY_MODES,
        setting="history",
    ),
    PolicyKey(
        key="history_days",
        kind=ValueKind.COUNT,
        meaning="Conversations on the disk that were not used for {value} days are erased.",
        example="30",
        minimum=1,
        setting="history_days",
    ),
    PolicyKey(
        key="logs.prompts_never",
        kind=ValueKind.SWITCH,
        meaning="No log holds a prompt or an answer, at any level.",
        example="true",
    ),
    PolicyKey(
        key="adapters.allowed",
        kind=ValueKind.SWITCH,
        meaning="No adapter (LoRA) is loaded.",
        example="false",
    ),
    PolicyKey(
        key="images.allowed",
        kind=ValueKind.SWITCH,
        meaning="No image encoder is loaded, so no picture is read.",
        example="false",
    ),
    PolicyKey(
        key="launch.allowed",
        kind=ValueKind.LIST,
        meaning="`localllm launch` starts only {value}.",
        example='["aider"]',
    ),
    PolicyKey(
        key="audit.required",
        kind=ValueKind.SWITCH,
        meaning="What is done is written to the audit log.",
        example="true",
    ),
    PolicyKey(
        key="audit.directory",
        kind=ValueKind.TEXT,
        meaning="The audit log lies in {value}.",
        example='"/var/log/localllm"',
        item=_place_problem,
    ),
    PolicyKey(
        key="catalogue.file",
        kind=ValueKind.TEXT,
        meaning="The known models are those of {value}, in the place of localllm's own list.",
        example='"/etc/localllm/models.toml"',
        item=_place_problem,
    ),
)

KEYS: Mapping[str, PolicyKey] = {each.key: each for each in _TABLE}
"""Every key there is, in the order of the documentation."""

GOVERNED_SETTINGS = tuple(each.setting for each in _TABLE if each.setting is not None)
"""The settings of a person that a policy bounds or recommends; they have the same keys."""

POLICY_SWITCH = "offline in the policy"
"""Names what switches the network off, as the settings name theirs."""

_PERMISSIONS = ("adapters.allowed", "images.allowed")


def restricts(key: str, value: PolicyValue) -> bool:
    """Tell whether a value takes something away: `true` of a permission and `false` of every other
    switch take nothing, since a policy only tightens."""
    if isinstance(value, bool):
        return value is not (key in _PERMISSIONS)
    return True
