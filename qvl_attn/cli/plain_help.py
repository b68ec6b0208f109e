"""Help and errors without Python's words: typer would show `<bool>` at every flag, and `Value error` in an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from qvl_attn.core.text import without_middle


def help_of(command: Callable[..., None]) -> str:
    """Return a command's docstring with the lines of each paragraph joined: typer breaks them as the source does."""
    return "\n\n".join(" ".join(text.split()) for text in inspect.cleandoc(command.__doc__ or "").split("\n\n"))


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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            message = error.message.removeprefix("Value error, ")  # pydantic's, which typer does not remove
            error.message = without_middle(message)
            raise


class PlainGroup(TyperGroup):
    """A group of commands whose help names no types of flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, `--help` and those for completion too."""
        return _plain(super().get_params(ctx))
