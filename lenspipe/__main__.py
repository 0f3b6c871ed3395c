"""``python -m lenspipe``: the same commands as the ``lenspipe`` script, wherever the package can be imported."""

from lenspipe.cli import main

if __name__ == "__main__":
    main()
