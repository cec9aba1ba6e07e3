"""The chat page in Chromium: what a person does with it."""

import asyncio
import base64
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from localllm.engine.messages import Role, ToolCall
from localllm.errors import ContextOverflow
from tests.server.page import sample
from tests.server.page.conftest import Browser, PageServer
from tests.server.server_under_test import KEY, MODEL

ANSWER = ".answer:last-child > .text"
QUESTIONS = ".question .text"


def roles(server: PageServer) -> list[tuple[Role, str]]:
    """The messages of the last request."""
    return [(each.role, each.content) for each in server.script.requests[-1].messages or ()]


def test_a_question_is_answered_and_measured(browser: Browser, page_server: PageServer) -> None:
    browser.ask("Say hello")
    assert browser.text(ANSWER) == "Hello, world."
    meter = browser.text("#meter")
    assert "40.0 tokens/s · first token after 0.25 s · context 4 of " in meter
    assert browser.text("#status").startswith("The answer is complete. Hello")
    assert browser.js("return location.hash") == ""
    assert roles(page_server) == [(Role.USER, "Say hello")]


def test_markdown_becomes_elements_while_it_comes(
    browser: Browser, page_server: PageServer
) -> None:
    gate = asyncio.Semaphore(0)
    head, middle, end = sample.MARKDOWN.partition("def add(a, b):\n")
    page_server.play(head, middle, end, gate=gate)
    browser.type("Format", Keys.ENTER)
    page_server.release(gate)
    browser.wait("document.querySelector('.answer figure.code')")
    assert browser.one(".answer").get_attribute("aria-busy") == "true"
    page_server.release(gate, 9)
    browser.wait_idle()
    streamed = browser.one(ANSWER).get_attribute("innerHTML")
    assert [len(browser.all(f"{ANSWER} {tag}")) for tag in ("h3", "ol", "pre", "table", "hr")] == [
        1, 1, 2, 1, 1,
    ]  # fmt: skip
    assert browser.text(f"{ANSWER} pre") == "def add(a, b):\n    return a + b"
    link = browser.one(f"{ANSWER} a")
    assert link.text == "a link https://example.com/path"
    assert link.get_attribute("rel") == "noopener noreferrer"
    # However it is cut, the text becomes the same elements.
    for size in (1, 7, 64):
        page_server.play(*_cut(sample.MARKDOWN, size))
        browser.ask("Again")
        assert browser.one(ANSWER).get_attribute("innerHTML") == streamed


def _cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def test_hostile_text_runs_nothing_and_asks_for_nothing(
    browser: Browser, page_server: PageServer
) -> None:
    page_server.play(
        *_cut(sample.HOSTILE, 13),
        reasoning=("<img src=x onerror=window.broken=20>",),
        warnings=("<img src=x onerror=window.broken=21>",),
        calls=(ToolCall(id="c", name="<b>x", arguments="<img src=x onerror=1>"),),
    )
    browser.ask("<img src=x onerror=window.broken=22>")
    assert browser.js("return window.broken ?? null") is None
    tags = "script, style, img, svg, iframe, base, object, form, [onerror], [onload], [onclick]"
    assert browser.all(f"#turns :is({tags})") == []
    addresses = browser.js(
        "return [...document.querySelectorAll('#turns a')].map((a) => [a.href, a.textContent])"
    )
    assert addresses
    assert all(href.startswith("https://evil.example/") for href, _ in addresses)
    assert all(href in text for href, text in addresses)  # whoever clicks has seen where it leads
    shown = browser.js("return document.querySelector('.answer > .text').textContent")
    assert "javascript:window.broken=4" in shown  # as text
    assert "bank.example@" in shown
    for raw in ("\x1b", "\u202e", "\u2066", "\x00", "\x9b", "\U000e0041"):
        assert raw not in shown
    for seen in ("␛[31mred", "⟦U+202E⟧", "⟦U+2066⟧", "⟦U+E0041⟧", "␀"):
        assert seen in shown
    assert browser.console() == []
    assert all(each.url.startswith(page_server.url) for each in browser.requests())


def test_the_policy_holds_where_the_renderer_is_not_asked(browser: Browser) -> None:
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        browser.js("document.body.innerHTML = '<img src=x>'")
    browser.js(
        "const image = new Image(); image.src = 'https://evil.example/x.png';"
        "image.onerror = () => { window.failed = true; }"
    )
    browser.wait("window.failed")
    refused = browser.console()
    assert any("TrustedHTML" in message for message in refused)
    assert any("img-src" in message for message in refused)
    wanted = [each for each in browser.requests() if "evil.example" in each.url]
    assert wanted
    assert all(each.stopped for each in wanted)


