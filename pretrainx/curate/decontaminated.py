"""What training asks of a corpus: that it was searched for the texts of evaluation sets. The search itself is decontaminate.py."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate import readers

FORMAT = 1  # of the manifest
MANIFEST = "decontamination.json"


def require(path: Path, sets: Mapping[str, Any] | Sequence[str]) -> None:
    """Checks that a corpus was decontaminated against these sets: training calls it before it starts.

    Sets by name with their files (a glob, or an `EvaluationSet`) must have the very same files, by hash; of names alone only the
    names are compared.

    Raises:
      InputError: the manifest is not there, was made by reporting only, lacks a set, or had other files for it.
    """
    told = files.read_json(path, "decontamination manifest")
    if not isinstance(told, dict) or told.get("format") != FORMAT or not {"settings", "sets"} <= told.keys():
        raise InputError(f"decontamination manifest {path}: not of format {FORMAT}; run the curation again")
    if told["settings"]["action"] == "report":
        raise InputError(
            f"decontamination manifest {path}: leaks were reported and left in (decontaminate.action = 'report'); drop or cut them"
        )
    described = sets if isinstance(sets, Mapping) else dict.fromkeys(sets, "")
    for name, one in described.items():
        if name not in told["sets"]:
            raise InputError(f"decontamination manifest {path}: the corpus was not searched for {name!r}; {nearest(name, told['sets'])}")
        pattern = one if isinstance(one, str) else one.files
        if not pattern:
            continue
        paths = readers.list_files(pattern, where=f"decontamination set {name}")
        mine = Counter(files.sha256_file(found) for found in paths)
        theirs = Counter(entry["sha256"] for entry in told["sets"][name]["files"])
        if mine != theirs:
            changed = [found.name for found in paths if not theirs[files.sha256_file(found)]]
            gone = [entry["file"] for entry in told["sets"][name]["files"] if not mine[entry["sha256"]]]
            raise InputError(
                f"decontamination manifest {path}: set {name!r} had other files when the corpus was searched "
                f"(not searched for: {', '.join(changed) or 'none'}; no longer there: {', '.join(gone) or 'none'}); run the curation again"
            )
