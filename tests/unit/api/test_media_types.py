"""What is taken for JSON."""

import pytest

from api.media_types import is_other_format


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json", "Application/JSON; charset=utf-8", "text/json", "text/x-json",
        "application/problem+json", "application/vnd.a.b+JSON ;v=1",
        # Said by libraries of any text.
        "application/octet-stream", "application/x-www-form-urlencoded; charset=UTF-8",
        "text/plain", "text/plain;charset=UTF-8", "*/*",
        # Names no format.
        "", " ", "json", "utf-8", "\xff", "/", "text/", "/xml", "text/xml/json", "text xml",
    ],
)  # fmt: skip
def test_json_and_what_says_nothing_is_taken(content_type: str):
    assert not is_other_format("POST", content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/xml", "TEXT/XML", " text/xml ; charset=utf-8", "multipart/form-data; boundary=x",
        "text/html", "application/x-ndjson", "application/jsonl", "application/msgpack",
        "application/json5", "text/xml;\n", "application/xml; type=application/json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_another_format_is_not(method: str, content_type: str):
    assert is_other_format(method, content_type)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_body_that_nobody_reads_may_be_anything(method: str):
    assert not is_other_format(method, "text/xml")
