"""`python -m seqfault`: the command."""

from seqfault.cli import main

if __name__ == "__main__":
    main()
