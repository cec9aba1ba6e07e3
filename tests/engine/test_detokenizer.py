from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = IncrementalDetokenizer(stop)
    out = [stream.push(piece) for piece in pieces]
    return [*out, stream.finish()], stream.stopped


@given(st.text(), st.lists(st.integers(0, 400)))
def test_text_cut_anywhere_comes_out_whole(text: str, cuts: list[int]) -> None:
    raw = text.encode("utf-8", "replace")
    borders = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(borders)]
    out, stopped = run(pieces)
    assert "".join(out) == raw.decode("utf-8")
    assert not stopped


@given(
    st.text(alphabet="ab<>", max_size=60),
    st.lists(st.text(alphabet="ab<>", min_size=1, max_size=4), max_size=3),
)
def test_nothing_of_a_stop_string_and_nothing_after_it_comes_out(
    text: str, stop: list[str]
) -> None:
    stream = IncrementalDetokenizer(tuple(stop))
    out = [stream.push(character.encode()) for character in text]
    out.append(stream.finish())
    expected = text
    for end in range(len(text) + 1):  # the first stop string to be complete decides
        starts = [text[:end].find(one) for one in stop if one in text[:end]]
        if starts:
            expected = text[: min(starts)]
            break
    assert stream.stopped == any(one in text for one in stop)
    if stream.stop is not None:
        assert stream.stop in stop
        assert text.startswith(stream.stop, len(expected))
    assert "".join(out) == expected


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    euro = "€".encode()
    out, _ = run([b"5 ", euro[:1], euro[1:2], euro[2:]])
    assert out == ["5 ", "", "", "€", ""]


def test_bytes_that_never_become_a_character_come_out_as_replacement() -> None:
    out, _ = run([b"a\xff", b"b", b"\xe2\x82"])
    assert "".join(out) == "a\ufffdb\ufffd"


def test_a_beginning_of_a_stop_string_that_goes_on_otherwise_is_released() -> None:
    out, stopped = run([b"<e", b"nd", b"less>"], ("<end>",))
    assert "".join(out) == "<endless>"
    assert not stopped


def test_an_unfinished_stop_string_at_the_end_is_ordinary_text() -> None:
    out, stopped = run([b"say <en"], ("<end>",))
    assert "".join(out) == "say <en"
    assert not stopped
