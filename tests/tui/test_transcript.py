"""The transcript: any text at any size, and draws that cost the same at turn 1 and at turn 200."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult

from localllm.chat.conversation import AnswerStats, ChatMessage, Conversation, Ending
from localllm.engine.messages import PromptProgress, Role, ToolCall
from localllm.tui.widgets.transcript.entry import MessageEntry
from localllm.tui.widgets.transcript.lines import found_lines
from localllm.tui.widgets.transcript.live import LiveAnswer, progress_line
from localllm.tui.widgets.transcript.look import Look
from localllm.tui.widgets.transcript.transcript import Transcript
from tests.tui.test_markdown import PIECES

LOOK = Look()
MARKDOWN = "Some **words**:\n\n- one\n- two\n\n```py\nx = 1\n```\n\n" + "and a long line " * 20


class TranscriptApp(App[None]):
    """A transcript alone."""

    CSS = "Transcript { height: 1fr; overflow-x: hidden; overflow-y: scroll; }"

    def compose(self) -> ComposeResult:
        yield Transcript()

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)


def turns(count: int) -> Conversation:
    conversation = Conversation()
    for number in range(count):
        for role, text in ((Role.USER, f"question {number}"), (Role.ASSISTANT, MARKDOWN)):
            message = ChatMessage(role=role, text=text)
            conversation = conversation.with_message(message, after=conversation.leaf)
    return conversation


def shown(message: ChatMessage, width: int = 60, **flags: bool) -> list[str]:
    entry = MessageEntry(message, version=(2, 3))
    for name, value in flags.items():
        setattr(entry, name, value)
    return [strip.text.rstrip() for strip in entry.strips(width, LOOK)]


async def stream(app: TranscriptApp, text: str) -> LiveAnswer:
    live = app.transcript.begin_answer()
    for letter in text:
        live.write(letter)
        app.transcript.draw()
    return live


async def test_turn_200_is_as_cheap_to_draw_as_turn_1() -> None:
    costs = []
    for count in (1, 200):
        app = TranscriptApp()
        async with app.run_test(size=(80, 24)) as pilot:
            app.transcript.show(turns(count))
            await pilot.pause()
            old = [(each, each.strips(80, app.transcript.look)) for each in app.transcript.entries]
            live = await stream(app, "word " * 40)
            await pilot.pause()
            costs.append((live.laid_out_blocks, live._markdown.parsed_chars))
            for entry, strips in old:  # the old turns are lines already
                assert entry.strips(80, app.transcript.look) is strips
            assert app.transcript.max_scroll_y == max(0, app.transcript.virtual_size.height - 24)
            assert app.transcript.scroll_y == app.transcript.max_scroll_y
    assert costs[0] == costs[1]


async def test_the_first_answer_stands_where_it_is_drawn() -> None:
    """The question above it has another height than was guessed before it was seen."""
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        question = ChatMessage(role=Role.USER, text="hi")
        app.transcript.show(Conversation().with_message(question, after=None))
        live = app.transcript.begin_answer()
        await pilot.pause()
        live.write("word")
        app.transcript.draw()
        assert live.top == app.transcript.entries[0].height


async def test_closed_blocks_of_an_answer_are_laid_out_once() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        live = await stream(app, "para\n\n" * 50)
        await pilot.pause()
        assert live.laid_out_blocks < 50 + 2 * 6 * 50
        assert len(live.strips(80, app.transcript.look)) == 2 * 50
        closed = live.laid_out_blocks
        app.transcript.draw()
        assert live.laid_out_blocks <= closed + 2


@given(pieces=st.lists(PIECES, max_size=30), sizes=st.lists(st.integers(1, 130), max_size=3))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_no_text_and_no_size_brings_it_down(pieces: list[str], sizes: list[int]) -> None:
    app = TranscriptApp()
    async with app.run_test(size=(100, 12)) as pilot:
        app.transcript.show(turns(2))
        live = app.transcript.begin_answer()
        live.write_reasoning("".join(pieces))
        for piece in pieces:
            live.write(piece)
            app.transcript.draw()
        for width in sizes:
            await pilot.resize_terminal(width, 1 + width // 3)
        app.transcript.end_answer()
        text = "".join(pieces)
        question = ChatMessage(role=Role.USER, text=text)
        conversation = Conversation().with_message(question, after=None)
        answer = ChatMessage(role=Role.ASSISTANT, text=text, reasoning=text)
        app.transcript.show(conversation.with_message(answer, after=conversation.leaf))
        for width in reversed(sizes):
            await pilot.resize_terminal(width, 20)
        app.transcript.find(text[:5])
        await pilot.pause()
        assert app.is_running


async def test_what_is_read_stays_where_it_is_when_the_width_changes() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(90, 20)) as pilot:
        app.transcript.show(turns(30))
        await pilot.pause()
        app.transcript.scroll_to(y=app.transcript.entries[20].top, animate=False)
        await pilot.resize_terminal(40, 20)
        await pilot.pause()
        assert app.transcript.entry_at(app.transcript.scroll_offset.y) == 20
        app.transcript.go_to_end()
        await pilot.resize_terminal(70, 20)
        await pilot.pause()
        assert app.transcript.at_end
        assert app.transcript.scroll_y == app.transcript.max_scroll_y


def test_text_is_never_wider_than_can_be_read() -> None:
    message = ChatMessage(role=Role.ASSISTANT, text="word " * 100)
    assert max(map(len, shown(message, 200))) <= 90
    assert all(
        strip.cell_length == 200 for strip in MessageEntry(message).strips(200, LOOK)
    )  # the background reaches the edge


def test_a_question_has_its_version_and_a_long_one_is_folded() -> None:
    first, *_rest = shown(ChatMessage(role=Role.USER, text="why?"))
    assert first.startswith("  \u203a why?")
    assert first.endswith("\u20392/3\u203a")
    long = ChatMessage(role=Role.USER, text="line\n" * 500)
    assert len(shown(long)) < 40
    assert any("more lines" in line for line in shown(long))
    assert len(shown(long, unfolded=True)) > 500
    assert len(shown(ChatMessage(role=Role.USER, text="x" * 1_000_000))) < 200


def test_an_answer_tells_its_reasoning_its_calls_its_end_and_its_numbers() -> None:
    answer = ChatMessage(
        role=Role.ASSISTANT,
        text="Yes.",
        reasoning="because",
        tool_calls=(ToolCall(id="1", name="clock", arguments='{"zone": "UTC"}'),),
        ending=Ending.CUT,
        stats=AnswerStats(
            completion_tokens=188, ttft_s=0.9, decode_tps=6.3, reasoning_s=4.0, reasoning_tokens=12
        ),
    )
    lines = shown(answer)
    assert lines[0] == "  ▸ thought for 4.0 s, 12 tokens"
    assert '→ clock({"zone": "UTC"})' in "\n".join(lines)
    assert "no more room" in "\n".join(lines)
    assert lines[-2].endswith("6.3 tok/s · first 900 ms · 188 tokens · \u20392/3\u203a")
    assert "    because" in shown(answer, unfolded=True)
    broken = replace(answer, ending=Ending.BROKEN, remark="it broke", stats=None)
    assert "it broke" in "\n".join(shown(broken))


def test_reading_a_prompt_has_a_bar_and_the_time_left() -> None:
    progress = PromptProgress(request_id="1", processed=1204, total=2723, elapsed_s=7.0)
    line = progress_line(progress, 76, LOOK).text
    assert line.startswith("reading 1,204 of 2,723 · 9 s left  ▓▓")
    assert line.endswith("░")
    early = replace(progress, processed=0, elapsed_s=0.0)
    assert progress_line(early, 76, LOOK).text == "reading 2,723 tokens…"


def test_a_text_is_found_across_the_end_of_a_line() -> None:
    assert found_lines(["one two", "  three  two ", "three"], "two three") == [0, 1]
    assert found_lines(["aaa"], "aa") == [0]
