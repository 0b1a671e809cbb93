#!/usr/bin/env bash
# A run on a SLURM cluster, one process a node with all of its GPUs. From the login node, in the clone:
#   sbatch --nodes=8 tools/launch/slurm.sh --config=configs/llama3_8b.py --workdir=/shared/runs/llama3_8b [more flags]
# Change the #SBATCH lines to your cluster. The clone, its .venv, the token cache and --workdir lie on a file system that all nodes
# see. For one process a GPU instead: --ntasks-per-node=8 --gpus-per-task=1 (each then takes the device of its number on the node).
# Before the time limit the run is told to save and end (exit code 75), and the job queues again: it goes on where it was.
#SBATCH --job-name=pretrainx
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}"

# --kill-on-bad-exit: where one process is lost the others can only wait for it.
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" tools/train.py --coordinator=auto "$@" &
step=$!
# SLURM sends the signal to this script alone (B:); srun hands it on to every process.
trap 'kill -TERM "$step" 2>/dev/null' TERM
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # the signal ended the wait, not the step
  code=0
  wait "$step" || code=$?
done
if ((code == 75)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
