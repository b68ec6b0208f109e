"""The shapes of the released Qwen2.5-VL models, to say what they need before any of them is downloaded."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLConfig

# Of their config.json: width, MLP, layers, heads, key heads, vocabulary, whether the embeddings are tied. The vision
# encoder is the same but for the width of its output.
_TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_SHAPES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ((2048, 11008, 36, 16, 2), 151936, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": ((3584, 18944, 28, 28, 4), 152064, False),
}
_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
RELEASED = tuple(_SHAPES)


def released_config(name: str) -> Any:
    """Return the configuration of one of `RELEASED`, as far as it decides the cost."""
    sizes, vocabulary, tied = _SHAPES[name]
    text = dict(zip(_TEXT, sizes, strict=True)) | {"vocab_size": vocabulary, "max_position_embeddings": 128000}
    return Qwen2_5_VLConfig(
        text_config=text | {"tie_word_embeddings": tied},
        vision_config=_VISION | {"out_hidden_size": sizes[0]},
        tie_word_embeddings=tied,
    )
