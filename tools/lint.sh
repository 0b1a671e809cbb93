#!/usr/bin/env bash
# Style, formatting and types: what CI asks of every change. `ruff check --fix . && ruff format .` mends most of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh dev,plan
PATH=$(cd "${VENV:-.venv}/bin" && pwd):$PATH
ruff check .
ruff format --check .
mypy pretrainx tools
