#!/usr/bin/env bash
# From nothing to a trained, evaluated model: environment, corpus, vocabulary, token cache, training, evaluation, samples.
#   bash tools/quickstart.sh [--config.PATH=VALUE ...]
# Run again, it does what is left to do. PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/quickstart.py
run=runs/quickstart
say() { printf '\n== %s  [%dm%02ds]\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)) >&2; }

say "1/6 environment"
# The tests' environment, where it is there already, holds all that is needed.
if ! ls "${VENV:-.venv}"/.installed-*dev* >/dev/null 2>&1; then bash tools/setup_env.sh tasks; fi
python=${VENV:-.venv}/bin/python

say "2/6 corpus: Python's own standard library"
"$python" tools/build_corpus.py --out data/stdlib

say "3/6 vocabulary"
"$python" tools/train_vocabulary.py --config="$config" "$@" --out data/stdlib/vocabulary-2048.model --size 2048

say "4/6 token cache"
"$python" tools/cache_tasks.py --config="$config" "$@"

say "5/6 training"
"$python" tools/train.py --config="$config" "$@" --workdir="$run"

say "6/6 evaluation and samples"
"$python" tools/evaluate.py --config="$config" "$@" --workdir="$run"
"$python" tools/sample.py --workdir="$run" --num_tokens=96

say "done"
cat >&2 <<END
  run         $run/                (config.json, manifest.json, log.txt, metrics.jsonl, tensorboard/)
  curves      $run/curves.png
  checkpoints $run/checkpoints/
  corpus      data/stdlib/         token cache  data/cache/
  next        $python tools/sample.py --workdir=$run --prompt='class Stack:'
              $python tools/inspect_data.py --config=$config --step=100
              $python tools/explain_config.py --config=$config
END
