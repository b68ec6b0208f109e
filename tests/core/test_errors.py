"""Errors: one line, whatever was typed or read."""

from qvl_attn.core.errors import InputError, describe_error


def test_an_error_is_one_line_even_if_what_was_typed_is_not():
    error = InputError("--query a\nb: unknown", "write\r\nx", ("line 1: a\u2028b",))
    assert str(error) == "--query a b: unknown (write  x)\n  line 1: a b"
    assert describe_error(error) == "InputError: --query a b: unknown (write  x)"
    assert error.details == ("line 1: a b",)
