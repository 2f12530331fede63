"""Free memory goes back to the system."""

import ctypes
import os
import subprocess
import sys

from partitions.memory import give_back

# In a process of its own: how much of what this one has freed stays, depends on all before.
SCRIPT = """
import os
from partitions.memory import give_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
blocks = [bytes(8_000) for _ in range(4_000)]
last = bytes(8_000)  # above them in the heap: without it they would go by themselves
blocks.clear()
before = resident()
give_back()
print(before - resident())
"""


def test_what_is_free_between_what_lasts_goes_back():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        give_back()  # and that is all there is to see
        return
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert int(done.stdout) > 25_000_000
