"""What a Hugging Face Space starts: a file at the repository's root. `python space.py` does the same as `python -m app`."""

import importlib.util

if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  (on ZeroGPU it must come before torch)

import sys

from app.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