def test_no_shape_of_text_keeps_the_page_from_answering(
    browser: Browser, page_server: PageServer
) -> None:
    for text in sample.MANY:
        page_server.play(*_cut(text, 50_000))
        browser.ask("More")
        assert browser.js("return document.querySelector('.answer:last-child > .text').textContent")
        browser.type(Keys.CONTROL, "k", Keys.NULL)
        browser.wait("!document.querySelector('article')")
    assert browser.js("return document.documentElement.scrollWidth <= innerWidth")


def test_an_edited_question_keeps_what_followed(browser: Browser, page_server: PageServer) -> None:
    browser.ask("First")
    page_server.play("Second answer.")
    browser.ask("Second")
    browser.all(".question .bar button")[0].click()
    assert browser.one("#question").get_attribute("value") == "First"
    page_server.play("Another answer.")
    browser.ask(" edited")
    assert [each.text for each in browser.all(QUESTIONS)] == ["First edited"]
    assert roles(page_server) == [(Role.USER, "First edited")]
    assert "2 of 2" in browser.text(".question .bar")
    browser.one(".question .bar [aria-label='Earlier question']").click()
    assert [each.text for each in browser.all(QUESTIONS)] == ["First", "Second"]
    # Another answer to the last question; the one before stays a version.
    page_server.play("Third answer.")
    browser.all(".answer .bar button")[-1].click()
    browser.wait_idle()
    assert browser.text(ANSWER) == "Third answer."
    assert [text for _, text in roles(page_server)] == ["First", "Hello, world.", "Second"]
    browser.one(".answer:last-child [aria-label='Earlier answer']").click()
    assert browser.text(ANSWER) == "Second answer."


def test_the_keyboard_does_everything(browser: Browser, page_server: PageServer) -> None:
    gate = asyncio.Semaphore(0)
    page_server.play("One", " two", gate=gate)
    browser.type("a", Keys.SHIFT, Keys.ENTER, Keys.NULL, "b", Keys.ENTER)
    page_server.release(gate)
    browser.wait("document.querySelector('.answer > .text').textContent.includes('One')")
    assert browser.one("#send").is_displayed() is False
    ActionChains(browser.driver).send_keys(Keys.ESCAPE).perform()
    browser.wait_idle()
    assert browser.text(".answer .notes") == "Stopped."
    assert roles(page_server) == [(Role.USER, "a\nb")]
    browser.type(Keys.ARROW_UP)
    assert browser.one("#question").get_attribute("value") == "a\nb"
    browser.type(Keys.ESCAPE)
    assert browser.one("#question").get_attribute("value") == ""
    browser.type(Keys.CONTROL, "k", Keys.NULL)
    assert browser.all("article") == []
    browser.one("#notice button").click()
    assert len(browser.all("article")) == 2
    # Every control is reached with Tab, and has a name.
    nameless = browser.js(
        "return [...document.querySelectorAll('button, select, input, textarea')].filter((e) =>"
        " !e.textContent.trim() && !e.labels?.length && !e.ariaLabel && !e.hidden).map((e) => e.id)"
    )
    assert nameless == []


def test_settings_reach_the_request_and_only_settings_are_kept(
    browser: Browser, page_server: PageServer
) -> None:
    browser.click("#open-settings")
    browser.one("#system").send_keys("Be brief.")
    browser.one("#temperature").send_keys("0.5")
    browser.one("#max-tokens").send_keys("1")
    browser.one("#theme").send_keys("Dark")
    browser.click("#close-settings")
    browser.wait("!document.querySelector('dialog[open]')")
    browser.ask("A secret question")
    request = page_server.script.requests[-1]
    assert roles(page_server)[0] == (Role.SYSTEM, "Be brief.")
    assert (request.sampling.temperature, request.max_tokens) == (0.5, 1)
    assert "limit of tokens" in browser.text(".answer .notes")
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 28)"
    stored = browser.js("return JSON.stringify({...localStorage})")
    assert json.loads(json.loads(stored)["localllm-settings"]) == {
        "model": MODEL, "temperature": "0.5", "maxTokens": "1", "theme": "dark",
    }  # fmt: skip
    session = browser.js("return JSON.stringify({...sessionStorage})")
    assert KEY not in session
    assert "secret" not in stored + session
    browser.js("localStorage.clear()")


def test_errors_say_what_to_try(browser: Browser, page_server: PageServer) -> None:
    page_server.play(generate_error=ContextOverflow("The prompt is too long."))
    browser.ask("Too long")
    error = browser.one(".answer .error")
    assert "Begin a new chat" in error.text
    assert error.get_attribute("role") == "alert"
    expected = "status of 400"
    assert all(expected in message for message in browser.console())


