"""Many prompts at once, each with options of its own.

python examples/batch.py [BUNDLE]
"""

import sys

import ttc


def main(bundle: str) -> None:
    """Generate for all of them in one call; rows of any mode share the model's calls."""
    prompts = [
        ttc.Request("Question: Sort 11, 61, 44, 74.\nAnswer:"),
        ttc.Request("Question: Copy A7K9.\nAnswer:", mode="lossless"),
        ttc.Request("Question: Write 14 April 1967 plus 9 days.\nAnswer:", mode="ar", max_new_tokens=40),
    ]
    with ttc.load(bundle) as engine:
        for request, result in zip(prompts, engine.generate(prompts), strict=True):
            print(f"{result.stats.mode}: {request.prompt!r} → {result.text!r} ({result.finish_reason})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "miniature")
