"""How processes find each other, and the scripts that start them: read, checked against the tools' flags, and run."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, command, environment, finish, metrics, settings, write_config

from pretrainx.core.errors import InputError
from pretrainx.parallel import multihost, startup
from pretrainx.parallel.startup import Place

LAUNCH = ROOT / "tools" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))
SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "gpu[07-09,12]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "4",
}  # fmt: skip


# ---- finding the others


def test_a_slurm_task_alone_on_its_node_has_all_devices() -> None:
    assert startup.from_environment(SLURM) == Place("gpu07:61441", 4, 2)


def test_slurm_tasks_that_share_a_node_have_a_device_each() -> None:
    shared = SLURM | {"SLURM_NTASKS": "32", "SLURM_PROCID": "19", "SLURM_LOCALID": "3"}
    assert startup.from_environment(shared) == Place("gpu07:61441", 32, 19, (3,))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[003,007-9],x", "n003"), ("r1-n[01,05]-ib,c", "r1-n01-ib"), ("b-2,n[1-2]", "b-2")],
)
def test_the_first_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert startup.first_host(nodes) == first


JOBSET = {
    "JOBSET_NAME": "run", "REPLICATED_JOB_NAME": "node", "JOB_INDEX": "1", "JOB_COMPLETION_INDEX": "2", "PODS_PER_JOB": "4",
    "NUM_PROCESSES": "8",
}  # fmt: skip


def test_a_pod_of_a_jobset_counts_the_jobs_before_its_own() -> None:
    assert startup.from_environment(JOBSET) == Place("run-node-0-0.run:8476", 8, 6)
    assert startup.from_environment(JOBSET | {"TPU_WORKER_ID": "0"}) is None  # TPUs are found by JAX


def test_elsewhere_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ({}, dict(list(SLURM.items())[:4]), dict(list(JOBSET.items())[1:])):
        assert startup.from_environment(names) is None

    def finds_nothing(**_: Any) -> None:  # as JAX's own does, whose real one refuses first where a test before has computed
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", finds_nothing)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    with pytest.raises(InputError, match="--coordinator=auto: found no TPU pod, SLURM step or JobSet here"):
        multihost.start("auto", None, None)


@pytest.mark.parametrize("address", ["10.0.0.5", "host:", "host:port", ":8476"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"expected ADDRESS:PORT, such as 10\.0\.0\.5:8476"):
        startup.from_flags(address, 2, 0)


def test_what_is_found_is_what_jax_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *words, **more: told.append((words, more["cluster_detection_method"])))
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    multihost.start("auto", None, None)
    multihost.start("10.0.0.5:1", 2, 1)
    assert told == [(("gpu07:61441", 4, 2, None), "deactivate"), (("10.0.0.5:1", 2, 1, None), "deactivate")]


# ---- the scripts


@pytest.fixture(scope="module")
def accepted() -> set[str]:
    """The flags of tools/train.py, from its help."""
    from tools import train

    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        train.main(["--help"])
    return set(re.findall(r"--[a-z_]+", said.getvalue()))


def test_there_is_a_script_for_each_way() -> None:
    assert {path.name for path in [*SCRIPTS, *MANIFESTS]} == {
        "local.sh", "slurm.sh", "tpu_pod.sh", "gke_jobset.yaml", "gke_jobset_gpu.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_and_uses_flags_that_exist(path: Path, accepted: set[str]) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    used = {flag for line in text.splitlines() for flag in re.findall(r"--[a-z_]+", line.partition("train.py")[2])}
    used |= set(re.findall(r"--(?:coordinator|num_processes|process_id)\b", text))
    assert "--coordinator" in used and used - {"--config"} <= accepted, used - accepted
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).exists()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_starts_as_many_pods_as_it_says(path: Path, accepted: set[str]) -> None:
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load(path.read_text())
    assert manifest["kind"] == "JobSet" and manifest["apiVersion"].startswith("jobset.x-k8s.io/")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["parallelism"] == job["completions"] and job["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    assert (ROOT / container["command"][1]).exists() and container["command"][1] == "tools/train.py"
    words = dict(word.partition("=")[::2] for word in container["command"][2:])
    assert set(words) <= accepted and words["--coordinator"] == "auto" and (ROOT / words["--config"]).exists()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]} and words["--workdir"].startswith("/runs/")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, 3] and rule["onExitCodes"]["containerName"] == container["name"]
    if "env" in container:  # what JAX does not find by itself, from_jobset reads
        given = {entry["name"]: entry.get("value", "0") for entry in container["env"]} | {"JOB_COMPLETION_INDEX": "1"}
        given |= {"JOBSET_NAME": manifest["metadata"]["name"], "REPLICATED_JOB_NAME": replicated["name"]}
        place = startup.from_environment(given)
        assert place == Place("pretrainx-node-0-0.pretrainx:8476", replicated["replicas"] * job["parallelism"], 1)
        assert {"containerPort": startup.JOBSET_PORT} in container["ports"]


# ---- real processes


def local(*words: str, processes: int, devices: int = 1) -> dict[str, Any]:
    """The closing numbers of a run that local.sh started."""
    names = environment(None) | {"PROCESSES": str(processes), "DEVICES": str(devices), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", LAUNCH / "local.sh", *words, "--json"], env=names, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


RUNS = [
    (2, 1, "fsdp", {"data": 1, "fsdp": 2}),
    (4, 1, "fsdp_tp", {"data": 1, "fsdp": 2, "tensor": 2}),  # two processes hold the same rows
    (2, 2, "fsdp_cp", {"data": 1, "sequence": 4}),
    (2, 1, "dp", {"data": 1, "stage": 2}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices", "layout", "axes"), RUNS)
def test_processes_have_the_losses_of_one(
    cache_dir: Path, tmp_path: Path, processes: int, devices: int, layout: str, axes: dict[str, int]
) -> None:
    """The same rows and, but for float32 sums in another order, the same losses at every step."""
    sections: dict[str, Any] = {
        "train": {"steps": 5}, "log": {"every": 1}, "model": {"num_layers": 2}, "checkpoint": {"every": 5},
        "eval": {"every": 5, "max_rows": 11},
    }  # fmt: skip
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, **sections))
    alone = finish(command(f"--config={config}", f"--workdir={tmp_path / 'alone'}", "--json"))
    shape = [f"--config.mesh.{axis}={size}" for axis, size in axes.items()]
    result = local(
        f"--config={config}", f"--workdir={tmp_path / 'many'}", f"--config.layout={layout}", *shape, processes=processes, devices=devices
    )
    assert result["rows_sha256"] == alone["rows_sha256"] and result["step"] == alone["step"] == 5
    ours, theirs = metrics(tmp_path / "many"), metrics(tmp_path / "alone")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 5]  # the last with its evaluation
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            if name.endswith(("loss", "bits_per_byte")):
                assert row[name] == pytest.approx(other[name], rel=2e-5), name
            elif name.endswith(("/tokens", "/bytes")):
                assert row[name] == other[name], name


def test_a_wrong_number_of_processes_is_refused() -> None:
    done = subprocess.run(["bash", LAUNCH / "local.sh"], env=os.environ | {"PROCESSES": "two"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: PROCESSES=two")


@pytest.mark.slow
def test_what_stops_the_processes_is_what_local_ends_with(tmp_path: Path) -> None:
    names = environment() | {"PROCESSES": "2", "PYTHON": sys.executable, "LOGS": str(tmp_path)}
    done = subprocess.run(
        ["bash", LAUNCH / "local.sh", "--config=configs/none.py"], env=names, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 2 and "error: " in done.stderr and "error: " in (tmp_path / "process-1.log").read_text()
