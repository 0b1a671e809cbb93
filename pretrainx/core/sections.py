"""The sections of a config that every experiment shares, with their defaults and ranges: their only home.

The `model` and `optim` sections take their type from the plug-in they name (`Config` in its file).
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pretrainx.core.schema import Range

Duration = int | str  # 500 (steps), "10%", "2e9 tokens", "1e6 examples", "3 epochs": see core/durations.py
Positive = Annotated[int, Range(ge=1)]
Count = Annotated[int, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0.0, le=1.0)]
DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Corpus:
    """Raw text named in the config itself, so that an experiment on one's own files needs no Python module."""

    source: Literal["text", "jsonl", "parquet", "tfds"] = "jsonl"
    files: str = ""  # glob, relative to the working directory; {split} stands for train or validation; for tfds: name
    text_key: str = "text"
    id_key: str = "id"
    document: Literal["file", "line"] = "file"  # for text: what one document is
    holdout: Fraction = 0.0  # share of documents, by a hash of their id, that is "validation"; 0 where {split} is used
    task: str = ""  # of labelled texts: a name in tasks/labelled/tables.py, such as "glue_rte" or "classes"; "": plain text
    form: Literal["classes", "words"] = "classes"  # of labelled texts: for a head over classes, or text for text
    fields: dict[str, str] = field(default_factory=dict)  # keys of labelled records by role, where they are not the task's own
    labels: tuple[str, ...] = ()  # names of the classes of task "classes", in order
    decontamination: str = ""  # manifest of tools/curate.py; "": decontamination.json beside the folder of the files


@dataclass(frozen=True)
class Data:
    mixture: str | dict[str, float] = ""  # Mixture or Task name, or {"corpus" or "corpus:objective": rate}
    corpora: dict[str, Corpus] = field(default_factory=dict)
    rates: Literal["tokens", "documents"] = "tokens"  # what the mixture's rates are shares of
    # Evaluation sets by name that every corpus must have been searched for, and their files (a glob; "": by name alone).
    decontaminated: dict[str, str] = field(default_factory=dict)
    max_epochs: Annotated[float, Range(gt=0)] = 4.0  # a source that is repeated more often is warned of (Muennighoff 2023)
    module: str = ""  # user's own module, imported before names are looked up: registers Tasks and Mixtures
    objective: str = "causal"  # for entries of the mixture that name none
    # arguments by objective name; `objective` among them says what a name of one's own stands for
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)
    sequence_length: Positive = 1024
    seed: int = 0
    vocabulary: str = "bytes"  # "bytes", FILE.model (SentencePiece), "wordpiece:FILE"
    cache_dir: str = "data/cache"
    cache_shards: Positive = 8  # of a source that is one stream; a source of many files keeps its own
    encoding_errors: Literal["replace", "refuse"] = "replace"
    max_document_bytes: Positive = 10_000_000  # longer documents stop the cache with their name
    prefetch: Positive = 4  # batches read ahead on the host
    workers: Count = 0  # reader processes; 0 reads in a thread


@dataclass(frozen=True)
class Mesh:
    """Sizes of the named mesh axes; one may be -1 and takes what the devices leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    expert: int = 1
    stage: int = 1  # of a pipeline, each with a part of the layers; `train.pipeline_...` say how batches pass through


@dataclass(frozen=True)
class Train:
    steps: Duration = 1000
    batch_size: Positive = 8  # global, in sequences
    stop_at: Count = 0  # stop after this step with the schedule unchanged; 0: run to the end
    seed: int = 0
    remat: str = "none"
    dtype: DType = "bfloat16"  # of the computation; float16 has a loss scale (train/loss_scale.py)
    param_dtype: DType = "float32"
    grad_accum: Positive = 1
    pipeline_microbatches: Count = 0  # where mesh.stage is above 1, a multiple of it; 0: 4 for each stage
    pipeline_repeats: Positive = 1  # how often a microbatch goes round the stages, each time through a part of each stage's layers
    offload_optimizer: bool = False  # its moments lie in the host's memory between updates
    loss_weights: dict[str, float] = field(default_factory=dict)  # by objective, default 1
    max_bad_steps: Positive = 5  # refused steps in a row that stop the run with exit code 3
    # What follows a loss that is finite and far above the past ones: "log" says it, "skip" refuses the step's update, "rewind" goes
    # back to the last checkpoint and leaves out the rows of the step.
    spike_policy: Literal["log", "skip", "rewind"] = "log"
    spike_window: Annotated[int, Range(ge=8)] = 64  # past losses that a loss is compared with
    spike_deviations: Annotated[float, Range(gt=0)] = 10.0  # robust standard deviations above their median that make a spike
    spike_reach: Positive = 1  # steps whose rows a rewind leaves out: the spike's and those before it
    max_rewinds: Positive = 3  # to one checkpoint; one more spike stops the run with exit code 3
    skip_rows: str = ""  # list of rows that are not fed, as tools/autopsy.py writes it
    recheck_every: Count = 0  # steps between two that are computed twice and compared bit for bit; 0: never
    watchdog_seconds: Annotated[float, Range(ge=0)] = 0.0  # without a step, evaluation or save coming to its end, the run stops; 0: never


@dataclass(frozen=True)
class Checkpoint:
    every: Duration = "10%"
    keep: Positive = 2  # the last k
    keep_every: Duration = 0  # and every n for good; 0: none


@dataclass(frozen=True)
class Eval:
    every: Duration = "25%"
    batch_size: Count = 0  # 0: the training batch size
    max_rows: Count = 0  # rows of each source scored inside training; 0: the whole split
    split: str = "validation"
    stride: Count = 0  # of causal text: windows begin so many tokens apart and score what is new; 0: they do not overlap
    ngram_orders: tuple[int, ...] = ()  # counted byte n-grams that `evaluate` prints beside the model


@dataclass(frozen=True)
class Log:
    every: Duration = 10
    tensorboard: bool = True
