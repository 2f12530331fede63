"""Fixtures for pytest; there as soon as ``queue-node-sdk`` is installed.

``queue_node``: a node of the test's own in this process (``testing.LocalNode``), through which the
tasks of the default set are sent. ``fake_queue``: a ``FakeClient``, the same way.
"""

from typing import TYPE_CHECKING

import pytest

# Imported by every run of pytest in the environment: what is not used is not loaded.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from queue_node_sdk.fake import FakeClient
    from queue_node_sdk.testing import LocalNode


@pytest.fixture
def queue_node() -> "Iterator[LocalNode]":
    """A node in this process, empty; its clock stands still (``advance``)."""
    from queue_node_sdk import tasks
    from queue_node_sdk.testing import LocalNode

    with LocalNode() as node, tasks.default.connected(node.client):
        yield node


@pytest.fixture
def fake_queue() -> "Iterator[FakeClient]":
    """Records what is submitted; nothing is sent."""
    from queue_node_sdk import tasks
    from queue_node_sdk.fake import FakeClient

    with FakeClient() as fake, tasks.default.connected(fake):
        yield fake
