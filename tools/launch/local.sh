#!/usr/bin/env bash
# Several processes on this machine as one run: a rehearsal of a pod on CPUs, or one process for each GPU.
#   PROCESSES=2 bash tools/launch/local.sh --config=configs/quickstart.py --config.mesh.data=2 [more flags of tools/train.py]
# PROCESSES  how many (default 2)
# DEVICES    CPU devices of each (default 1); the mesh has PROCESSES x DEVICES
# GPUS=1     process i has GPU i, and no other; DEVICES does not apply
# TOOL       another of the tools that take these flags (default train); PYTHON the interpreter (default: .venv's)
# Process 0 talks here, the others into $LOGS/process-I.log (default: a new folder under /tmp). A signal reaches all of them.
# Ends with process 0's exit code, or the first other one that is not 0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

count=${PROCESSES:-2}
python=${PYTHON:-${VENV:-.venv}/bin/python}
tool=tools/${TOOL:-train}.py
if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then
  echo "error: PROCESSES=$count: expected a number of processes, at least 1" >&2
  exit 2
fi
if ! command -v "$python" >/dev/null; then
  echo "error: no interpreter at $python; make one with: bash tools/setup_env.sh, or name it: PYTHON=..." >&2
  exit 2
fi
logs=${LOGS:-$(mktemp -d -t pretrainx-processes-XXXXXX)}
mkdir -p "$logs"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

start() { # the number of a process, and flags of the tool
  local id=$1
  shift
  if [[ -n ${GPUS:-} ]]; then
    export CUDA_VISIBLE_DEVICES=$id
  else
    export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1}
  fi
  exec "$python" "$tool" "$@" --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$id"
}

started=()
for ((id = 1; id < count; id++)); do
  start "$id" "$@" >"$logs/process-$id.log" 2>&1 &
  started+=($!)
done
start 0 "$@" &
started+=($!)
trap 'kill -TERM "${started[@]}" 2>/dev/null || true' TERM INT
echo "$count processes; what the others say: $logs/" >&2

ended() { # of a process: waits again where a signal cut the wait short
  local code=0
  wait "$1" || code=$?
  while kill -0 "$1" 2>/dev/null; do
    code=0
    wait "$1" || code=$?
  done
  return "$code"
}
code=0
ended "${started[-1]}" || code=$?
for pid in "${started[@]::${#started[@]}-1}"; do
  other=0
  ended "$pid" || other=$?
  if ((code == 0)); then code=$other; fi
done
exit "$code"
