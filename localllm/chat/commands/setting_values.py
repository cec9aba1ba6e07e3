"""The settings of a conversation by their names, as `/set` and the settings panel read and write
them. Names and ranges are the engine's own (`Sampling`)."""

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace

from localllm.chat.settings import ChatSettings
from localllm.core.sizing.load import KvType
from localllm.engine.messages import Effort, Sampling, Thinking
from localllm.engine.messages.limits import MAX_INT32, Range, ranges_of
from localllm.errors import UsageError
from localllm.translation import N_, _

SAMPLING_NAMES = tuple(field.name for field in fields(Sampling))
SETTING_NAMES = ("max_tokens", "stop", "context", "kv_type", *SAMPLING_NAMES)

ALIASES = {
    "temp": "temperature",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "num_ctx": "context",
    "n_ctx": "context",
    "ctx": "context",
    "repeat_last_n": "penalty_last_n",
}
"""Names of Ollama's and llama.cpp's for the same settings."""

HELP = {
    "max_tokens": N_("the longest answer, in tokens"),
    "stop": N_("texts that end an answer"),
    "context": N_("the length of the context, in tokens; the model is loaded again"),
    "kv_type": N_("the type of the KV cache; the model is loaded again"),
    "temperature": N_("0: always the likeliest token; higher: more surprising"),
    "top_k": N_("only the so many likeliest tokens; 0: all"),
    "top_p": N_("only the likeliest tokens that together have this probability"),
    "min_p": N_("only tokens with this share of the likeliest one's probability"),
    "repeat_penalty": N_("above 1: what was written lately becomes less likely"),
    "frequency_penalty": N_("above 0: the more often written, the less likely"),
    "presence_penalty": N_("above 0: what was written once becomes less likely"),
    "penalty_last_n": N_("how many tokens back the penalties look"),
    "seed": N_("the same number gives the same answer"),
    "typical_p": N_("only tokens about as surprising as expected; 1: all"),
    "top_n_sigma": N_("only tokens so many deviations below the likeliest; 0: all"),
    "dynatemp_range": N_("how far the temperature follows the model's doubt"),
    "dynatemp_exponent": N_("how it follows it"),
    "xtc_probability": N_("how often the likeliest tokens are left out"),
    "xtc_threshold": N_("the probability from which they are"),
    "dry_multiplier": N_("above 0: repeated sequences become less likely"),
    "dry_base": N_("how much longer repetitions cost more"),
    "dry_allowed_length": N_("the longest repetition that costs nothing"),
    "dry_penalty_last_n": N_("how many tokens back repetitions are looked for"),
    "dry_sequence_breakers": N_("texts that end a repetition"),
    "mirostat": N_("1 or 2: hold the surprise of a text constant"),
    "mirostat_tau": N_("the surprise that is held"),
    "mirostat_eta": N_("how fast it is corrected"),
    "logit_bias": N_("tokens made more or less likely: 1234=-5, 99=2"),
}

_TOKENS = Range(int, 1, MAX_INT32)
_NONE_WORDS = frozenset({"off", "none", "default", "unlimited", "random", "auto"})
_DEFAULT = "default"


_SETTING = re.compile(r"([^\s=]*)\s*=?\s*(.*)", re.DOTALL)


def split_setting(text: str) -> tuple[str, str]:
    """Split "NAME VALUE" and "NAME=VALUE" into both; the value is "" where there is none."""
    match = _SETTING.fullmatch(text.strip())
    assert match is not None  # both parts may be empty
    return match[1], match[2]


def setting_name(name: str) -> str:
    """Return the name of the setting that is meant. Raises UsageError, which names the nearest."""
    wanted = name.lower().replace("-", "_")
    wanted = ALIASES.get(wanted, wanted)
    if wanted in SETTING_NAMES:
        return wanted
    near = difflib.get_close_matches(wanted, SETTING_NAMES, n=2, cutoff=0.5)
    hint = (
        _("Did you mean {near}?").format(near=_(" or ").join(near))
        if near
        else _("/set alone shows all of them.")
    )
    raise UsageError(_("There is no setting {name}.").format(name=name[:40]) + " " + hint)


