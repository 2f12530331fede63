"""The codecs alone: what a job costs on the pipe and in the log, without any I/O."""

import random
from typing import Final

from bench.micro.figure import Figure, best_rate
from partitions.events import Event, JobEnqueued, encode_events
from partitions.framing import Deframer, frame
from partitions.messages import (
    Enqueue,
    Enqueued,
    Request,
    Response,
    decode_requests,
    decode_responses,
    encode_requests,
    encode_responses,
)
from partitions.record import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_blob,
    encode_record,
    encode_segment_header,
    scan,
)
from partitions.slots import SLOTS, make_job_id

BATCHES: Final = (1, 64)
_PAYLOAD_BYTES: Final = 256
_JOBS: Final = 20_000
_NOW_MS: Final = 1_700_000_000_000


def measure(jobs: int = _JOBS) -> list[Figure]:
    """Jobs/s through each codec, by jobs in a frame or record."""
    return [figure for batch in BATCHES for figure in (*_pipe(batch, jobs), *_log(batch, jobs))]


def _pipe(batch: int, jobs: int) -> list[Figure]:
    draw = random.Random(1)
    payload = draw.randbytes(_PAYLOAD_BYTES)
    ids = [make_job_id(_NOW_MS, draw.getrandbits(58), draw.getrandbits(16)) for _ in range(batch)]
    requests = [Request(n, Enqueue(job_id, payload, 3, "owner")) for n, job_id in enumerate(ids)]
    responses = [Response(n, Enqueued(job_id)) for n, job_id in enumerate(ids)]
    request_frame = frame(encode_requests(requests))
    response_frame = frame(encode_responses(responses))
    turns = max(1, jobs // batch)
    done = turns * batch
    where = f"{batch} a frame"

    def decode_all(data: bytes, *, answers: bool) -> None:
        decode = decode_responses if answers else decode_requests
        deframer = Deframer()
        for _ in range(turns):
            for body in deframer.feed(data):
                decode(body)

    def encode_all(messages: list[Request] | list[Response]) -> None:
        for _ in range(turns):
            frame(encode_requests(messages))

    return [
        Figure(f"encode submits, {where}", best_rate(done, lambda: encode_all(requests))),
        Figure(
            f"decode submits, {where}",
            best_rate(done, lambda: decode_all(request_frame, answers=False)),
        ),
        Figure(f"encode replies, {where}", best_rate(done, lambda: encode_all(responses))),
        Figure(
            f"decode replies, {where}",
            best_rate(done, lambda: decode_all(response_frame, answers=True)),
        ),
    ]


def _log(batch: int, jobs: int) -> list[Figure]:
    draw = random.Random(2)
    payload = draw.randbytes(_PAYLOAD_BYTES)
    events: list[Event] = [
        JobEnqueued(draw.randbytes(16), 1 << 32, 3, _NOW_MS, "owner") for _ in range(batch)
    ]
    turns = max(1, jobs // batch)
    header = SegmentHeader(0, 0, SLOTS, 1, 1, _NOW_MS, 12345, 0)

    def encode_all() -> bytes:
        records, crc = [encode_segment_header(header)], 0
        for lsn in range(1, turns + 1):
            record, crc = encode_record(
                lsn=lsn,
                epoch=0,
                written_ms=_NOW_MS,
                prev_crc=crc,
                nonce=header.nonce,
                blobs=b"".join([encode_blob(payload) for _ in range(batch)]),
                events=encode_events(events),
            )
            records.append(record)
        return b"".join(records)

    segment = encode_all()
    note = f"{(len(segment) - SEGMENT_HEADER_BYTES) / turns / batch:,.0f} B/job in the log"
    where = f"{batch} a record"
    done = turns * batch
    return [
        Figure(f"encode records, {where}", best_rate(done, encode_all), note),
        Figure(
            f"check records, {where}",
            best_rate(done, lambda: sum(1 for _ in scan(segment, header))),
        ),
    ]
