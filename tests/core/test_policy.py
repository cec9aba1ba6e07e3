"""A policy: its text, its precedence, its decisions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.policy.document import Rules, parse
from localllm.core.policy.explain import explanation, sentence
from localllm.core.policy.keys import HISTORY_MODES, KEYS, PolicyValue, restricts
from localllm.core.policy.policy import NO_POLICY, ModelFacts, Policy, Refusal

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text("utf-8")
SUM, OTHER = "a" * 64, "b" * 64
MODEL = ModelFacts(
    name="Qwen3-8B",
    source="Qwen/Qwen3-8B-GGUF",
    size_bytes=5 * 2**30,
    license="apache-2.0",
    sha256s=(SUM,),
)

Decision = Callable[[Policy], Refusal | None]
DECISIONS: tuple[tuple[str, PolicyValue, PolicyValue | None, Decision], ...] = (
    ("offline", True, False, lambda p: p.allows_network()),
    (
        "hub.endpoints",
        ("https://one.example",),
        ("https://hub.example/",),
        lambda p: p.allows_endpoint("https://hub.example"),
    ),
    ("models.organizations_allowed", ("ggml-org",), ("qwen",), lambda p: p.allows_load(MODEL)),
    ("models.organizations_denied", ("QWEN",), ("qwe",), lambda p: p.allows_load(MODEL)),
    ("models.repositories_allowed", (), ("qwen/*",), lambda p: p.allows_fetch(MODEL)),
    ("models.repositories_denied", ("*/*-8B-*",), ("x/y",), lambda p: p.allows_fetch(MODEL)),
    ("models.licenses_allowed", ("mit",), ("Apache-*",), lambda p: p.allows_load(MODEL)),
    ("models.licenses_denied", ("apache-2.0",), ("mit",), lambda p: p.allows_load(MODEL)),
    ("models.sha256_allowed", (OTHER,), (SUM.upper(),), lambda p: p.allows_load(MODEL)),
    ("models.sha256_denied", (SUM.upper(),), (OTHER,), lambda p: p.allows_load(MODEL)),
    ("models.max_bytes", 5 * 2**30 - 1, 5 * 2**30, lambda p: p.allows_fetch(MODEL)),
    ("models.signature_required", True, False, lambda p: p.allows_load(MODEL)),
    ("templates.sha256_allowed", (OTHER,), (SUM,), lambda p: p.allows_template(SUM, "x")),
    ("engines.allowed", ("x",), ("/opt/e",), lambda p: p.allows_engine("e", "/opt/e")),
    (
        "serve.bind_allowed",
        ("loopback", "unix"),
        ("10.0.0.0/8",),
        lambda p: p.allows_listening("10.1.2.3", tls=True, has_key=True),
    ),
    (
        "serve.tls_required",
        True,
        False,
        lambda p: p.allows_listening("127.0.0.1", tls=False, has_key=True),
    ),
    (
        "serve.key_required",
        True,
        False,
        lambda p: p.allows_listening("127.0.0.1", tls=True, has_key=False),
    ),
    ("history", "memory", "disk", lambda p: p.allows_keeping("disk")),
    ("logs.prompts_never", True, False, lambda p: p.allows_prompts_in_logs()),
    ("adapters.allowed", False, True, lambda p: p.allows_adapter()),
    ("images.allowed", False, True, lambda p: p.allows_images()),
    ("launch.allowed", ("aider",), ("env",), lambda p: p.allows_launch("env")),
)
"""Key, a value that refuses, one that does not, and the decision."""
VALUES = ("history_days", "audit.required", "audit.directory", "catalogue.file")
"""Keys that are followed and refuse nothing by themselves."""


def enforced(**values: PolicyValue) -> Policy:
    return layers({key.replace("__", "."): value for key, value in values.items()})


def layers(*each: dict[str, PolicyValue]) -> Policy:
    return Policy(enforced=tuple(Rules(values=values) for values in each))


def test_every_key_decides_something() -> None:
    assert {key for key, *_ in DECISIONS} | {*VALUES} == {*KEYS}


@pytest.mark.parametrize(("key", "refusing", "allowing", "decide"), DECISIONS)
def test_a_refusal_names_its_key_and_recommending_refuses_nothing(
    key: str, refusing: PolicyValue, allowing: PolicyValue, decide: Decision
) -> None:
    assert decide(NO_POLICY) is None
    refusal = decide(layers({key: refusing}))
    assert refusal is not None
    assert refusal.key == key
    assert key in refusal.message
    assert decide(layers({key: allowing})) is None
    assert decide(Policy(recommended=(Rules(values={key: refusing}),))) is None
    # Another layer gives nothing back.
    assert decide(layers({key: allowing}, {key: refusing})) is not None
    assert restricts(key, refusing)


def value_of(key: str) -> st.SearchStrategy[PolicyValue]:
    return st.sampled_from([v for k, *both, _ in DECISIONS for v in both if k == key])


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={key: value_of(key) for key, *_ in DECISIONS}),
        max_size=3,
    ),
    st.fixed_dictionaries({}, optional={key: value_of(key) for key, *_ in DECISIONS}),
)
def test_a_layer_more_never_allows_more(
    before: list[dict[str, PolicyValue]], more: dict[str, PolicyValue]
) -> None:
    for _key, _refusing, _allowing, decide in DECISIONS:
        if decide(layers(*before)) is not None:
            assert decide(layers(*before, more)) is not None


def test_what_a_person_sets_holds_where_it_is_tighter() -> None:
    days = enforced(history_days=30)
    assert [days.bounded("history_days", each) for each in (None, 0, 7, 90)] == [30, 30, 7, 30]
    for most in HISTORY_MODES:
        policy = enforced(history=most)
        for own in HISTORY_MODES:
            held = policy.bounded("history", own)
            assert HISTORY_MODES.index(str(held)) == min(map(HISTORY_MODES.index, (most, own)))
    assert enforced(history="memory").bounded("history", None) == "memory"
    assert enforced(history="disk").bounded("history", None) is None  # the person is asked
    assert enforced(offline=True).bounded("offline", value=False) is True
    assert enforced(offline=False).bounded("offline", value=True) is True
    endpoints = enforced(hub__endpoints=("https://a.example",))
    assert endpoints.bounded("hub.endpoints", ()) == ("https://a.example",)
    assert endpoints.bounded("hub.endpoints", ("https://b.example",)) == ("https://b.example",)


def test_addresses_are_those_that_are_listened_on() -> None:
    def allows(allowed: str, ip: str | None) -> bool:
        policy = layers({"serve.bind_allowed": (allowed,)})
        return policy.allows_listening(ip, tls=True, has_key=True) is None

    assert allows("loopback", "::1")
    assert not allows("loopback", "0.0.0.0")
    assert not allows("10.0.0.0/8", "::")
    assert allows("0.0.0.0/0", "0.0.0.0")
    assert not allows("::/0", "0.0.0.0")
    assert allows("unix", None)
    assert not allows("unix", "127.0.0.1")
    assert not allows("loopback", None)
    assert allows("fe80::/10", "fe80::1%eth0")


def test_what_is_not_known_is_not_allowed() -> None:
    unknown = ModelFacts(name="x", source="local:import", size_bytes=1)
    for key, value in (
        ("models.licenses_allowed", ("mit",)),
        ("models.sha256_allowed", (SUM,)),
        ("models.sha256_denied", (SUM,)),
        ("models.organizations_allowed", ("import",)),
    ):
        assert layers({key: value}).allows_load(unknown) is not None
    part = ModelFacts(name="x", source="a/b", size_bytes=1, sha256s=(SUM, None))
    assert layers({"models.sha256_allowed": (SUM,)}).allows_load(part) is not None


def test_each_mistake_has_its_line() -> None:
    text = (
        "schema = 2\n"
        "offlin = true\n"
        "[enforced]\n"
        "offline = 1\n"
        'history = "tape"\n'
        "[enforced.models]\n"
        'max_byts = "8GiB"\n'
        "[enforced.models.sha256_allowed]\n"
        "x = 1\n"
        "[recommended]\n"
        'serve.bind_allowed = ["loopback", "10.0.0.0/99"]\n'
        'hub.endpoints = ["https://user@example.org"]\n'
        "history_days = 0\n"
    )
    mistakes = parse(text).mistakes
    assert [each.line for each in mistakes] == [1, 2, 4, 5, 7, 8, 11, 12, 13]
    assert "did you mean models.max_bytes?" in str(mistakes[4])
    assert str(parse("schema = 1\n[enforced]\noffline = yes\n").mistakes[0]).startswith("line 3:")
    assert parse("").mistakes[0].line == 1
    assert parse("schema = true").mistakes
    assert parse("schema = 1\nenforced = 3\n").mistakes[0].line == 2


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_mistakes_and_never_half_of_one(text: str) -> None:
    document = parse(f"schema = 1\n[enforced]\noffline = true\n{text}")
    assert document.mistakes or document.enforced.is_on("offline")
    if document.mistakes:
        assert not document.enforced.values


def test_the_page_for_administrators_is_true() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    document = parse(example)
    assert document.mistakes == ()
    assert document.enforced.number("models.max_bytes") == 16 * 2**30
    table = PAGE.partition("<!-- policy keys: begin -->")[2].partition("<!-- policy keys: end")[0]
    assert re.findall(r"(?m)^\| `([^`]+)`", table) == list(KEYS)
    for key in KEYS.values():
        section = f"schema = 1\n[enforced]\n{key.key} = {key.example}\n"
        read = parse(section).enforced.values[key.key]
        row = next(line for line in table.splitlines() if line.startswith(f"| `{key.key}`"))
        assert f"`{key.example}`" in row
        assert restricts(key.key, read)
        assert "{" not in sentence(key, read)


def test_a_policy_is_explained_with_its_places() -> None:
    document = parse("schema = 1\n[enforced]\noffline = true\n", place="/etc/p.toml")
    lines = explanation(Policy(enforced=(document.enforced,), recommended=(Rules(),)))
    assert lines[1] == "  Nothing is sent to another machine. [offline, /etc/p.toml line 3]"
    assert "No policy" in explanation(NO_POLICY)[0]
    audit = enforced(audit__required=True, audit__directory="/var/log/x").audit
    assert (audit.required, audit.directory) == (True, "/var/log/x")
