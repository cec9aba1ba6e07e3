"""An answer in whole sentences, as a screen reader likes it."""

import io
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from localllm.cli.chat.sentences import SentenceWriter, spoken

ANSWER = """# Blue **skies**

The sky is blue, e.g. at noon. It is *not* at 3.14 p.m. or so! Why?
1. Air scatters. Blue `a**b` most.
---

| a | b |
| --- | --- |
```python
print("x. y")

    print(2)
```
Done"""
SPOKEN = [
    "m:", "Blue skies", "The sky is blue, e.g. at noon.", "It is *not* at 3.14 p.m. or so!", "Why?",
    "1. Air scatters.", "Blue `a**b` most.", "| a | b |", "Code, python:", 'print("x. y")',
    "    print(2)", "End of code.", "Done",
]  # fmt: skip


def written(pieces: list[str], clock: list[float] | None = None) -> list[str]:
    stream = io.StringIO()
    times = clock or [0.0]
    writer = SentenceWriter(stream, name="m", clock=lambda: times[0])
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    return stream.getvalue().splitlines()


def test_a_markdown_answer_is_spoken_without_its_marks() -> None:
    assert written([ANSWER]) == SPOKEN


@given(st.lists(st.integers(0, len(ANSWER)), max_size=30))
def test_it_does_not_matter_where_an_answer_is_cut_into_pieces(cuts: list[int]) -> None:
    ends = sorted({0, *cuts, len(ANSWER)})
    assert written([ANSWER[a:b] for a, b in pairwise(ends)]) == SPOKEN


@given(st.text(alphabet=st.sampled_from("a.! \n\x1b[3m#`*|-1😀。")))
def test_no_escape_and_no_letter_is_lost(text: str) -> None:
    lines = written(list(text))
    joined = "".join(lines[1:])
    assert "\x1b" not in joined
    plain = re.sub(r"\x1b(\[[0-9;]*m?)?", "", text)
    assert joined.count("😀") == plain.count("😀")


def test_silence_is_broken_in_the_middle_of_a_sentence_only_when_it_lasts() -> None:
    now_s = [0.0]
    stream = io.StringIO()
    writer = SentenceWriter(stream, name="m", clock=lambda: now_s[0])
    writer.write_progress(0, 5000)
    writer.write_reasoning("hm")
    writer.write_reasoning("hm")
    now_s[0] = 11
    writer.write_progress(2500, 5000)
    writer.write("A slow ")
    writer.write("mod")
    assert stream.getvalue().splitlines() == [
        "m is thinking.", "Reading: 50 percent of 5000 tokens."
    ]  # fmt: skip
    now_s[0] = 40
    writer.write("el")
    assert stream.getvalue().splitlines()[-3:] == ["It thought for 40.0 s.", "m:", "A slow"]


def test_code_marks_stay_in_code() -> None:
    assert spoken("## Use `**kwargs` and **that**") == "Use `**kwargs` and that"
