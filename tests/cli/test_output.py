"""Messages on stderr: one line each, safe with text of others, never mixed with data."""

import pytest

from localllm.cli import output

HOSTILE = "a\x1b]0;owned\x07b\nc [/INST] [bold]"


def test_messages_go_to_stderr_on_one_line_without_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.info(HOSTILE, bold=True, fg="yellow")
    output.warn(HOSTILE)
    output.info()
    written = capsys.readouterr()
    line = "ab c [/INST] [bold]"
    assert written.out == ""
    assert written.err == f"{line}\nWarning: {line}\n\n"


def test_an_error_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.error("first \x1b[31mline\nsecond")
    assert capsys.readouterr().err == "localllm: first line\nsecond\n"


def test_a_line_of_data_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line("  " + "word " * 100, dim=True)
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out.count("\n") == 1
    assert written.out.startswith("  word")


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_is_coloured_unless_it_says_no(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    output.warn("careful")
    output.info("wrapped at its width " * 20, wrap=True)
    written = capsys.readouterr().err
    assert ("\x1b[" in written) is not no_color
    assert max(map(len, written.splitlines()[1:])) <= 80


def test_a_document_may_be_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": [1, None]}, indent=None)
    assert capsys.readouterr().out == '{"a": [1, null]}\n'
