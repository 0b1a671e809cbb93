"""cuDNN's attention calls in compiled text: what they compute, and the memory that they ask for when they run.

XLA without a GPU leaves a call's plan to the run, and its workspace empty. What cuDNN asks for then is known: the sizes below are
those that cuDNN 9.28 gave, but for an alignment, when it planned 18 backward passes for an H100 and 7 each for an A100 and a B200.
"""

import json
import math
import re

from pretrainx.plan.hlo import Computation, Module, Op

TARGET = "__cudnn$fmha"
PRODUCTS = {False: 2, True: 5}  # forward; backward in one call: the scores again, and four gradients


def is_attention(op: Op) -> bool:
    return op.opcode == "custom-call" and op.target.startswith(TARGET)


def flops(computation: Computation, op: Op, visible: float) -> dict[str, float]:
    """By element type. `visible`: the share of the scores that a causal call computes.

    What a mask beside it hides is computed: the kernel knows of causality and of a causal window alone.
    """
    config = _config(op)
    scores = _scores(config)
    if not scores:
        return {}
    queries = computation.operand(op, 0).result[0]
    share = visible if "CAUSAL" in config.get("mask_type", "") else 1.0
    if window := int(config.get("sliding_window_length", 0)):
        share = min(share, window / scores[3])
    return {queries.dtype: 2.0 * PRODUCTS["Backward" in op.target] * math.prod(scores) * queries.dims[-1] * share}


def workspace_bytes(module: Module, generation: int = 9) -> int:
    """The largest workspace of the calls in a module; they run one after the other. `generation`: of the GPU, 8 is Ampere."""
    calls = [(c, op) for c in module.computations.values() for op in c.ops if is_attention(op)]
    return max((_workspace(c, op, generation) for c, op in calls), default=0)


def _workspace(computation: Computation, op: Op, generation: int) -> int:
    scores = _scores(_config(op))
    if not scores or "Backward" not in op.target:
        return 0
    rows, heads, length, key_length = scores
    queries, keys = (computation.operand(op, i).result[0] for i in (0, 1))
    sums = 4 * rows * heads * length
    if sum(len(array.dims) == 4 for array in op.result) > 3:  # a gradient of the bias: those of all scores are written down
        return 2 * math.prod(scores) + sums
    gathered = 4 * rows * heads * length * queries.dims[-1] * (2 if generation == 8 else 1)  # queries' gradient in float32
    grouped = queries.size // length != keys.size // key_length  # keys' and values' for each query head, summed afterwards
    return gathered + sums + (4 * rows * heads * key_length * queries.dims[-1] if grouped else 0)


def _config(op: Op) -> dict:
    found = re.search(r"backend_config=(\{.*\})", op.attributes)
    return json.loads(found[1]).get("cudnn_fmha_backend_config", {}) if found else {}


def _scores(config: dict) -> list[int]:
    """Rows, heads, queries and keys of the scores; [] where they are not given."""
    dims = [int(n) for n in config.get("intermediate_tensor_shape", {}).get("dimensions", ())]
    return dims if len(dims) == 4 else []
