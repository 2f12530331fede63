"""A checkout in which nobody pays twice, whatever is sent twice or dies in between.

Three guards, one for each place where a repeat comes from:

- The customer presses the button twice, or the shop asks again after a timeout: the order's
  number is the **idempotency key**, so there is one job however often it is submitted.
- A worker dies behind the payment and before its ack: the job comes again, and finds the
  payment in the shop's database, where the order's number is **unique**.
- A worker stands still until its lease is over and wakes up later: the **lease token**, which
  grows with every lease, tells it that it is late, in the very transaction that pays. ::

    QUEUE_NODE_KEY=client_... python checkout.py buy ORDER CENTS
    QUEUE_NODE_KEY=worker_... python checkout.py work shop.sqlite
"""

import logging
import sqlite3
import sys
from contextlib import closing

import msgspec

from queue_node_sdk import Client, IdempotencyConflict, LeasedJob, QueueNodeError, Worker

QUEUE = "checkout"

SCHEMA = """
    CREATE TABLE IF NOT EXISTS fences (order_id TEXT PRIMARY KEY, token INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS payments (
        order_id TEXT PRIMARY KEY, cents INTEGER NOT NULL, receipt TEXT NOT NULL
    );
"""


class Order(msgspec.Struct):
    """The payload."""

    order_id: str
    cents: int


class TooLateError(Exception):
    """A later attempt at this order has begun: this one must change nothing."""


class Shop:
    """The shop's own database: where it is written down who has paid."""

    def __init__(self, path: str) -> None:
        self._path = path
        with closing(self._open()) as database:
            database.executescript(SCHEMA)

    def pay(self, order: Order, token: int) -> str:
        """Take the money once; returns the receipt, the same one every time.

        Raises:
            TooLateError: a later lease of this order's job was here before.
        """
        with closing(self._open()) as database:
            # One transaction: the fence, the payment and the receipt, or nothing.
            database.execute("BEGIN IMMEDIATE")
            try:
                receipt = _pay(database, order, token)
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise
        return receipt

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None)


def _pay(database: sqlite3.Connection, order: Order, token: int) -> str:
    passed = database.execute(
        "INSERT INTO fences VALUES (?, ?) ON CONFLICT (order_id) "
        "DO UPDATE SET token = excluded.token WHERE excluded.token >= fences.token",
        (order.order_id, token),
    )
    if passed.rowcount == 0:
        raise TooLateError(f"order {order.order_id}: a later attempt is under way")
    paid = database.execute("SELECT receipt FROM payments WHERE order_id = ?", (order.order_id,))
    if (row := paid.fetchone()) is not None:
        return str(row[0])
    receipt = f"receipt-{order.order_id}-{order.cents}"
    database.execute(
        "INSERT INTO payments VALUES (?, ?, ?)", (order.order_id, order.cents, receipt)
    )
    return receipt


def buy(client: Client, order: Order) -> str:
    """The receipt of an order; pressing the button again gives the same one.

    Raises:
        IdempotencyConflict: this order was bought before, at another price.
    """
    job_id = client.submit(
        msgspec.json.encode(order).decode(),
        queue=QUEUE,
        idempotency_key=f"order-{order.order_id}",
        max_retries=10,
    )
    job = client.wait(job_id, timeout=60)
    return job.result or f"not paid: {job.state} {job.result_error}"


def work(path: str) -> None:
    """Take payments until told to stop."""
    shop = Shop(path)

    def handle(job: LeasedJob) -> str:
        assert job.lease_token is not None
        return shop.pay(msgspec.json.decode(job.payload, type=Order), int(job.lease_token))

    Worker.from_env(handle, queues=[QUEUE], concurrency=4).run()


def main(arguments: list[str]) -> int:
    """Exit code 0 when it is paid, or the worker was told to stop."""
    try:
        match arguments:
            case ["work", path]:
                logging.basicConfig(
                    level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
                )
                work(path)
            case ["buy", order_id, cents] if cents.isdigit():
                with Client.from_env() as client:
                    print(buy(client, Order(order_id, int(cents))))
            case _:
                print("usage: checkout.py buy ORDER CENTS | work DATABASE", file=sys.stderr)
                return 2
    except IdempotencyConflict:
        print("this order was bought before, at another price", file=sys.stderr)
        return 1
    except QueueNodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