def setting_value(settings: ChatSettings, name: str) -> object:
    """Return the value of one setting, by its exact name."""
    return getattr(settings.sampling if name in SAMPLING_NAMES else settings, name)


def is_default(settings: ChatSettings, name: str) -> bool:
    """Return True when a setting has the value that nobody has to set."""
    return setting_value(settings, name) == setting_value(ChatSettings(), name)


def format_setting(settings: ChatSettings, name: str) -> str:
    """Write the value of a setting so that `with_setting` reads it again."""
    match setting_value(settings, name):
        case None:
            return _UNSET[name]
        case float() as number:
            return f"{number:g}"
        case tuple() as values if name == "logit_bias":
            return ", ".join(f"{token}={bias:g}" for token, bias in values) or "off"
        case tuple() as values:
            return " ".join(json.dumps(each, ensure_ascii=False) for each in values) or "off"
        case value:
            return str(value)


_UNSET = {"max_tokens": "unlimited", "context": "default", "kv_type": "default", "seed": "random"}


def settings_table(settings: ChatSettings) -> str:
    """Write all settings, one on a line; those that were changed carry a mark."""
    width = max(map(len, SETTING_NAMES)) + 2
    lines = [
        f"{' ' if is_default(settings, name) else '*'} {name:<{width}}"
        f"{format_setting(settings, name)}"
        for name in SETTING_NAMES
    ]
    lines.append(_("* differs from the default. /set NAME VALUE changes one."))
    return "\n".join(lines)


def describe_setting(settings: ChatSettings, name: str) -> str:
    """Write one setting with its meaning and its range."""
    values = setting_range(name)
    text = f"{name} = {format_setting(settings, name)}: {_(HELP[name])}"
    return f"{text} ({values})" if values else text


def setting_range(name: str) -> str:
    """Describe the values that a setting takes, in words."""
    if name == "kv_type":
        return ", ".join(KvType)
    values = _TOKENS if name in ("max_tokens", "context") else ranges_of(Sampling).get(name)
    if values is None:
        return ""
    low = f"{values.low:g}" if isinstance(values.low, float) else str(values.low)
    if values.high >= MAX_INT32:
        return _("{low} or more").format(low=low)
    high = str(int(values.high)) if values.type is int else f"{values.high:g}"
    if values.low_open:
        return _("above {low}, to {high}").format(low=low, high=high)
    return _("{low} to {high}").format(low=low, high=high)


def with_setting(settings: ChatSettings, name: str, text: str) -> ChatSettings:
    """Change one setting to the value that `text` writes. Raises UsageError.

    "default" is the value that nobody has to set; "off", "unlimited" and "random" mean the same for
    the settings that can be without a value.
    """
    name = setting_name(name)
    word = text.strip().lower()
    if word == _DEFAULT or (word in _NONE_WORDS and setting_value(ChatSettings(), name) is None):
        value = setting_value(ChatSettings(), name)
    else:
        value = _parser(name)(name, text.strip())
    if name in SAMPLING_NAMES:
        return replace(settings, sampling=replace(settings.sampling, **{name: value}))  # type: ignore[arg-type]  # the parser of this very field made it
    return replace(settings, **{name: value})  # type: ignore[arg-type]  # as above


def _parser(name: str) -> Callable[[str, str], object]:
    if name in ("stop", "dry_sequence_breakers"):
        return _texts
    if name == "logit_bias":
        return _biases
    if name == "kv_type":
        return _kv_type
    return _number


