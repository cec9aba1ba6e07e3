"""A chat template of the user's, and one that is broken or missing: what a load says of it."""

from pathlib import Path

import pytest

from localllm.core.sizing.load import ChatTemplateFile, LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import GenerateRequest, Loaded, LoadRequest, Message, Role
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.errors import BadRequest, UsageError
from tests.engine import tiny
from tests.engine.answers import collect

SMALL = LoadSettings(context=256, threads=1)
GOOD = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
BROKEN = "{% for m in messages %}\n{{ m.content }"


def model(path: Path, template: str | None) -> Path:
    if template is None:
        return tiny.plain(path)
    return tiny.plain(path, edit=lambda w: w.add_string("tokenizer.chat_template", template))


async def loaded(engine: ProcessEngine, path: Path, own: str | None = None) -> Loaded:
    given = ChatTemplateFile(path="/t.jinja", source=own) if own is not None else None
    settings = LoadSettings(context=256, threads=1, chat_template=given)
    events = [e async for e in engine.load(LoadRequest(path=str(path), settings=settings))]
    assert isinstance(events[-1], Loaded)
    return events[-1]


@pytest.mark.parametrize(
    ("template", "usable", "problem"),
    [
        (GOOD, True, None),
        (None, False, None),
        (BROKEN, False, "line 2: unexpected '}'"),
        ("{{ messages | nonsense }}", False, "line 1: No filter named 'nonsense'"),
        ("{{ raise_exception('tools only') }}", True, "tools only"),
        ("Hello.", True, "leaves out what the user writes"),
    ],
)
async def test_a_load_says_what_is_wrong_with_the_template(
    template: str | None, usable: bool, problem: str | None, tmp_path: Path
) -> None:
    engine = ProcessEngine()
    answer = await loaded(engine, model(tmp_path / "m.gguf", template))
    assert answer.has_chat_template is usable
    assert (problem or "") in (answer.chat_template_problem or "")
    assert (problem is None) == (answer.chat_template_problem is None)
    await engine.close()


async def test_a_conversation_with_a_broken_template_is_refused_with_the_line(
    tmp_path: Path,
) -> None:
    engine = ProcessEngine()
    await loaded(engine, model(tmp_path / "m.gguf", BROKEN))
    request = GenerateRequest(
        request_id="r", messages=(Message(role=Role.USER, content="a"),), max_tokens=1
    )
    with pytest.raises(BadRequest, match=r"line 2.*--chat-template"):
        await collect(engine, request)
    await engine.close()


async def test_a_template_of_ones_own_makes_the_prompt(tmp_path: Path) -> None:
    engine = ProcessEngine()
    answer = await loaded(engine, model(tmp_path / "m.gguf", BROKEN), GOOD)
    assert answer.has_chat_template
    assert answer.chat_template_problem is None
    request = GenerateRequest(
        request_id="r", messages=(Message(role=Role.USER, content="abc"),), max_tokens=1
    )
    _, finished, _ = await collect(engine, request)
    assert finished.prompt_tokens == len("<user>abc")
    await engine.close()


async def test_a_broken_template_of_ones_own_is_refused_before_the_load(tmp_path: Path) -> None:
    engine = ProcessEngine()
    with pytest.raises(UsageError, match=r"/t\.jinja: .*line 2: unexpected"):
        await loaded(engine, tmp_path / "is-not-there.gguf", BROKEN)
    await engine.close()


@pytest.mark.parametrize("tag", ["{{ x", "{% if %}", "{% endfor %}", "{{ 'a }}"])
def test_every_error_of_syntax_has_its_line(tag: str) -> None:
    with pytest.raises(BadRequest, match=r"not usable: line 3"):
        ChatTemplate(f"a\nb\n{tag}")
