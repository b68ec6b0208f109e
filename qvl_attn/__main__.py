"""`python -m qvl_attn` is the command line."""

from qvl_attn.cli import main

if __name__ == "__main__":
    main()
