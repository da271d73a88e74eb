"""Long runs by hand: ``python -m tests.model --minutes 60``; the games of one seed again: ``--seed 7``."""

from __future__ import annotations

import argparse
import secrets

from tests.model.counts import told
from tests.model.play import play, play_for


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="play games with fresh seeds for so long")
    length.add_argument("--seed", type=int, help="play the games of this seed again")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        play(arguments.seed)
    else:
        first = secrets.randbits(40)
        print(f"model: the first seed is {first}", flush=True)
        last = play_for(arguments.minutes * 60, first) - 1
        print(f"model: the last seed is {last}")
    print(told())


if __name__ == "__main__":
    main()
