"""What the routes need: made once by the front's entry point, handed to ``create_app``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from api.endpoints import JobEndpoints
from api.keyring import Keyring
from api.settings import FrontSettings


class PartitionStates(Protocol):
    """What ``/ready`` asks for; ``api.operations.Operations`` has it."""

    def partition_states(self) -> Mapping[int, str]:
        """``{partition: "serving" or what it does instead}``, all of them."""

    def drain(self) -> None:
        """Let nobody wait any longer."""


@dataclass(frozen=True)
class Services:
    """Everything a route may use."""

    keyring: Keyring
    operations: PartitionStates
    endpoints: JobEndpoints
    settings: FrontSettings
