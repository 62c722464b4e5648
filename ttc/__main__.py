"""`python -m ttc`: the same as the command `ttc`."""

from ttc.cli import main

if __name__ == "__main__":
    main()
