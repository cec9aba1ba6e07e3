"""Images in chat requests: only those that are in the request."""

import base64

import pytest

from localllm.engine.messages import Image
from localllm.server.dialects.openai.request import ChatRequest
from localllm.server.errors import ApiError
from localllm.server.request_body import checked
from tests.engine.eyes import png

URL = "data:image/png;base64," + base64.b64encode(png(1)).decode()


def asked(*parts: dict[str, object], role: str = "user") -> ChatRequest:
    messages = [{"role": role, "content": list(parts)}]
    return checked(ChatRequest, {"model": "m", "messages": messages})


def picture(url: object, **fields: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def test_an_image_stands_between_the_texts_that_it_stands_between() -> None:
    request = asked(text("one"), text("two"), picture(URL), text("three"), picture(URL))
    (message,) = request.generate_request().messages or ()
    assert message.content == "one\ntwothree"
    assert message.images == (Image(data=png(1), offset=7), Image(data=png(1), offset=12))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "",
    ],
)
def test_nothing_is_fetched_for_a_client(url: str) -> None:
    with pytest.raises(ApiError, match="this server fetches nothing") as caught:
        asked(picture(url))
    assert caught.value.code == "unsupported_url"
    assert caught.value.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (picture("data:image/png;base64,not base64"), ".image_url.url"),
        (picture(7), ".image_url.url"),
        (picture(None), ".image_url.url"),
        (picture(URL, detail="low"), ".image_url.detail"),
        (picture(URL, cache=True), ".image_url.cache"),
        ({"type": "image_url", "image_url": URL}, ".image_url"),
        ({"type": "image_url"}, ".image_url"),
        ({"type": "image_url", "text": "x", "image_url": {"url": URL}}, ".text"),
        ({"type": "text", "text": "x", "image_url": {"url": URL}}, ".image_url"),
    ],
)
def test_a_part_that_is_not_whole_is_a_400_that_names_it(
    part: dict[str, object], field: str
) -> None:
    with pytest.raises(ApiError) as caught:
        asked(part)
    assert caught.value.status == 400
    assert caught.value.param == f"messages[0].content[0]{field}"


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_a_users_message_has_images(role: str) -> None:
    with pytest.raises(ApiError, match="belongs to a user's message"):
        asked(text("x"), picture(URL), role=role)
