"""bench.report: the same facts for people and for programs."""

import io
import json

from rich.console import Console

from bench import report
from bench.order import Order
from bench.targets import Target
from tests.unit.bench.results import ENVIRONMENT, a_result

TARGETS = [Target("the thing", ">= 1", "0.5", "missed")]


def tables(results, targets=()):
    text = io.StringIO()
    report.print_tables(Console(file=text, width=160), ENVIRONMENT, results, list(targets))
    return text.getvalue()


def test_json_has_everything_that_the_tables_are_made_of():
    seen = json.loads(report.to_json(ENVIRONMENT, [a_result()], TARGETS))
    (result,) = seen["results"]
    assert seen["environment"]["fdatasync"]["median_ms"] == 0.1
    assert (result["mode"], result["unit"], result["connections"]) == ("submit", "submit", 64)
    assert (result["done"], result["per_second"]) == (1000, 1000.0)
    assert result["latency_ms"]["submit"]["p50"] == 2.0
    assert result["latency_ms"]["submit"]["p99.9"] == 2.0
    assert result["errors"] == {}
    assert result["cpu"]["front"] == {"seconds": 0.75, "us_per_unit": 750.0}
    assert result["cpu"]["partition"]["us_per_unit"] == 400.0
    assert [process["name"] for process in result["processes"]][:2] == ["front 0", "front 1"]
    assert seen["targets"][0]["verdict"] == "missed"


def test_json_of_a_run_in_which_nothing_succeeded_is_still_json():
    failed = a_result(done=0, latencies={}, refused={"submit 503": 7}, examples={"submit 503": "x"})
    (result,) = json.loads(report.to_json(ENVIRONMENT, [failed], []))["results"]
    assert result["per_second"] == 0
    assert result["latency_ms"] == {}
    assert result["errors"] == {"submit 503": 7}
    assert result["cpu"]["front"]["us_per_unit"] is None


def test_the_tables_show_rate_quantiles_cpu_and_batch():
    text = tables([a_result()])
    assert "1,000" in text
    assert "2.000" in text
    assert "750.0 (75%)" in text
    assert "2F 1P" in text
    assert "10.0" in text, "1,000 jobs in 100 writes of the partition"
    assert "fdatasync of 300 bytes 0.100 ms" in text


def test_batches_say_how_many_jobs_a_request_has():
    result = a_result("batch", batch=100)
    assert "batch, 100 a request" in tables([result])
    (seen,) = json.loads(report.to_json(ENVIRONMENT, [result], []))["results"]
    assert (seen["mode"], seen["batch_jobs"], seen["per_second"]) == ("batch", 100, 1000.0)


def test_what_has_no_latency_of_its_own_is_shown_with_its_rate():
    result = a_result("batch-cycle", batch=100)
    result.phase.latencies = {"ack": result.phase.latencies["batch-cycle"]}
    rows = [line for line in tables([result]).splitlines() if "a request" in line or " ack" in line]
    assert "1,000" in rows[0]
    assert "2.000" not in rows[0]
    assert "2.000" in rows[1]


def test_refusals_are_shown_with_an_example():
    refused = a_result(refused={"submit 507": 3}, examples={"submit 507": "storage full"})
    assert "3 x submit 507: storage full" in tables([refused])


def test_a_run_without_a_success_has_no_quantiles():
    assert "-" in tables([a_result(done=0, latencies={})])


def test_targets_are_shown_with_their_verdict():
    text = tables([a_result()], TARGETS)
    assert "the thing" in text
    assert "missed" in text


def test_a_busy_load_process_is_warned_of():
    assert "may be the bottleneck" in tables([a_result(cpu_s=0.95)])
    assert "may be the bottleneck" not in tables([a_result(cpu_s=0.5)])


def test_starts_that_were_never_sent_are_warned_of():
    assert "12 planned starts" in tables([a_result(never_sent=12)])


def test_the_order_of_leases_has_a_table_of_its_own():
    order = Order(200, {0: 20, 1: 10, 5: 5}, {0: 1})
    result = a_result("order", waiting=1000, batch=10, order=order)
    text = tables([result])
    assert "out of order, of 200 jobs leased, 10 a request (2F 1P)" in text
    assert "20 (10.00%)" in text
    assert "1 (0.50%)" in text
    (seen,) = json.loads(report.to_json(ENVIRONMENT, [result], []))["results"]
    assert seen["order"]["inversions"] == {"0": 20, "1": 10, "5": 5}
    assert "out of order" not in tables([a_result()])
