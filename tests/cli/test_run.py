"""`localllm run` as a user runs it: a process, the real starter model, a real terminal."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.core.forge import write
from tests.core.forge_recurrent import ENCODER
from tests.engine import tiny
from tests.engine.fake_vision import llava, packed_png, png

LOCALLLM = [sys.executable, "-m", "localllm"]
SILENCE_S = 60.0  # a hung program is a failure, not a hung suite
GREEDY = ["--temperature", "0", "--ctx", "512"]


def run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*LOCALLLM, "run", *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_an_answer_goes_to_stdout_and_the_talk_to_stderr() -> None:
    done = run("starter", "Name a colour.", *GREEDY, "--max-tokens", "8", "--stats")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert b"tok/s" in done.stderr
    assert b"estimated" in done.stderr
    assert b"cache and computing: estimated" in done.stderr
    assert b"tok/s" not in done.stdout


def test_a_model_that_cannot_think_ignores_the_switch_and_says_so_when_it_is_to() -> None:
    short = (*GREEDY, "--max-tokens", "3")
    off = run("starter", "Hello", *short, "--no-think", "--reasoning-budget", "0")
    on = run("starter", "Hello", *short, "--think", "--reasoning-effort", "low")
    assert (off.returncode, on.returncode) == (0, 0)
    assert off.stdout == on.stdout != b""
    assert b"knows no thinking" in on.stderr
    assert b"knows no thinking" not in off.stderr
    both = run("starter", "Hello", "--think", "--reasoning-effort", "none")
    assert both.returncode == 2
    assert b"--think cannot go with" in both.stderr


def test_the_prompt_may_come_from_stdin() -> None:
    argument = run("starter", "Name a colour.", *GREEDY, "--max-tokens", "8")
    piped = run("starter", *GREEDY, "--max-tokens", "8", stdin=b"Name a colour.")
    assert piped.stdout == argument.stdout != b""


@pytest.mark.smoke
def test_json_is_one_document_with_the_promised_keys() -> None:
    done = run("starter", "Hello", *GREEDY, "--max-tokens", "5", "--json", "--seed", "1")
    document = json.loads(done.stdout)
    keys = {"text", "reasoning", "finish_reason", "usage", "timings", "memory", "warnings"}
    assert document.keys() == keys
    assert document["warnings"] == []
    assert document["reasoning"] is None  # this model does not reason
    memory = document["memory"]
    assert memory["allocated_bytes"] > 2**20
    assert abs(memory["estimate_error_percent"]) < 1
    assert memory["probed_bytes"] is None  # there was room to spare
    assert document["usage"].keys() == {"prompt_tokens", "completion_tokens", "cached_tokens"}
    assert document["timings"].keys() == {
        "load_s",
        "ttft_s",
        "prefill_tps",
        "decode_tps",
        "drafted",
        "accepted",
        "cache",
    }
    assert document["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 5
    assert document["timings"]["decode_tps"] > 0


def test_the_memory_of_a_draft_model_is_estimated_and_read_back() -> None:
    done = run("starter", "Hello", *GREEDY, "--max-tokens", "2", "--stats", "--draft", "starter")
    sizes = re.search(
        rb"draft model: estimated ([0-9.]+) MiB, allocated ([0-9.]+) MiB", done.stderr
    )
    assert sizes is not None, done.stderr
    estimated, allocated = map(float, sizes.groups())
    assert estimated == pytest.approx(allocated, rel=0.005)
    assert allocated > 20


def test_a_system_message_and_a_stop_string_reach_the_model() -> None:
    plain = run("starter", "Who are you?", *GREEDY, "--max-tokens", "12").stdout
    pirate = run("starter", "Who are you?", *GREEDY, "--max-tokens", "12", "--system", "A pirate.")
    assert pirate.stdout != plain
    word = plain.decode().split()[2]
    cut = run("starter", "Who are you?", *GREEDY, "--max-tokens", "12", "--stop", word)
    assert word not in cut.stdout.decode()


def test_a_smaller_cache_is_loaded_and_what_it_costs_is_said() -> None:
    plain = run("starter", "Hello", *GREEDY, "--max-tokens", "2", "--json")
    small = run("starter", "Hello", *GREEDY, "--max-tokens", "2", "--json", "--kv-type", "q8_0")
    quiet = run("starter", "Hello", *GREEDY, "--max-tokens", "2", "--kv-type", "q8_0", "--quiet")
    assert b"KL divergence 0.00098 (Llama-3-8B)" in small.stderr
    assert b"can change answers" not in plain.stderr + quiet.stderr
    sizes = [json.loads(each.stdout)["memory"]["allocated_bytes"] for each in (plain, small)]
    assert sizes[1] < sizes[0]


def test_options_of_placement_are_taken() -> None:
    placed = ["--cpu-moe", "2", "--no-kv-offload", "--gpu-layers", "0"]
    assert run("starter", "Hello", *GREEDY, "--max-tokens", "2", *placed).returncode == 0


def test_a_model_that_only_embeds_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "embedder.gguf"
    write(ENCODER, path)
    done = run(str(path), "Hello")
    assert done.returncode == 2
    assert b"embedder (bert) is an embedding model" in done.stderr


def test_a_json_schema_shapes_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    properties = {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "maximum": 9}}
    required = {"required": list(properties), "additionalProperties": False}
    file.write_text(json.dumps({"type": "object", "properties": properties} | required))
    done = run("starter", "A fruit.", "--json-schema", str(file), "--ctx", "512", "--seed", "1")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["colour"] in ("red", "green")
    assert answer["count"] <= 9


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (None, 5, b"no file"),
        (b"{", 2, b"not valid JSON"),
        (b"\xff\xfe", 2, b"UTF-8"),
        (b"[" * 100_000, 2, b"not valid JSON"),
        (b"3", 2, b"object"),
    ],
)
def test_a_json_schema_that_is_none_is_told_in_one_message(
    tmp_path: Path, content: bytes | None, status: int, word: bytes
) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content)
    done = run("starter", "Hi", "--json-schema", str(file), "--ctx", "512")
    assert done.returncode == status, done.stderr
    assert word in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_what_a_grammar_cannot_enforce_is_checked_and_named(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"not": {"maxLength": 9}, "type": "string", "maxLength": 4}')
    done = run("starter", "Hi", "--json-schema", str(file), "--ctx", "512", "--max-tokens", "40")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) <= 4
    assert b"`not`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nonsense", "Hello"], 5, ["nonsense", "starter"]),
        (["starter", "  "], 2, ["empty"]),
        (["starter"], 2, ["empty"]),
        (["starter", "x", "--temperature", "99"], 2, ["--temperature"]),
        (["starter", "x", "--gpu-layers", "many"], 2, ["many", "auto"]),
        (["starter", "x", "--kv-type", "q9"], 2, ["--kv-type", "q8_0"]),
        (["starter", "x", "--cpu-moe", "-1"], 2, ["--cpu-moe"]),
        (["starter", "x", "--ctx", "16000000"], 3, ["needs", "free", "--ctx"]),
        (["starter", "word " * 700, "--ctx", "512"], 1, ["512", "Shorten"]),
        (["/no/such/file.gguf", "x"], 5, ["/no/such/file.gguf"]),
    ],
)
def test_bad_input_is_one_message_and_the_right_status(
    arguments: list[str], status: int, words: list[str]
) -> None:
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    message = done.stderr.decode()
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert done.stdout == b""


@pytest.mark.smoke
def test_a_file_that_is_no_gguf_is_refused_before_llama_cpp_sees_it(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(os.urandom(4096))
    done = run(str(bad), "x")
    assert done.returncode == 1
    assert b"GGUF" in done.stderr
    assert b"llama" not in done.stderr


def test_ctrl_c_stops_the_answer_and_keeps_what_has_come() -> None:
    command = [
        *LOCALLLM,
        "run",
        "starter",
        "Tell a very long story.",
        "--ctx",
        "4096",
        "--seed",
        "3",
    ]
    with started(command) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 100)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first + rest


def test_an_engine_that_dies_is_exit_status_4_with_its_signal() -> None:
    command = [
        *LOCALLLM,
        "run",
        "starter",
        "Tell a very long story.",
        "--ctx",
        "4096",
        "--seed",
        "3",
    ]
    with started(command) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 100)
        (engine,) = psutil.Process(process.pid).children()
        engine.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 4
    assert b"SIGKILL" in errors
    assert b"Traceback" not in errors


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [*LOCALLLM, "run", "starter", "Tell a long story.", "--ctx", "4096", "--seed", "3"]
    with started(command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 10)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 0
    assert errors == b""


def test_a_conversation_remembers_and_leaves_on_ctrl_d() -> None:
    with terminal([*LOCALLLM, "run", "starter", *GREEDY, "--max-tokens", "6", "--stats"]) as (
        process,
        screen,
    ):
        screen.until(b"You: ")
        screen.type(b"My name is Ada.\n")
        screen.until(b"decode")
        screen.until(b"You: ")
        screen.type(b"What is my name?\n")
        shown = screen.until(b"decode")
        assert b"(0 cached)" not in shown
        screen.until(b"You: ")
        screen.type(b"/new\n")
        screen.until(b"You: ")
        screen.type(b"\x04")
        assert process.wait(60) == 0


def test_ctrl_c_in_a_conversation_stops_the_answer_and_a_second_one_leaves() -> None:
    with terminal([*LOCALLLM, "run", "starter", "--ctx", "4096", "--seed", "3"]) as (
        process,
        screen,
    ):
        screen.until(b"You: ")
        screen.type(b"Tell a very long story about a dragon.\n")
        screen.until(b" the ")
        screen.type(b"\x03")
        screen.until(b"\nYou: ")
        assert press_until_exit(screen, process, b"\x03") == 0


def press_until_exit(screen: "Screen", process: subprocess.Popen[bytes], key: bytes) -> int:
    """Press again as a person would: a Ctrl+C that comes between the moment when input() has
    shown its prompt and the moment when it waits is not noticed by CPython until the next key."""
    for _ in range(20):
        screen.type(key)
        try:
            return process.wait(SILENCE_S / 20)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("still there after 20 keys")


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def terminal(
    command: list[str], **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], "Screen"]]:
    """The command on a terminal of its own; what it draws is read from the descriptor."""
    screen, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, pty; os.setsid(); {_CONTROLLING}", *command],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=os.environ | {"TERM": "dumb"} | variables,
    )
    os.close(inside)
    try:
        yield process, Screen(screen)
    finally:
        process.kill()
        process.wait()
        os.close(screen)


_CONTROLLING = (
    "import fcntl, termios, sys; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Make the terminal the controlling one, so that Ctrl+C written to it becomes a signal."""


