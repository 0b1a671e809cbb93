"""Durations in a config, resolved to steps in one place: 500, "500 steps", "10%", "2e9 tokens", "1e6 examples", "3 epochs"."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.schema import INT_LIMIT

UNITS = ("steps", "tokens", "examples", "epochs", "%")
FORMS = "expected steps (500), '10%', '2e9 tokens', '1e6 examples' or '3 epochs'"
_FORM = re.compile(r"\s*([+-]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?)\s*(%|[a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Duration:
    """An exact amount of one unit: `amount` is a fraction, so that "10%" of a number of steps is not rounded twice."""

    amount: Fraction
    unit: str


def parse(duration: int | str, where: str) -> Duration:
    """The amount and unit of a duration; `where` is the config key, for the error.

    >>> parse("2e9 tokens", "train.steps"), parse(500, "train.steps")
    (Duration(amount=Fraction(2000000000, 1), unit='tokens'), Duration(amount=Fraction(500, 1), unit='steps'))
    """
    match = _FORM.fullmatch(str(duration))
    if match is None:
        raise InputError(f"{where}: {FORMS}, found {str(duration)!r}")
    try:
        amount = Fraction(match[1].replace("_", ""))
    except ValueError:
        raise InputError(f"{where}: {FORMS}, found {duration!r}") from None
    unit = match[2].lower() or "steps"
    unit = unit if unit in UNITS or f"{unit}s" not in UNITS else f"{unit}s"
    if unit not in UNITS:
        raise InputError(f"{where}: unknown unit {match[2]!r} in {duration!r}; {nearest(unit, UNITS)}")
    if amount < 0:
        raise InputError(f"{where}: expected a duration of at least 0, found {duration!r}")
    if unit == "%" and amount > 100:
        raise InputError(f"{where}: expected a share of at most 100%, found {duration!r}")
    if unit == "steps" and amount.denominator != 1:
        raise InputError(f"{where}: expected a whole number of steps, found {duration!r}")
    return Duration(amount, unit)


def resolve(
    duration: int | str,
    where: str,
    *,
    total_steps: int | None = None,
    batch_size: int,
    tokens_per_step: int,
    rows_per_epoch: int | None = None,
) -> int:
    """The duration in steps: enough whole steps to reach it, and never 0 unless the duration is 0.

    `total_steps` is what percentages are of, and None for the run's own length; `rows_per_epoch` is the number of
    sequences of one pass, and None where the data is not there yet.

    >>> resolve("2e6 tokens", "train.steps", batch_size=8, tokens_per_step=8 * 1024)
    245
    """
    parsed = parse(duration, where)
    if parsed.unit == "steps":
        steps = int(parsed.amount)
    elif parsed.unit == "tokens":
        steps = math.ceil(parsed.amount / tokens_per_step)
    elif parsed.unit == "examples":
        steps = math.ceil(parsed.amount / batch_size)
    elif parsed.unit == "epochs":
        if rows_per_epoch is None:
            raise InputError(f"{where}: {duration!r} needs the size of the data, which is not known here; give steps, tokens or examples")
        steps = math.ceil(parsed.amount * rows_per_epoch / batch_size)
    else:
        if total_steps is None:
            raise InputError(f"{where}: {duration!r} is a share of the run's length, which this key sets; give steps, tokens or epochs")
        # Half up, and not to the nearest even step: a schedule should not depend on a parity.
        steps = math.floor(parsed.amount * total_steps / 100 + Fraction(1, 2))
    if steps >= INT_LIMIT:
        raise InputError(f"{where}: {duration!r} is more steps than 64 bits hold")
    return steps if parsed.amount == 0 else max(steps, 1)
