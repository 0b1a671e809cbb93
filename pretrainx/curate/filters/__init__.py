"""Filters: each file has a `Filter` whose fields are its thresholds and which says of every document "" (keep) or why not."""

from typing import Protocol

from pretrainx.curate.documents import Batch


class Filter(Protocol):
    """What a filter is: a frozen dataclass of thresholds with this one method; two more are optional:

    notes(batch) -> {name: a value ("": none) for each document}: what the filter found out that belongs in the documents' metadata.
    files() -> names of the files that it reads, whose content is part of what results are made from.
    """

    def reasons(self, batch: Batch) -> list[str]:
        """For each document "" to keep it, or "<filter>/<rule>"; depends on the document alone."""
        ...
