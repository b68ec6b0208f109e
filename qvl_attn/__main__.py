"""`qvl-attn` and `python -m qvl_attn`: run the command line, and handle Ctrl-C from the first import on."""

import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line. Ctrl-C ends it at any point with one line and exit code 130."""
    try:
        from qvl_attn.cli.app import run

        run()
    except KeyboardInterrupt:
        _report()
        _exit_now()
    except SystemExit as error:
        if error.code == INTERRUPTED:
            from qvl_attn.cli.console import interrupt_reported

            if not interrupt_reported.is_set():
                _report()
            _exit_now()
        raise


def _report() -> None:
    sys.stderr.write("interrupted; any finished results are kept\n")


def _exit_now() -> None:
    """Exit at once: after a Ctrl-C inside a library's exec(), CPython would otherwise end itself by the signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
