"""bench.peers.beanstalkd: its protocol, cut at every byte; the program is not needed."""

import pytest

from bench.errors import MalformedAnswerError
from bench.flows import Verdict
from bench.messages import Phase, Plan
from bench.peers.beanstalkd import BeanstalkTalk, put_request

PLAN = Plan("127.0.0.1", 1, "", "", 1, 1, 64, 1.0)
INSERTED = b"INSERTED 4711\r\n"


def test_a_put_says_how_long_its_data_is():
    assert put_request(b"hello") == b"put 1024 0 60 5\r\nhello\r\n"


@pytest.mark.parametrize("cut", range(len(INSERTED)))
def test_a_line_cut_at_any_byte_is_awaited(cut):
    assert BeanstalkTalk(PLAN).scan(INSERTED[:cut]) is None


def test_only_inserted_counts():
    talk = BeanstalkTalk(PLAN)
    flow = talk.flows(Phase("submit"))()
    assert flow.begin().startswith(b"put 1024 0 60 64\r\n")
    for line, verdict in ((INSERTED, Verdict.DONE), (b"OUT_OF_MEMORY\r\n", Verdict.REFUSED)):
        answer = talk.scan(line)
        assert answer is not None
        assert flow.answer(*answer[:2]) is verdict


@pytest.mark.parametrize("data", [INSERTED * 2, b"x" * 2000])
def test_what_is_not_one_line_stops_the_run(data):
    with pytest.raises(MalformedAnswerError, match="not one line"):
        BeanstalkTalk(PLAN).scan(data)


def test_an_id_that_is_none_stops_the_run():
    talk = BeanstalkTalk(PLAN)
    answer = talk.scan(b"INSERTED x\r\n")
    assert answer is not None
    with pytest.raises(MalformedAnswerError, match="not an id"):
        talk.flows(Phase("submit"))().answer(*answer[:2])
