"""Every status and header of a range request is classified; nothing odd is taken for the file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.library.download.http_response import (
    Content,
    FileChanged,
    RangeResponse,
    Redirect,
    Rejected,
    Retryable,
    Unauthorized,
    classify_response,
    same_etag,
    usable_in_if_range,
)


def response(
    status: int, start: int = 0, etag: str | None = '"a"', **headers: str
) -> RangeResponse:
    """Classify a response about a file of 100 bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return classify_response(status, named, start=start, size=100, etag=etag)


def test_the_requested_range_is_taken() -> None:
    assert _with_etag('"a"') == Content(start=10, end=100, etag='"a"', whole_file=False)


@pytest.mark.parametrize(
    "content_range",
    ["", "bytes 0-99/100", "bytes 10-100/100", "bytes 10-9/100", "bytes 10-99/101", "bytes */100",
     "bytes 10-99", "items 10-99/100", "bytes 10-99/1" + "0" * 30, "bytes \uff11\uff10-99/100"],
)  # fmt: skip
def test_another_range_is_not_taken(content_range: str) -> None:
    assert isinstance(response(206, 10, content_range=content_range), Retryable)


def test_the_whole_file_is_taken_when_its_length_is_right_or_missing() -> None:
    assert response(200, 10, content_length="100") == Content(
        start=0, end=100, etag=None, whole_file=True
    )
    assert isinstance(response(200), Content)
    assert isinstance(response(200, content_length="99"), Retryable)
    assert isinstance(response(200, content_length="-1"), Retryable)


def test_a_web_page_is_never_taken() -> None:
    assert isinstance(response(200, content_type="text/html; charset=utf-8"), Rejected)
    assert isinstance(response(200, content_type="Text/HTML", content_length="812"), Rejected)


def test_an_encoded_body_is_never_taken() -> None:
    for status in (200, 206):
        assert isinstance(response(status, content_encoding="gzip"), Retryable)


def test_another_etag_is_a_change_and_a_weaker_one_is_not() -> None:
    assert isinstance(_with_etag('"b"'), FileChanged)
    assert isinstance(_with_etag('W/"a"'), Content)
    assert same_etag('W/"a"', '"a"')
    assert not same_etag('"a"', '"b"')
    assert usable_in_if_range('"a"')
    assert not usable_in_if_range('W/"a"')
    assert not usable_in_if_range(None)


def _with_etag(etag: str) -> RangeResponse:
    headers = {"content-range": "bytes 10-99/100", "etag": etag}
    return classify_response(206, headers, start=10, size=100, etag='"a"')


def test_other_statuses_are_classified() -> None:
    assert response(302, location="https://cdn") == Redirect(location="https://cdn")
    assert isinstance(response(302), Retryable)
    assert isinstance(response(416), FileChanged)
    assert response(401, x_error_code="GatedRepo") == Unauthorized(status=401, code="GatedRepo")
    assert isinstance(response(451), Rejected)
    for status in (408, 425, 429, 500, 502, 503, 504, 599):
        assert isinstance(response(status), Retryable)


@given(
    st.integers(100, 999),
    st.dictionaries(
        st.sampled_from(
            ["content-length", "content-range", "content-type", "etag", "location",
             "content-encoding", "x-error-code"]
        ),
        st.text(max_size=40),
    ),
)  # fmt: skip
def test_no_response_is_too_strange(status: int, headers: dict[str, str]) -> None:
    meaning = classify_response(status, headers, start=10, size=100, etag='"a"')
    if isinstance(meaning, Content):
        assert 0 <= meaning.start <= 10 < meaning.end <= 100
