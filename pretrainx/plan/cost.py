"""What a run costs: tokens a second, days, chip-hours, money; and the sizes that its FLOPs would train best."""

import math
from typing import Any

from pretrainx.core.prices import DATED, DOLLARS_AN_HOUR
from pretrainx.plan.topology import Topology

CHINCHILLA_TOKENS = 20.0  # tokens a weight at the optimum, about (Hoffmann 2022, table 3)


def optimum(run_flops: float) -> dict[str, float]:
    """Weights N and tokens D with the least loss for C = 6 N D FLOPs, by the rule D = 20 N (Hoffmann 2022, approach 1 and 2).

    >>> {name: float(f"{value:.2g}") for name, value in optimum(5.76e23).items()}
    {'chinchilla_parameters': 69000000000.0, 'chinchilla_tokens': 1400000000000.0}
    """
    weights = math.sqrt(run_flops / (6 * CHINCHILLA_TOKENS))
    return {"chinchilla_parameters": weights, "chinchilla_tokens": CHINCHILLA_TOKENS * weights}


def run_cost(topology: Topology, step_seconds: float, tokens_per_step: float, tokens: float, price: float | None = None) -> dict[str, Any]:
    """Of training on so many tokens, all chips busy all the time: restarts, evaluation and idle hours come on top."""
    steps = tokens / tokens_per_step
    hours = steps * step_seconds / 3600
    chip_hours = hours * topology.chips
    dollars = DOLLARS_AN_HOUR[topology.chip.name] if price is None else price
    return {
        "tokens": tokens,
        "steps": steps,
        "tokens_per_second": tokens_per_step / step_seconds,
        "days": hours / 24,
        "chip_hours": chip_hours,
        "dollars_per_chip_hour": dollars,
        "dollars": chip_hours * dollars,
        "price_source": DATED if price is None else "given",
    }


def run_flops(parameters: int, tokens: float, flops_per_token: float) -> dict[str, float]:
    """FLOPs of the whole run: 6 N D, as papers state it (Kaplan 2020; attention's scores left out), and with the scores.

    The optimum is that of the first.
    """
    plain = 6.0 * parameters * tokens
    return {
        "run_flops": plain,
        "run_model_flops": flops_per_token * tokens,
        "tokens_per_parameter": tokens / parameters,
    } | optimum(plain)
