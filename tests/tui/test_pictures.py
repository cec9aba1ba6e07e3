"""Pictures of places and of the windows that people see, at three sizes; each size is one run of
the app, which goes from one to the next. They are renewed like those of test_snapshots.py.

The places of models and of bench are not among them: their figures are those of this machine and of
formulas that improve.
"""

import shutil
from pathlib import Path

import pytest
from pytest_textual_snapshot import SVGImageExtension  # type: ignore[import-untyped]
from syrupy.assertion import SnapshotAssertion
from textual.widgets import TextArea

from localllm.chat.conversation import AnswerStats, ChatMessage, Conversation
from localllm.chat.duels import DuelStore
from localllm.chat.settings import ChatSettings
from localllm.engine.messages import Role
from localllm.library.files import paths
from localllm.tui.screens.duel.duel import DuelScreen
from localllm.tui.screens.history.chats import ChatsScreen
from localllm.tui.screens.keys import KeysScreen
from localllm.tui.screens.tokens.tokens import TokensScreen
from tests.tui.actions import (
    wait_for_screen,
    wait_for_text,
    wait_for_widget,
)
from tests.tui.fake_suggestions import FakeSuggestions, fake_plans
from tests.tui.fixtures import AppFixture
from tests.tui.test_snapshots import FixedFitRuntime

AT_S = 1_700_000_000.0
RICH = """## A cache of keys and values

It keeps what was computed for **every token before**, so that the next one costs one step:

1. *write* once,
2. read for each token, $O(n)$ instead of $O(n^2)$.

| type | bytes | loses |
| --- | ---: | --- |
| f16 | 2 | nothing |
| q8_0 | 1.06 | hardly anything |

```python
def size_bytes(layers: int, cells: int, width: int, bytes_each: float = 2.0) -> float:
    return 2 * layers * cells * width * bytes_each  # keys and values
```

> Measured here: 90.0 MiB for 4,096 cells. See [the docs](https://example.org/kv).
"""
STATS = AnswerStats(
    prompt_tokens=61, completion_tokens=214, cached_tokens=48, ttft_s=0.41, decode_tps=38.2
)


def rich_conversation() -> Conversation:
    """Two questions, versions of an answer, reasoning, a tool's call, code, a table."""
    conversation = Conversation(
        id="c1", title="How a KV cache works", model="starter", created_s=AT_S, updated_s=AT_S
    )
    asked = ChatMessage(role=Role.USER, text="What is a KV cache, and how big is it?")
    conversation = conversation.with_message(asked, after=None)
    for text in ("It is a cache.", RICH):
        answer = ChatMessage(
            role=Role.ASSISTANT,
            text=text,
            reasoning="They want a definition, and then numbers.",
            stats=STATS,
            model="starter",
        )
        conversation = conversation.with_message(answer, after=asked.id)
    return conversation


@pytest.mark.parametrize(
    "size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"]
)
async def test_pictures(  # noqa: PLR0915  # one run of the app
    app_fixture: AppFixture, smollm2: Path, snapshot: SnapshotAssertion, size: tuple[int, int]
) -> None:
    app_fixture.suggest = FakeSuggestions(plans=fake_plans(smollm2))
    app_fixture.conversations.save(conversation := rich_conversation())
    app = app_fixture.app(FixedFitRuntime)
    pictures = snapshot.use_extension(SVGImageExtension)

    async with app.run_test(size=size) as pilot:

        async def picture(name: str) -> None:
            for text in app.screen.query(TextArea):
                text.cursor_blink = False
            app.show_loaded()
            await pilot.pause()
            assert app.export_screenshot() == pictures(name=f"{name}-{size[0]}x{size[1]}")

        await wait_for_text(pilot, "rowan-0.6b")
        await wait_for_widget(pilot, "ModelRow.-fits")
        await picture("home")

        app.open_chat(app.services.runtime.resolve("starter"), conversation)
        await wait_for_text(pilot, "7 %" if size[0] < 100 else "275 of")
        if size[0] >= 140:
            await wait_for_text(pilot, "1 chat")
        await picture("chat")
        await pilot.press("f1")
        await wait_for_screen(pilot, KeysScreen)
        await picture("help")
        await pilot.press("escape", "ctrl+l")
        await wait_for_screen(pilot, ChatsScreen)
        await wait_for_text(pilot, "KV cache works")
        await picture("chats")
        await pilot.press("escape", "ctrl+t")
        await wait_for_text(pilot, "temperature")
        await picture("chat-settings")
        await pilot.press("escape")
        app.push_screen(TokensScreen(conversation, conversation.path()[-1], "starter"))
        await wait_for_text(pilot, "perplexity")
        await picture("tokens")
        await pilot.press("escape")
        store = DuelStore(app_fixture.data_dir / "duels.json")
        app.push_screen(
            DuelScreen(["starter", "starter"], ChatSettings(), question="Why?", store=store)
        )
        await wait_for_text(pilot, "Why?")
        await picture("duel")
        await pilot.press("escape")

        await pilot.press("f7")
        await wait_for_text(pilot, "not serving")
        await picture("serve")
        await pilot.press("f9")
        await wait_for_text(pilot, "General")
        await picture("settings")
        if size[0] < 140:  # from there on it has the paths of files
            shutil.rmtree(paths.cache_dir())  # it has its size
            await pilot.press("p")
            await wait_for_text(pilot, "nothing was sent to")
            await picture("privacy")
