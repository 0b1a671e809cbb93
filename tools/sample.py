"""Text from a run's checkpoint: goes on from prompts, greedily, by sampling or by beam search."""

import argparse
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

PROMPTS = ("def ", "The ", "import ")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/sample.py --workdir=runs/quickstart --prompt='def main(' --temperature=0.8 --top_p=0.95",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--prompt", action="append", help="what to go on from; may be given several times")
    parser.add_argument("--prompts", type=Path, help="a text file with one prompt a line")
    parser.add_argument("--objective", help="prompt the model as this one of its objectives taught it (default: the most natural)")
    parser.add_argument("--num_tokens", type=int, default=128, help="tokens to make (default: %(default)s)")
    parser.add_argument("--stop", action="append", default=[], help="end a text before this; may be given several times")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top_k", type=int, default=0, help="keep the k most likely tokens; 0: all (default: %(default)s)")
    parser.add_argument(
        "--top_p", type=float, default=0.95, help="keep the most likely tokens up to this probability (default: %(default)s)"
    )
    parser.add_argument("--num_beams", type=int, help="search for the likeliest text with so many beams, instead of sampling")
    parser.add_argument("--length_penalty", type=float, default=0.6, help="of beam search: 0 is none (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=16, help="prompts at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print prompts and continuations as one JSON object on stdout")
    args = cli.parse_args(parser, argv)

    from pretrainx.evaluate.beam import Beam
    from pretrainx.evaluate.generate import Generator
    from pretrainx.evaluate.sampling import Sampling
    from pretrainx.train import trained

    choice = Beam(args.num_beams, args.length_penalty) if args.num_beams is not None else Sampling(args.temperature, args.top_k, args.top_p)
    prompts = [*(args.prompt or []), *(read_lines(args.prompts) if args.prompts else [])] or list(PROMPTS)
    model = trained.load(args.workdir, args.step)
    generator = Generator(
        model.skeleton, model.vocabulary, trained.prompter_of(model, args.objective), choice, args.num_tokens, args.stop, args.batch_size,
        show=len(prompts) > args.batch_size,
    )  # fmt: skip
    found = generator(model.params, prompts, args.seed)
    log(str(generator.speed))
    if args.json:
        samples = [
            {"prompt": p, "text": g.text, "num_tokens": len(g.tokens), "nats": g.nats, "stopped": g.stopped}
            for p, g in zip(prompts, found, strict=True)
        ]
        cli.print_json({"step": model.step, "samples": samples, "tokens_per_second": generator.speed.tokens / generator.speed.seconds})
    else:
        for number, (prompt, generation) in enumerate(zip(prompts, found, strict=True), 1):
            print(f"--- sample {number} of step {model.step}\n{prompt}{generation.text}")
    return 0


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path}: {error}") from None


if __name__ == "__main__":
    cli.run(main)
