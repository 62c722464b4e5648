"""Blocks as they fill.

python examples/stream.py [BUNDLE]
"""

import sys

import ttc

PROMPT = (
    "Question: Ada has 9 bags with 9 stamps each. Ada sells 4 of them. How many stamps are left?\nAnswer:"
)


def main(bundle: str) -> None:
    """Print every pass: how many positions are open; then the text, block by block."""
    with ttc.load(bundle) as engine:
        for event in engine.stream(PROMPT, max_new_tokens=64):
            if event.committed:
                print(f"block {event.block_index} done: {event.text!r}")
            else:
                print(f"block {event.block_index}, pass {event.step + 1}: {sum(event.masked)} open")
            if event.result is not None:
                stats = event.result.stats
                print(f"{len(event.result.token_ids)} tokens from {stats.nfe} passes of the denoiser")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "miniature")
