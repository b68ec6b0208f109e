"""The command line: typer and rich are used here and nowhere else."""
