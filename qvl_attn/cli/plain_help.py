"""Help without the types of Python: typer would show `<bool>` at every flag and `<list[str]>` at an argument."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _plain(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""  # what typer prints in place of the type
        elif param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # its name says what it is
    return params


class PlainCommand(TyperCommand):
    """A command whose help names no types of flags and arguments."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, `--help` too."""
        return _plain(super().get_params(ctx))


class PlainGroup(TyperGroup):
    """A group of commands whose help names no types of flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, `--help` and those for completion too."""
        return _plain(super().get_params(ctx))
