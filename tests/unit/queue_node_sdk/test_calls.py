import json

import pytest

from queue_node_sdk import calls
from queue_node_sdk.calls import AckItem, ExtendItem
from queue_node_sdk.errors import BadRequest
from queue_node_sdk.options import submit_body


def test_a_batch_holds_each_job_as_a_submit_would():
    bodies = [submit_body("x", {}, "1"), submit_body("y", {"queue": "q"}, "2")]
    call = calls.batch_call(bodies)
    assert (call.method, call.path) == ("POST", "/jobs/batch")
    assert json.loads(call.body)["jobs"] == [json.loads(body) for body in bodies]
    assert call.repeatable


def test_a_lease_asks_for_what_was_said():
    call = calls.lease_call(["a", "b"], 5, 20, "1m", "me")
    assert json.loads(call.body) == {
        "queues": ["a", "b"], "max": 5, "wait": 20, "lease_duration": "1m", "worker": "me",
    }  # fmt: skip
    assert (call.wait_seconds, call.repeatable, call.may_be_empty) == (20, False, True)
    assert json.loads(calls.lease_call(None, 3).body) == {"max": 3}


def test_the_name_of_a_queue_is_not_a_list_of_names():
    with pytest.raises(BadRequest, match="mail"):
        calls.lease_call("mail", 1)


def test_many_acks_are_sent_twice_only_when_each_has_its_token():
    held = AckItem("j", "7", result="r")
    call = calls.acks_call([held, AckItem("k", "8", result_error="e", retry=False)])
    assert json.loads(call.body) == {
        "acks": [
            {"job_id": "j", "lease_token": "7", "result": "r"},
            {"job_id": "k", "lease_token": "8", "result_error": "e", "retry": False},
        ]
    }
    assert call.repeatable
    assert not calls.acks_call([held, AckItem("k")]).repeatable


def test_many_heartbeats_say_what_each_lease_is():
    call = calls.extends_call([ExtendItem("j", "7"), ExtendItem("k", "8", 30.0, "half")])
    assert json.loads(call.body) == {
        "extends": [
            {"job_id": "j", "lease_token": "7"},
            {"job_id": "k", "lease_token": "8", "lease_duration": 30.0, "progress": "half"},
        ]
    }


def test_a_release_may_be_for_later():
    assert json.loads(calls.release_call("j", "7").body) == {"lease_token": "7"}
    call = calls.release_call("j", "7", 2)
    assert (call.path, json.loads(call.body)["delay"]) == ("/jobs/j/release", 2)


def test_a_wait_stands_in_the_query_and_in_the_patience():
    call = calls.status_call("j", 2.5)
    assert (call.path, call.wait_seconds) == ("/jobs/j?wait=2.500", 2.5)
    # An exponent would be no duration.
    assert calls.status_call("j", 1e-7).path == "/jobs/j?wait=0.000"


def test_a_list_names_each_filter():
    call = calls.list_call(
        queue="q", state="DEAD", tag={"a": "b c", "d": "&"}, group="é", limit=5, cursor="x"
    )
    assert call.path == (
        "/jobs?queue=q&state=DEAD&group=%C3%A9&cursor=x&tag=a%3Ab+c&tag=d%3A%26&limit=5"
    )
    assert calls.list_call().path == "/jobs"
    assert calls.list_call(tag="a:b").path == "/jobs?tag=a%3Ab"
    assert calls.list_call(tag=["a:b", "c:d"]).path == "/jobs?tag=a%3Ab&tag=c%3Ad"


def test_a_filter_that_no_url_can_carry_is_refused():
    with pytest.raises(BadRequest):
        calls.list_call(group="\ud800")


def test_what_would_count_twice_is_not_sent_twice():
    assert not calls.retry_call("j").repeatable
    assert not calls.delete_call("j").repeatable
    assert not calls.retry_dead_call("q").repeatable
    assert not calls.purge_call("q", "DEAD").repeatable
    assert calls.purge_call("q", "DEAD").path == "/queues/q/jobs?state=DEAD"
    assert calls.pause_call("q").repeatable
    assert calls.cancel_call("j").repeatable
