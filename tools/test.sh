#!/usr/bin/env bash
# Makes the environment if needed and runs the tests.
#   bash tools/test.sh [--fast] [PYTEST ARGUMENTS]      --fast leaves out the tests marked slow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh dev,plan
arguments=(-n 2 --dist=loadfile)  # module-wide fixtures are then built once
for argument in "$@"; do
  if [[ $argument == --fast ]]; then arguments+=(-m "not slow"); else arguments+=("$argument"); fi
done
exec "${VENV:-.venv}/bin/python" -m pytest "${arguments[@]}"
