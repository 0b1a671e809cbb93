"""Which corpora under which objectives at which rates: what `data.mixture` says, read without TensorFlow.

A mixture is a dict {"corpus" or "corpus:objective": rate}, or a name: of a corpus, of a built-in mixture, or of a
SeqIO Task or Mixture of the user's own module, whose rates tools/cache_tasks.py has left beside the cache.
"""

import math
from pathlib import Path

from pretrainx.core import files, plugins
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.sections import Data
from pretrainx.tasks import corpora


def parse_mixture(data: Data) -> dict[tuple[str, str], float]:
    """{(corpus, objective): rate}, never empty. That the corpora exist is left to who opens them.

    Raises:
      InputError: no mixture is given, a rate is not above zero, an entry stands twice, or a name is not known here.
    """
    if not data.mixture:
        raise InputError(f"data.mixture is empty; give a name or a dict such as {{'stdlib_code': 1.0}}; {nearest('', _names(data))}")
    if isinstance(data.mixture, dict):
        return _entries(data.mixture, data)
    if data.mixture in corpora.MIXTURES:
        return _entries(corpora.MIXTURES[data.mixture], data)
    if split_name(data.mixture, data)[0] in corpora.known(data):
        return _entries({data.mixture: 1.0}, data)
    if data.module:
        found = files.read_json(rates_file(data, data.mixture), f"rates of mixture {data.mixture!r} (run tools/cache_tasks.py first)")
        return _entries(found, data)
    raise InputError(
        f"data.mixture: unknown Task or Mixture {data.mixture!r}; {nearest(data.mixture, _names(data))}; a Task of your own needs data.module"
    )


def split_name(entry: str, data: Data) -> tuple[str, str]:
    """(corpus, objective) of one entry; the objective is the config's where the entry names none."""
    head, colon, tail = entry.rpartition(":")
    known = corpora.known(data)
    if colon and entry not in known and (head in known or tail in plugins.names("pretrainx.objectives", "Objective") or "." in tail):
        return head, tail
    return entry, data.objective


def rates_file(data: Data, mixture: str) -> Path:
    """Where the rates of a named SeqIO Mixture lie, for processes that do not import SeqIO."""
    return Path(data.cache_dir) / "mixtures" / (mixture.replace("/", "_") + ".json")


def _entries(rates: dict[str, float], data: Data) -> dict[tuple[str, str], float]:
    parsed: dict[tuple[str, str], float] = {}
    for entry, rate in rates.items():
        if not (rate > 0 and math.isfinite(rate)):
            raise InputError(f"data.mixture.{entry}: rate {rate} must be above zero and finite; leave the entry out to mix in none of it")
        key = split_name(entry, data)
        if not all(key):
            raise InputError(f"data.mixture: {entry!r} must be 'corpus' or 'corpus:objective'")
        if key in parsed:
            raise InputError(f"data.mixture: {key[0]}:{key[1]} stands there twice ({entry!r}); give one rate for it")
        parsed[key] = float(rate)
    return parsed


def _names(data: Data) -> list[str]:
    return sorted({*corpora.known(data), *corpora.MIXTURES})
