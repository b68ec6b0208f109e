"""What the shell completes: values of options and arguments. Must answer at once, so nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

# A value, and a description that some shells show beside it.
Completions = list[tuple[str, str]]


def models() -> Completions:
    """Return `demo` and the models in the Hugging Face Hub's cache."""
    from huggingface_hub import constants

    # The cache's folders are named models--owner--name.
    folders = sorted(path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    cached = [(name.removeprefix("models--").replace("--", "/", 1), "in the cache") for name in folders]
    return [("demo", "the embedded model"), *cached]


def methods() -> Completions:
    """Return the methods, with what each shows."""
    from qvl_attn.attribution.methods.registry import METHODS

    return [(method.name, method.shows) for method in METHODS.values()]


def method_lists(incomplete: str) -> Completions:
    """Return lists such as `mean,relative`: what was typed up to the last comma, and each method that it lacks."""
    typed = incomplete[: incomplete.rfind(",") + 1]
    return [(typed + name, shows) for name, shows in methods() if name not in typed.split(",")]


def prompt_sets() -> Completions:
    """Return the built-in sets of questions."""
    from qvl_attn.evaluation.data.question_sets import shipped_sets

    return [(name, "a built-in set") for name in shipped_sets()]


def profiles() -> Completions:
    """Return the built-in profiles, and `none`."""
    from qvl_attn.attribution.profiles import NO_PROFILE, shipped_profiles

    return [*((name, "a built-in profile") for name in shipped_profiles()), (NO_PROFILE, "the default layers")]


def queries() -> Completions:
    """Return the queries."""
    return [
        ("question", "all tokens of the question"),
        ("last", "the last token of the prompt"),
        ("answer", "all tokens of the answer"),
        ("text:", "some words of the question"),
    ]


def devices() -> Completions:
    """Return names of devices."""
    return [("auto", "a GPU if there is one"), ("cpu", ""), ("cuda", "the first GPU")]
