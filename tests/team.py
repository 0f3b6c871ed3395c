"""``python -m tests.team mpi`` under a launcher: what ranks do together, told by the first of them."""

import sys

from lenspipe.errors import LenspipeError
from lenspipe.ranks import opened


def who(ranks, word):
    return ranks.rank, ranks.size, word


def wrong(ranks, kind):
    if ranks.rank == ranks.size - 1:
        raise kind(f"mistake of rank {ranks.rank}")


if __name__ == "__main__":
    from tests import team  # by its name, so that the other ranks find its functions

    with opened(sys.argv[1], "tests.team") as ranks:
        if ranks.rank:
            ranks.serve()
        else:
            print(ranks.together(team.who, "a"))
            try:
                ranks.together(team.wrong, LenspipeError)
            except LenspipeError as error:
                print(error)
            try:
                ranks.together(team.wrong, ValueError)
            except RuntimeError as error:
                print("error:", str(error).split(": ")[0])
