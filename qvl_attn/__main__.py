"""`qvl-attn` and `python -m qvl_attn`: the command line, from its first import on under one roof for Ctrl-C."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is a word and exit code 130 wherever it comes."""
    try:
        from qvl_attn.cli import run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is finished is kept\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
