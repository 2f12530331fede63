from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.times import TIME_MS_MAX, parse_rfc3339, rfc3339


@given(st.integers(0, TIME_MS_MAX))
def test_times_are_rfc_3339_in_utc_and_exact(time_ms: int):
    text = rfc3339(time_ms)
    assert text.endswith("Z")
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo == UTC
    delta = parsed - datetime(1970, 1, 1, tzinfo=UTC)
    assert delta.days * 86_400_000 + delta.seconds * 1000 + delta.microseconds // 1000 == time_ms


@given(st.integers(0, TIME_MS_MAX))
def test_a_time_that_was_shown_reads_back_equal(time_ms: int):
    assert parse_rfc3339(rfc3339(time_ms)) == time_ms


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_766_745_000_000, "2025-12-26T10:30:00Z"),
        (1_766_745_000_250, "2025-12-26T10:30:00.250Z"),
        (TIME_MS_MAX, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_read_as_in_the_contract(time_ms: int, text: str):
    assert rfc3339(time_ms) == text


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1970-01-01T00:00:00.5Z", 500),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00.123456789Z", 123),
        ("1970-01-01T00:00:00+00:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T01:30:00.25+01:30", 250),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
    ],
)
def test_times_of_clients(text: str, time_ms: int):
    assert parse_rfc3339(text) == time_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "0",
        "1766745000",
        "2025-12-26",
        "2025-12-26T10:30Z",
        "2025-12-26T10:30:00",
        "2025-12-26 10:30:00Z",
        "2025-12-26T10:30:00.Z",
        "2025-12-26T10:30:00,5Z",
        "2025-12-26T10:30:00.1234567890Z",
        "2025-12-26T10:30:00+01",
        "2025-12-26T10:30:00+0100",
        "2025-12-26T10:30:00+24:00",
        "2025-12-26T10:30:00Z ",
        "2025-12-26T10:30:00Z\n",
        "2025-02-29T10:30:00Z",
        "2025-13-01T10:30:00Z",
        "2025-12-26T24:00:00Z",
        "2025-12-26T10:60:00Z",
        "2016-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "-2025-12-26T10:30:00Z",
        "20251226T103000Z",
        "2025-W52-5T10:30:00Z",
        "\u0662025-12-26T10:30:00Z",
        "2" * 100_000,
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_what_is_no_time(text: str):
    assert parse_rfc3339(text) is None


@given(st.text(alphabet="0123456789-+:TZ.", max_size=30))
def test_any_text_is_a_time_or_none(text: str):
    assert parse_rfc3339(text) is None or len(text) >= 20