class Screen:
    """The terminal of a program, read piece by piece."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ahead = b""

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def until(self, expected: bytes) -> bytes:
        """Everything that is drawn up to and with `expected`."""
        while expected not in self._ahead:
            ready, _, _ = select.select([self._descriptor], [], [], SILENCE_S)
            assert ready, f"silence before {expected!r}: {self._ahead.decode(errors='replace')}"
            try:
                piece = os.read(self._descriptor, 4096)
            except OSError:
                piece = b""
            assert piece, f"the end before {expected!r}: {self._ahead.decode(errors='replace')}"
            self._ahead += piece
        shown, _, self._ahead = self._ahead.partition(expected)
        return shown + expected


def test_a_picture_is_part_of_the_question(tmp_path: Path, smollm2: Path) -> None:
    model = tmp_path / "model.gguf"
    model.symlink_to(smollm2)
    llava(tmp_path / "mmproj-model.gguf", embedding=576)
    arguments = ["Describe this.", *GREEDY, "--max-tokens", "8"]
    runs = []
    for seed in (1, 2):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
        runs.append(
            run(str(model), "--image", str(tmp_path / f"{seed}.png"), *arguments, "--stats")
        )
    assert [done.returncode for done in runs] == [0, 0], runs
    assert runs[0].stdout != runs[1].stdout
    assert b"image encoder: estimated" in runs[0].stderr


@pytest.mark.parametrize(
    ("image", "status", "message"),
    [
        (None, 5, b"There is no file"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", 2, b"WebP"),
        (packed_png(60_000, 60_000, b""), 2, b"60000 x 60000 pixels"),
        (png(1), 2, b"has no image encoder here"),
    ],
)
def test_a_picture_that_cannot_be_shown_is_refused_before_a_load(
    image: bytes | None, status: int, message: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "picture"
    if image is not None:
        file.write_bytes(image)
    done = run("starter", "Describe this.", "--image", str(file))
    assert done.returncode == status
    assert message in done.stderr
    assert b"localllm: " in done.stderr
    assert b"Traceback" not in done.stderr


def forged(path: Path, template: str | None) -> Path:
    if template is None:
        return tiny.plain(path)
    return tiny.plain(path, edit=lambda w: w.add_string("tokenizer.chat_template", template))


def test_a_template_that_is_missing_or_broken_is_named_before_the_answer(tmp_path: Path) -> None:
    missing = run(str(forged(tmp_path / "a.gguf", None)), "Hello", "--max-tokens", "2")
    assert missing.returncode == 0, missing.stderr
    assert b"has no chat template" in missing.stderr
    assert b"--chat-template FILE" in missing.stderr
    broken = run(str(forged(tmp_path / "b.gguf", "{{ messages")), "Hello", "--max-tokens", "2")
    assert broken.returncode == 0, broken.stderr
    assert b"The chat template is not usable: line 1:" in broken.stderr


def test_a_template_of_ones_own_is_used_and_a_broken_one_is_a_usage_error(tmp_path: Path) -> None:
    model = str(forged(tmp_path / "a.gguf", None))
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    given = ["--max-tokens", "2", "--chat-template", str(own)]
    done = run(model, "Hello", *given)
    assert done.returncode == 0, done.stderr
    assert b"chat template" not in done.stderr
    own.write_text("{% for m in messages %}\n{{ m.content }")
    refused = run(model, "Hello", *given)
    assert refused.returncode == 2
    assert b"own.jinja" in refused.stderr
    assert b"line 2" in refused.stderr
    assert run(model, "Hello", "--chat-template", str(tmp_path / "none")).returncode == 5


def test_threads_and_reading_without_mmap_are_taken() -> None:
    options = ["--threads", "1", "--no-mmap", "--max-tokens", "2"]
    done = run("starter", "Hello", *GREEDY, *options)
    assert done.returncode == 0, done.stderr
    assert run("starter", "Hello", "--threads", "0").returncode == 2
