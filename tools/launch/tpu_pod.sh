#!/usr/bin/env bash
# A run on Cloud TPU VMs, driven from your own machine with gcloud. The slice exists already, for example by
#   gcloud compute tpus tpu-vm create my-pod --zone=us-west4-a --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#
#   bash tools/launch/tpu_pod.sh setup my-pod us-west4-a           # this commit and its environment, onto every host
#   bash tools/launch/tpu_pod.sh train my-pod us-west4-a --config=configs/decoder_1b.py --workdir=/mnt/shared/runs/decoder_1b
#   bash tools/launch/tpu_pod.sh log my-pod us-west4-a             # what the first host says, as it says it
#   bash tools/launch/tpu_pod.sh stop my-pod us-west4-a            # SIGTERM: the run saves, and ends
#
# The slices of a multi-slice run (queued resources, --node-count) are named together, with commas: my-pod-0,my-pod-1. Every host
# runs the same command and finds its place by itself. --workdir and the token cache lie where all hosts see them (a mounted
# bucket or Filestore). The run goes on after you log out, under tools/supervise.py, which starts it again after a crash.
# PROJECT chooses the project (default: gcloud's own).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}
[[ $# -ge 3 ]] || usage
action=$1 zone=$3
IFS=, read -ra slices <<<"$2"
shift 3

everywhere() { # a command, run by all hosts of all slices at once
  local slice running=()
  for slice in "${slices[@]}"; do
    gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" ${PROJECT:+--project="$PROJECT"} --worker=all --command="$1" &
    running+=($!)
  done
  for pid in "${running[@]}"; do wait "$pid"; done
}

case $action in
  setup)
    archive=$(mktemp -t pretrainx-XXXXXX.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    for slice in "${slices[@]}"; do
      gcloud compute tpus tpu-vm scp "$archive" "$slice:pretrainx.tar.gz" --zone="$zone" ${PROJECT:+--project="$PROJECT"} --worker=all
    done
    everywhere 'mkdir -p pretrainx && tar -xzf pretrainx.tar.gz -C pretrainx && cd pretrainx && bash tools/setup_env.sh tpu'
    ;;
  train)
    words=$(printf ' %q' "$@") # quoted once more for the shell over there
    everywhere "cd pretrainx && setsid nohup .venv/bin/python tools/supervise.py -- .venv/bin/python tools/train.py --coordinator=auto$words >train.log 2>&1 </dev/null & echo \$! >pretrainx/train.pid; sleep 1"
    ;;
  log)
    gcloud compute tpus tpu-vm ssh "${slices[0]}" --zone="$zone" ${PROJECT:+--project="$PROJECT"} --worker=0 --command='tail -n 40 -f pretrainx/train.log'
    ;;
  stop)
    everywhere 'kill -TERM -- "-$(cat pretrainx/train.pid)"'
    ;;
  *) usage ;;
esac
