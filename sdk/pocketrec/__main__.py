"""`python -m pocketrec` is the `pocketrec` command."""

from pocketrec.cli import main

if __name__ == "__main__":
    main()
