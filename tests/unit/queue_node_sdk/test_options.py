import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_node_sdk.errors import BadRequest
from queue_node_sdk.options import JobOptions, Submit, submit_body, wire_duration


def body(options: JobOptions, payload: str = "x") -> Any:
    return json.loads(submit_body(payload, options, "made up"))


def test_a_submit_sends_only_what_was_said_and_its_key():
    assert body({}) == {"payload": "x", "idempotency_key": "made up"}
    assert body({"max_retries": 0, "queue": None}) == {
        "payload": "x",
        "idempotency_key": "made up",
        "max_retries": 0,
    }


def test_the_callers_own_key_goes_first():
    assert body({"idempotency_key": "order-7"})["idempotency_key"] == "order-7"


def test_every_option_stands_on_the_wire_as_the_contract_has_it():
    said = body(
        {
            "max_retries": 5,
            "queue": "mail",
            "priority": -3,
            "delay": timedelta(minutes=1, milliseconds=500),
            "ttl": "1h",
            "lease_duration": 2.5,
            "backoff": {"initial": timedelta(seconds=2), "factor": 3, "max": "1m", "jitter": 0.1},
            "group": "customer 7",
            "retention": 0,
            "tags": {"a": "b"},
        }
    )
    assert said == {
        "payload": "x",
        "idempotency_key": "made up",
        "max_retries": 5,
        "queue": "mail",
        "priority": -3,
        "delay": 60.5,
        "ttl": "1h",
        "lease_duration": 2.5,
        "backoff": {"initial": 2.0, "factor": 3, "max": "1m", "jitter": 0.1},
        "group": "customer 7",
        "retention": 0,
        "tags": {"a": "b"},
    }


def test_a_time_is_sent_in_utc():
    noon = datetime(2026, 1, 2, 13, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=1)))
    assert body({"run_at": noon})["run_at"] == "2026-01-02T12:00:00.250000Z"
    assert body({"run_at": "2026-01-02T12:00:00Z"})["run_at"] == "2026-01-02T12:00:00Z"


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(BadRequest, match="time zone"):
        body({"run_at": datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None)})


@given(st.text(min_size=1))
def test_any_text_is_sent_as_it_is(text: str):
    assert body({}, text)["payload"] == text


@pytest.mark.parametrize("payload", ["", "\ud800", b"bytes", None, {"a": 1}])
def test_a_payload_that_cannot_be_sent_is_refused_at_once(payload: str):
    with pytest.raises(BadRequest):
        submit_body(payload, {}, "k")


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": object()},
        {"max_retries": 1j},
        {"delay": -1},
        {"delay": float("nan")},
        {"ttl": float("inf")},
        {"ttl": True},
        {"retention": [1]},
        {"lease_duration": timedelta(seconds=-1)},
        {"backoff": "1s"},
        {"backoff": {"initial": -1}},
        {"tags": ["a"]},
        {"tags": {"a": "\ud800"}},
        {"run_at": 5},
    ],
)
def test_an_option_that_cannot_be_sent_is_refused_at_once(options: JobOptions):
    with pytest.raises(BadRequest):
        submit_body("x", options, "k")


def test_an_option_that_does_not_exist_is_a_type_error_as_in_python():
    with pytest.raises(TypeError, match="prioriti"):
        submit_body("x", {"prioriti": 1}, "k")  # type: ignore[typeddict-unknown-key]


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_seconds_are_sent_as_they_are(seconds: float):
    assert wire_duration("delay", seconds) == seconds


def test_an_item_of_many_has_the_same_options():
    item = Submit("x", queue="mail")
    assert (item.payload, item.options) == ("x", {"queue": "mail"})
    assert "mail" in repr(item)


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Fraction(float):
    pass


def test_texts_and_numbers_of_other_libraries_are_taken_for_what_they_are():
    made = submit_body(
        Text("x"),
        {"priority": Whole(3), "delay": Fraction(1.5), "tags": {Text("a"): Text("b")}},
        "k",
    )
    assert made == submit_body("x", {"priority": 3, "delay": 1.5, "tags": {"a": "b"}}, "k")
