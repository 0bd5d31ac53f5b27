"""`python -m core`: the same as `worldrouter core`."""

from core.cli import main

if __name__ == "__main__":
    main("core")
