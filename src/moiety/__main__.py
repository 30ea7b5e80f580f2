"""``python -m moiety`` is the ``moiety`` command."""

from moiety.cli import main

if __name__ == "__main__":
    main()
