"""How many bytes of each segment are texts that some job still needs. Pure."""

from collections.abc import Mapping

from partitions.positions import segment_and_size_of


class LiveTexts:
    """A count by segment; it is told of every text that a job comes to need or needs no more."""

    def __init__(self, by_segment: Mapping[int, int] | None = None) -> None:
        self.by_segment: dict[int, int] = dict(by_segment or {})
        """``{segment: bytes}``, never 0; a text counts as ``positions.size_of`` says."""
        self.total_bytes = sum(self.by_segment.values())
        self.dropped_bytes = 0
        """Of all texts that ceased to be needed here, those that have a copy elsewhere too."""

    def keep(self, position: int) -> None:
        """The text there is needed from now on."""
        segment, size = segment_and_size_of(position)
        self.by_segment[segment] = self.by_segment.get(segment, 0) + size
        self.total_bytes += size

    def drop(self, position: int) -> None:
        """The text there is needed no more."""
        segment, size = segment_and_size_of(position)
        self.total_bytes -= size
        self.dropped_bytes += size
        left = self.by_segment[segment] - size
        if left:
            self.by_segment[segment] = left
        else:
            del self.by_segment[segment]
