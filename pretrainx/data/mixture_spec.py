"""Which corpora under which objectives at which rates: what `data.mixture` says, read without TensorFlow.

It is a dict {"corpus" or "corpus:objective": rate}, or a name: of a corpus, of a built-in mixture, or of a SeqIO Task
or Mixture of the user's own module, whose rates tools/cache_tasks.py has left beside the cache.
"""

from pathlib import Path

from pretrainx.core import files
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.sections import Data
from pretrainx.tasks import corpora, mixtures


def parse_mixture(data: Data) -> dict[tuple[str, str], float]:
    """{(corpus, objective): rate}, never empty. That the corpora of a dict exist is left to who opens them.

    Raises:
      InputError: no mixture is given, a rate is not above zero, an entry stands twice, or a name is not known here.
    """
    name = data.mixture
    names = sorted({*corpora.known(data), *mixtures.BUILTIN})
    if not name:
        raise InputError(f"data.mixture is empty; give a name or a dict such as {{'stdlib_code': 1.0}}; {nearest('', names)}")
    if isinstance(name, dict):
        return mixtures.parse(name, data)
    if is_described(name, data):
        return mixtures.parse(mixtures.BUILTIN.get(name, {name: 1.0}), data)
    if data.module:
        found = files.read_json(rates_file(data, name), f"rates of mixture {name!r} (run tools/cache_tasks.py first)")
        return mixtures.parse(found, data)
    raise InputError(f"data.mixture: unknown Task or Mixture {name!r}; {nearest(name, names)}; a Task of your own needs data.module")


def is_described(name: str, data: Data) -> bool:
    """Whether a mixture's name needs no Python module: a built-in mixture, or a corpus with or without objective."""
    return name in mixtures.BUILTIN or mixtures.split_name(name, data)[0] in corpora.known(data)


def rates_file(data: Data, mixture: str) -> Path:
    """Where the rates of a named SeqIO Mixture lie, for processes that do not import SeqIO."""
    return Path(data.cache_dir) / "mixtures" / (mixture.replace("/", "_") + ".json")
