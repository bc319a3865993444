"""``python -m mlla_seg``: the command line."""

from mlla_seg.cli import main

if __name__ == "__main__":
    main()
