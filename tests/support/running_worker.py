"""A worker of the SDK that runs in a thread of the test."""

import threading

from queue_node_sdk import Worker
from tests.support.polling import DEADLINE_S


class RunningWorker:
    """``run()`` in a thread; what it raised is kept in ``error``."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Wait for the end of ``run()``."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the worker did not stop"

    def stop(self) -> None:
        """Tell it to stop, and wait."""
        self.worker.stop()
        self.join()