def test_images_are_made_small_and_sent_where_the_model_sees(
    browser: Browser, page_server: PageServer, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(_png(3000, 1500))
    browser.one("#files").send_keys(str(file))
    browser.wait("document.querySelector('#attached img')")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    browser.one("#files").send_keys(str(bad))
    browser.wait("document.querySelector('#notice').textContent.includes('no image')")
    browser.ask("What is it?")
    (message,) = page_server.script.requests[-1].messages or ()
    (image,) = message.images
    assert image.data.startswith(b"\xff\xd8")  # a JPEG
    assert len(image.data) < 200_000
    assert browser.js("return document.querySelector('.question img').naturalWidth") == 1280


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    rows = (b"\0" + b"\xff\x80\x00" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_link_works_once_and_without_one_the_page_asks_for_the_key(
    browser: Browser, page_server: PageServer
) -> None:
    key = browser.js("return sessionStorage.getItem('localllm-session')")
    browser.driver.refresh()  # the key of the link is still there
    browser.wait("document.querySelector('#model').value")
    browser.js("sessionStorage.clear()")
    browser.open(f"{page_server.url}/#t={key}")  # a key is no token
    browser.wait("!document.querySelector('#entry').hidden")
    assert "used before" in browser.text("#entry-reason")
    browser.one("#key").send_keys("wrong", Keys.ENTER)
    browser.wait("document.querySelector('#entry-reason').textContent.includes('not valid')")
    browser.one("#key").send_keys(KEY, Keys.ENTER)
    browser.wait("document.querySelector('#entry').hidden")
    browser.ask("Hello")
    assert browser.text(ANSWER) == "Hello, world."
    assert browser.js("return sessionStorage.length") == 0
    assert all("status of 40" in message for message in browser.console())


SIZES = ((360, 640), (1280, 800), (3840, 2160))


def test_it_fits_every_window(browser: Browser, page_server: PageServer, tmp_path: Path) -> None:
    page_server.play(sample.MARKDOWN, reasoning=("I think.",), warnings=("A warning.",))
    browser.ask("Show me everything that you can format, please, in one answer")
    command = browser.driver.execute_cdp_cmd
    for theme in ("light", "dark"):
        browser.js("document.documentElement.dataset.theme = arguments[0]", theme)
        for width, height in SIZES:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            command("Emulation.setDeviceMetricsOverride", size)
            fits = "document.documentElement.scrollWidth <= innerWidth"
            browser.wait(f"innerWidth === {width} && {fits}")
            picture = command("Page.captureScreenshot", {})["data"]
            (tmp_path / f"{theme}-{width}.png").write_bytes(base64.b64decode(picture))
    # The longest line of plain text, in characters of its own font.
    letters = browser.js(
        "const p = document.querySelector('.answer > .text');"
        "const s = document.createElement('span');"
        "s.textContent = 'average text of a page '.repeat(4);"
        "p.append(s); s.style.whiteSpace = 'nowrap';"
        "const n = p.clientWidth / (s.getBoundingClientRect().width / s.textContent.length);"
        "s.remove(); return n"
    )
    assert 60 < letters <= 88.5
    command("Emulation.clearDeviceMetricsOverride", {})


def test_events_are_read_however_they_are_cut(browser: Browser) -> None:
    head = ": loading tiny: 40 %\r\n\r\n"
    stream = head + 'data: {"a":1}\r\n\ndata:x\ndata: y\n\nid: 7\n:\n\ndata: end\n\n'
    whole = [
        {"comment": "loading tiny: 40 %"}, {"data": '{"a":1}'}, {"data": "x\ny"}, {"comment": ""},
        {"data": "end"},
    ]  # fmt: skip
    read = (
        "const [stream, size] = arguments, parser = new EventStreamParser(), found = [];"
        "for (let i = 0; i < stream.length; i += size)"
        "  found.push(...parser.feed(stream.slice(i, i + size)));"
        "return found"
    )
    for size in (1, 2, 3, 5, 1000):
        assert browser.js(read, stream, size) == whole


def test_serve_open_leads_to_an_answer_of_a_real_model(chromium: Browser, home: Path) -> None:
    hidden = {"DISPLAY", "WAYLAND_DISPLAY"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = (sys.executable, "-m", "localllm", "serve", "starter", "--ctx", "1024", "--open")
    with subprocess.Popen(
        (*command, "--port", "0", "--quiet"), stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        try:
            link = next(line.strip() for line in process.stderr if "#t=" in line)
            chromium.open(link)
            chromium.wait("document.querySelector('#model').value === 'starter'")
            chromium.click("#open-settings")
            chromium.one("#temperature").send_keys("0")
            chromium.one("#max-tokens").send_keys("16")
            chromium.click("#close-settings")
            chromium.wait("!document.querySelector('dialog[open]')")
            chromium.ask("What is the capital of France?")
            assert len(chromium.text(ANSWER)) > 10
            assert chromium.all(".error") == []
            assert " of 1,024 tokens" in chromium.text("#meter")
        finally:
            process.terminate()