def _number(name: str, text: str) -> object:
    values = _TOKENS if name in ("max_tokens", "context") else ranges_of(Sampling)[name]
    number: float | int | None = None
    try:
        number = _whole(text) if values.type is int else float(text.replace(",", "."))
    except ValueError:
        number = None
    if number is None or number not in values:
        raise UsageError(
            _("{name} is {value}; it can be {range}.").format(
                name=name, value=repr(text[:40]), range=setting_range(name)
            )
        )
    return number


def _whole(text: str) -> int:
    """Read a whole number, also 8k for 8192 and 32,768 with its comma."""
    plain = text.lower().replace("_", "")
    groups = plain.split(",")
    if len(groups) > 1:
        if any(len(each) != 3 for each in groups[1:]):
            raise ValueError(text)
        plain = "".join(groups)
    factor = 1024 if plain.endswith("k") else 1
    return int(plain.removesuffix("k")) * factor


def _texts(name: str, text: str) -> tuple[str, ...]:
    r"""Read texts: a JSON list, or words, quoted where they have blanks; \n is a line's end."""
    if text.lower() in _NONE_WORDS or not text:
        return ()
    try:
        values = json.loads(text) if text.startswith("[") else _words(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
        raise UsageError(
            _('{name} takes texts, such as "###" "\\n\\n": {value} is none.').format(
                name=name, value=repr(text[:40])
            )
        )
    return tuple(values)


_WORD = re.compile(r'("(?:[^"\\]|\\.)*")|\'([^\']*)\'|(\S+)', re.DOTALL)


def _words(text: str) -> list[str]:
    """Split into words and quoted texts; a text in double quotes is one of JSON. Raises
    ValueError."""
    return [
        json.loads(quoted, strict=False) if quoted else single or _unescaped(bare)
        for quoted, single, bare in _WORD.findall(text)
    ]


def _unescaped(word: str) -> str:
    return word.replace("\\n", "\n").replace("\\t", "\t")


def _biases(name: str, text: str) -> tuple[tuple[int, float], ...]:
    if text.lower() in _NONE_WORDS or not text:
        return ()
    pairs = []
    for each in text.replace(",", " ").split():
        token, sign, bias = each.partition("=")
        try:
            pairs.append((int(token), float(bias)))
        except ValueError:
            sign = ""
        if not sign or pairs[-1][0] < 0 or not -100 <= pairs[-1][1] <= 100:
            raise UsageError(
                _("{name} takes tokens and what is added to them, -100 to 100: 1234=-5").format(
                    name=name
                )
            )
    return tuple(pairs)


def _kv_type(name: str, text: str) -> str:
    if text.lower() not in list(KvType):
        raise UsageError(
            _("{name} is {value}; it can be {range}.").format(
                name=name, value=repr(text[:40]), range=setting_range(name)
            )
        )
    return text.lower()


def parse_thinking(text: str) -> Thinking:
    """Read how long a model thinks: on, off, auto, an effort, or a number of tokens. Raises
    UsageError."""
    word = text.strip().lower()
    match word:
        case "auto" | "default":
            return Thinking()
        case "on" | "true" | "yes":
            return Thinking(enabled=True)
        case "off" | "none" | "false" | "no":
            return Thinking(enabled=False)
    if word in list(Effort):
        return Thinking(effort=Effort(word))
    try:
        budget = _whole(word)
    except ValueError:
        budget = -1
    if budget not in ranges_of(Thinking)["budget"]:
        raise UsageError(
            _("Thinking is {value}; it can be on, off, auto, {efforts}, or tokens.").format(
                value=repr(text[:40]), efforts=", ".join(Effort)
            )
        )
    return Thinking(enabled=budget > 0, budget=budget or None)


def thinking_text(thinking: Thinking) -> str:
    """Write it so that `parse_thinking` reads it again."""
    if thinking.enabled is False:
        return "off"
    if thinking.budget is not None:
        return str(thinking.budget)
    if thinking.effort is not None:
        return thinking.effort.value
    return "auto" if thinking.enabled is None else "on"
