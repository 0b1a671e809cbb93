"""Our loader against SeqIO's packing feature converter on the same documents, and its share of a training step.

    python benchmarks/loader.py [--config=configs/quickstart.py] [--corpus=stdlib_code] [--rounds=9] [--json]

Needs the config's token cache (tools/cache_tasks.py) and pretrainx[tasks]. Both read the same tokenised documents of one
corpus into batches of the config's shape, shuffled, endlessly, in this process: ours from the token cache through its
reading thread, SeqIO from TFRecords through LMFeatureConverter(pack=True) with tf.data's own parallelism. SeqIO trims
what is longer than a sequence, so its records are cut to that length beforehand: it loses no token, and it is spared
the cutting. Only tokens count, not padding. Rounds alternate (A B B A ...), figures are medians over rounds; CPU
seconds are those of all threads of the process. The share is of the loader's own time, were nothing read ahead; the
data wait is what a training loop that reads ahead really waits.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import jax
import numpy as np

from pretrainx.core import cli
from pretrainx.core.logs import log
from pretrainx.core.sections import Data
from pretrainx.data.loader import Mixture, RowBuilder, batches, open_mixture, rows_digest
from pretrainx.train import build, experiment

WARM_UP = 2  # rounds or steps that fill caches, buffers and allocators


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser, default="configs/quickstart.py")
    parser.add_argument("--corpus", default="stdlib_code", help="the corpus that both read, under the config's objective")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--steps", type=int, default=1500, help="batches a round: many, since both fill their buffers while the other is timed"
    )
    parser.add_argument("--train_steps", type=int, default=40, help="training steps timed for the share; 0: none")
    parser.add_argument("--json", action="store_true")
    args, config = cli.parse_config_args(parser, argv)
    checked = experiment.load(config)
    result = compare(checked.data, args.corpus, checked.train.batch_size, args.rounds, args.steps)
    if args.train_steps:
        result |= share_of_step(checked, args.train_steps)
    if args.json:
        cli.print_json(result)
    else:
        for key, value in result.items():
            print(f"{key:>34} {value:,.4g}" if value < 1e4 else f"{key:>34} {value:,.0f}")
    return 0


def compare(data: Data, corpus: str, batch_size: int, rounds: int, steps: int) -> dict[str, float]:
    """Tokens a second of both, by the wall clock and by CPU time, and their ratios."""
    mixture = open_mixture(replace(data, mixture={corpus: 1.0}, objectives={}), "train")
    with tempfile.TemporaryDirectory() as folder:
        readers: dict[str, Callable[[], int]] = {
            "ours": _ours(mixture, batch_size),
            "seqio": _seqio(mixture, batch_size, Path(folder)),
        }
        wall: dict[str, list[float]] = {name: [] for name in readers}
        cpu: dict[str, list[float]] = {name: [] for name in readers}
        for number in range(WARM_UP + rounds):
            for name in list(readers) if number % 2 else list(readers)[::-1]:
                before, used = time.perf_counter(), time.process_time()
                tokens = sum(readers[name]() for _ in range(steps))
                if number >= WARM_UP:
                    wall[name].append(tokens / (time.perf_counter() - before))
                    cpu[name].append(tokens / (time.process_time() - used))
            log(f"round {number + 1} of {WARM_UP + rounds}")
    speeds = {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in readers}
    return {
        "ours_tokens_per_second": speeds["ours"][0], "seqio_tokens_per_second": speeds["seqio"][0],
        "ratio": speeds["ours"][0] / speeds["seqio"][0],
        "ours_tokens_per_cpu_second": speeds["ours"][1], "seqio_tokens_per_cpu_second": speeds["seqio"][1],
        "ratio_by_cpu": speeds["ours"][1] / speeds["seqio"][1],
    }  # fmt: skip


def _ours(mixture: Mixture, batch_size: int) -> Callable[[], int]:
    read = batches(
        RowBuilder(mixture), batch_size=batch_size, local_rows=np.arange(batch_size), start=0, stop=1 << 40, prefetch=4, workers=0
    )
    return lambda: int(np.count_nonzero(next(read).features["segment_ids"]))


def _seqio(mixture: Mixture, batch_size: int, folder: Path) -> Callable[[], int]:
    import seqio
    import tensorflow as tf

    source, length = mixture.sources[0], mixture.sequence_length
    with tf.io.TFRecordWriter(str(folder / "train.tfrecord-00000-of-00001")) as out:
        for tokens in _pieces(mixture, length):
            feature = {"targets": tf.train.Feature(int64_list=tf.train.Int64List(value=tokens))}
            out.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    task = seqio.Task(
        "loader_benchmark",
        source=seqio.TFExampleDataSource(
            {"train": str(folder / "train.tfrecord*")}, {"targets": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)}
        ),
        output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(mixture.vocabulary.size), add_eos=False)},
        preprocessors=[lambda dataset: dataset.map(lambda x: {"targets": tf.cast(x["targets"], tf.int32)}, tf.data.AUTOTUNE)],
    )
    dataset = task.get_dataset({"targets": length}, "train", shuffle=True, seed=0, num_epochs=None)
    converted = (
        seqio.LMFeatureConverter(pack=True)(dataset, {"targets": length}).batch(batch_size).prefetch(4)
    )  # as ours; automatic, it would do seconds of work while ours is timed
    read = converted.as_numpy_iterator()
    log(f"{source.corpus}: {source.windows.num_tokens:,} tokens for both")
    return lambda: int(np.count_nonzero(next(read)["decoder_segment_ids"]))


def _pieces(mixture: Mixture, length: int) -> Iterator[np.ndarray]:
    """Every document of the first source, cut to sequences."""
    cache = mixture.sources[0].windows.cache
    for index in range(cache.num_documents):
        tokens = cache.read(*cache.document_span(index))
        yield from (tokens[start : start + length] for start in range(0, len(tokens), length))


def share_of_step(checked: experiment.Experiment, steps: int) -> dict[str, float]:
    """Milliseconds of a training step and of making its batch, alternating; and the wait of a loop that reads ahead."""
    mixture = open_mixture(checked.data, "train")
    program, builder = build.from_mixture(checked, mixture, jax.devices()[:1])
    batch_size = checked.train.batch_size
    compiled, state = program.compile_train(), program.init_state()
    order, rows = mixture.order(), np.arange(batch_size)
    times: dict[str, list[float]] = {"loader": [], "loader_cpu": [], "step": [], "wait": []}

    def train(features: dict[str, np.ndarray], state: Any) -> Any:
        before = time.perf_counter()
        state, metrics = compiled(state, jax.device_put(features, program.batch_shardings))
        jax.block_until_ready((state, metrics))
        times["step"].append(time.perf_counter() - before)
        return state

    for number in range(WARM_UP + steps):
        before, used = time.perf_counter(), time.process_time()
        batch = builder.build(order.rows(number * batch_size, (number + 1) * batch_size))
        rows_digest(rows + number * batch_size, batch)
        times["loader"].append(time.perf_counter() - before)
        times["loader_cpu"].append(time.process_time() - used)
        state = train(batch, state)
    ahead = batches(
        builder, batch_size=batch_size, local_rows=rows, start=0, stop=WARM_UP + steps, prefetch=checked.data.prefetch, workers=0
    )
    for _ in range(WARM_UP + steps):
        before = time.perf_counter()
        features = next(ahead).features
        times["wait"].append(time.perf_counter() - before)
        state = train(features, state)
    median = {name: 1000 * statistics.median(t[WARM_UP:]) for name, t in times.items()}
    return {
        "train_step_ms": median["step"], "loader_ms_per_step": median["loader"], "loader_cpu_ms_per_step": median["loader_cpu"],
        "loader_share_of_step": median["loader"] / median["step"],
        "data_wait_ms": median["wait"], "data_wait_share_of_step": median["wait"] / median["step"],
    }  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
