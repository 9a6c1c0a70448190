"""`python -m ptcore` is the command `ptcore`."""

from ptcore.cli import main

if __name__ == "__main__":
    main()
