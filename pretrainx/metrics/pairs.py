"""What every metric asks of its arguments: as many predictions as targets, and at least one."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pretrainx.core.errors import InputError


def require_pairs(metric: str, targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Raises InputError where targets and predictions do not belong together, or nothing is there to measure."""
    if len(targets) != len(predictions):
        raise InputError(f"metric {metric!r}: {len(targets)} targets and {len(predictions)} predictions; give one for each")
    if not len(targets):
        raise InputError(f"metric {metric!r}: no examples to measure; is the split empty?")


def value(item: Any) -> Any:
    """What counts of {"group": ..., "value": ...}, or of a plain value, itself."""
    return item["value"] if isinstance(item, Mapping) else item


def by_group(metric: str, targets: Sequence[Any]) -> dict[Hashable, list[int]]:
    """{group: places of its targets}, in the order in which groups first appear.

    Raises:
      InputError: a target has no group.
    """
    places: dict[Hashable, list[int]] = {}
    for place, target in enumerate(targets):
        if not (isinstance(target, Mapping) and {"group", "value"} <= set(target)):
            raise InputError(f"metric {metric!r}: target {place + 1} is {target!r:.60}; accepted is {{'group': ..., 'value': ...}}")
        group = target["group"]
        plain = group.tolist() if hasattr(group, "tolist") else group  # as arrays, ids are not hashable, and 3 is not 3
        key = plain if isinstance(plain, str | bytes | int) else str(plain)
        places.setdefault(key, []).append(place)
    return places
