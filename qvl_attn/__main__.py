"""`qvl-attn` and `python -m qvl_attn`: the command line, from its first import on under one roof for Ctrl-C."""

import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C is a word and exit code 130 wherever it comes."""
    try:
        from qvl_attn.cli import run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is finished is kept\n")
        _leave()
    except SystemExit as error:
        if error.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> None:
    """At once: if Ctrl-C came inside an exec() of some library, CPython would end itself by the signal instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
