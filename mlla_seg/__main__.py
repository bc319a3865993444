"""Entry point of ``python -m mlla_seg``."""

from mlla_seg.cli import main

if __name__ == "__main__":
    main()
