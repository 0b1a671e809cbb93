#!/usr/bin/env bash
# Makes the environment, or does nothing when it is up to date.
#   bash tools/setup_env.sh [EXTRAS]      EXTRAS: comma-separated extras of setup.cfg, default "dev,plan"
# PYTHON chooses the interpreter (3.11 or newer), VENV the folder (default .venv in the clone).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1-dev,plan}
venv=${VENV:-.venv}
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

fail() {
  echo "error: $*" >&2
  exit 2
}

choose_python() {
  if [[ -n ${PYTHON:-} ]]; then
    "$PYTHON" -c "$new_enough" 2>/dev/null || fail "PYTHON=$PYTHON is not a Python of 3.11 or newer"
    echo "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c "$new_enough" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1 || true); install one, or name it with PYTHON=/path/to/python3.11"
}

make_venv() {
  local python
  python=$(choose_python)
  echo "making $venv with $("$python" --version)" >&2
  # Debian splits ensurepip off into python3-venv; where it is missing, the interpreter's own pip can do the same.
  if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv --without-pip "$venv" || fail "cannot make $venv with $python: install its venv module (Debian, Ubuntu: apt install python3-venv)"
    "$python" -m pip --python "$venv/bin/python" install --quiet pip || fail "cannot install pip into $venv: install python3-venv or python3-pip"
  fi
}

# Shows the last step of a pip that runs in the background: in place on a terminal, else now and then.
watch_pip() {
  local pid=$1 log=$2 start=$SECONDS shown=$SECONDS step
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    step=$(grep -E '^ *(Collecting|Downloading|Building|Installing) ' "$log" | tail -n 1 | sed 's/^ *//' | cut -c 1-70 || true)
    if [[ -t 2 ]]; then
      printf '\r\033[2K  %4ds  %s' $((SECONDS - start)) "$step" >&2
    elif ((SECONDS - shown >= 15)); then
      shown=$SECONDS
      printf '  %4ds  %s\n' $((SECONDS - start)) "$step" >&2
    fi
  done
  if [[ -t 2 ]]; then printf '\r\033[2K' >&2; fi
}

if [[ ! -x $venv/bin/python ]]; then make_venv; fi

# The folder is part of the stamp because the install is editable: a moved clone needs a new one.
stamp=$venv/.installed-${extras//,/-}
state=$({ cat setup.cfg pyproject.toml constraints.txt; pwd; "$venv/bin/python" --version; } | "$venv/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [[ -f $stamp && $(<"$stamp") == "$state" ]]; then exit 0; fi

log=$venv/install.log
echo "installing pretrainx[$extras] into $venv, log in $log" >&2
"$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".${extras:+[$extras]}" >"$log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null' INT TERM
watch_pip "$pid" "$log"
if ! wait "$pid"; then
  tail -n 20 "$log" >&2
  fail "installing pretrainx[$extras] failed; the whole log is $log"
fi
echo "$state" >"$stamp"
echo "installed in ${SECONDS}s" >&2
