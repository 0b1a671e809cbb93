"""What is kept of a layer changes memory and no result: every policy by name and by parts, and what each keeps."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import numpy_params
from test_models import batch_of, build, loss_and_grads, scored_batch
from test_plan import plan, result

from pretrainx.core.errors import InputError
from pretrainx.models import attention, remat, rotary
from pretrainx.plan.jaxpr import count_flops

PARTS = (
    "save:attention_out",
    "save:query,key,value,attention_out,mlp_in,mlp_up,mlp_gate,mlp_hidden",
    "offload:mlp_in",
    "save:attention_out+offload:mlp_hidden, mlp_in",
)


@pytest.fixture(scope="module")
def scored() -> dict[str, jax.Array]:
    return scored_batch()


@pytest.fixture(scope="module")
def plain(scored: dict[str, jax.Array]) -> tuple[Any, Any]:
    model = build()
    params = numpy_params(model, 1)
    return params, loss_and_grads(model, scored, params)


NAMES = [*(name for name in remat.POLICIES if name != "none"), *PARTS]


@pytest.mark.parametrize("name", [n if n == "minimal_attention_out" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_policy_changes_no_gradient(name: str, scored: dict[str, jax.Array], plain: tuple[Any, Any]) -> None:
    params, wanted = plain
    found = loss_and_grads(build(remat=name), scored, params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        # Sums of 48 float32 token losses in another order.
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def kept_by(name: str) -> str:
    """What JAX says is kept for the backward pass of one layer's model."""
    model, batch, said = build(remat=name, num_layers=1, scan_layers=False), batch_of(), io.StringIO()
    with contextlib.redirect_stdout(said):
        jax.ad_checkpoint.print_saved_residuals(lambda params: model.merge(params)(batch).hidden.sum(), numpy_params(model))
    return said.getvalue()


@pytest.mark.parametrize(
    ("name", "names", "on_host"),
    [
        ("full", set(), 0),
        ("attention_out", {"attention_out"}, 0),
        ("save:mlp_in,query", {"mlp_in", "query"}, 0),
        ("save:mlp_up,mlp_gate", {"mlp_up", "mlp_gate"}, 0),
        ("save:key, value + offload:mlp_in,mlp_hidden", {"key", "value"}, 2),
        ("offload_attention_out", set(), 1),
        ("minimal_attention_out", {"attention_out"}, 0),
    ],
)
def test_a_policy_keeps_the_parts_it_names(name: str, names: set[str], on_host: int) -> None:
    said = kept_by(name)
    assert set(re.findall(r"named '(\w+)'", said)) == names and said.count("<host>") == on_host
    # Beside them are the products of matrices, or none: of a layer with a gate, all seven but the last.
    assert said.count("dot_general") == (6 if name.startswith("minimal") else 0)


@pytest.mark.parametrize("name", ["dots", "minimal", "minimal_attention_out", "offload_minimal"])
def test_an_exchange_of_halves_is_never_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a TPU rotations are products too, of float32 as long as queries and keys."""
    wanted = kept_by(name)
    monkeypatch.setattr(attention, "rotary", rotary.rotary_by_product)
    assert kept_by(name).count("dot_general") == wanted.count("dot_general")


@pytest.mark.parametrize(("name", "calls"), [("full", 4), ("attention_out", 3), ("save:mlp_in", 4), ("minimal_attention_out", 3)])
def test_the_kernel_need_not_run_again_where_its_result_is_kept(name: str, calls: int) -> None:
    """Forward, again for the backward pass unless kept, and two kernels of the backward pass."""
    model = build(remat=name, attention_kernel="splash", head_dim=128, max_length=128)
    batch = batch_of(128)
    gradient = jax.jit(jax.grad(lambda params: model.merge(params)(batch).hidden.sum()))
    lowered = gradient.trace(numpy_params(model)).lower(lowering_platforms=("tpu",)).as_text()
    assert lowered.count("tpu_custom_call") == calls


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ful", "train.remat: unknown policy 'ful'; did you mean 'full'.*save:NAMES"),
        ("keep:query", "unknown kind 'keep' in 'keep:query'; expected save:NAMES"),
        ("save:attention", "'attention' in 'save:attention' is no part of a layer; did you mean 'attention_out'"),
        ("save:", "'' in 'save:' is no part"),
        ("save:query+offload:query", "'query' stands twice"),
    ],
)
def test_policies_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message).replace(r"\.\*", ".*")):
        remat.policy(name)


needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the [plan] extra (libtpu) is not installed")


@needs_compiler
@pytest.mark.slow
def test_what_is_offloaded_compiles_for_a_tpu(tmp_path: Path) -> None:
    """That it compiles, and fits; how much of it leaves the chip is the compiler's to say, and is not asserted."""
    assert result(plan(tmp_path, "--topology=v5e:2x2", "--config.train.remat=offload:mlp_hidden,attention_out"))["fits"]


@pytest.mark.parametrize("policy", ["none", "full", pytest.param("minimal", marks=pytest.mark.slow)])
def test_an_mlp_in_parts_changes_no_gradient(policy: str, scored: dict[str, jax.Array], plain: tuple[Any, Any]) -> None:
    params, wanted = plain
    found = loss_and_grads(build(remat=policy, mlp_chunks=4), scored, params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_an_mlp_in_parts_holds_less() -> None:
    """The compiler's temporaries of a rematerialised step of wide MLPs: less in four parts; and the products are not done more often."""
    wide = {"mlp_dim": 2048, "remat": "full", "num_layers": 2}
    batch = batch_of(length=64, documents=False)

    def compiled(parts: int) -> Any:
        model = build(**wide, mlp_chunks=parts)
        grads = jax.grad(lambda params: model.merge(params)(batch).hidden.astype("float32").sum())
        return jax.jit(grads).lower(model.abstract).compile(), count_flops(jax.make_jaxpr(grads)(model.abstract))

    (whole, flops), (parts, again) = compiled(1), compiled(4)
    assert parts.memory_analysis().temp_size_in_bytes < 0.6 * whole.memory_analysis().temp_size_in_bytes
    assert again == pytest.approx(flops, rel=1e-3)
