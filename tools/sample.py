"""Text from a run's checkpoint: continues prompts, greedily or by sampling."""

import argparse
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.errors import InputError

PROMPTS = ("def ", "The ", "import ")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/sample.py --workdir=runs/quickstart --prompt='def main(' --temperature=0.8 --top_p=0.95",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--prompt", action="append", help="what to continue; may be given several times")
    parser.add_argument("--num_tokens", type=int, default=128, help="tokens to make (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top_k", type=int, default=0, help="keep the k most likely tokens; 0: all (default: %(default)s)")
    parser.add_argument(
        "--top_p", type=float, default=0.95, help="keep the most likely tokens up to this probability (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print prompts and continuations as one JSON object on stdout")
    args = cli.parse_args(parser, argv)

    from pretrainx.evaluate.generate import Sampling, sample_texts
    from pretrainx.train import trained

    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    if args.num_tokens < 1:
        raise InputError(f"--num_tokens {args.num_tokens}: accepted are 1 and more")
    model = trained.load(args.workdir, args.step)
    prompts = args.prompt or list(PROMPTS)
    texts = sample_texts(model.skeleton, model.params, model.vocabulary, prompts, sampling, args.num_tokens, args.seed)
    if args.json:
        cli.print_json({"step": model.step, "samples": [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]})
    else:
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
            print(f"--- sample {number} of step {model.step}\n{prompt}{text}")
    return 0


if __name__ == "__main__":
    cli.run(main)
