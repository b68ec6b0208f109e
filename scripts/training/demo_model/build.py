"""The untrained embedded model: vocabulary, chat template, processor settings and geometry."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from qvl_attn.demo import wording
from qvl_attn.demo.scenes import COLORS, SHAPES

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2's own pre-tokenizer.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ROWS_MULTIPLE = 16
SIZES = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}


def texts() -> Iterator[str]:
    """Yield all English sentences and Chinese words that the model reads or writes, and those of the template."""
    yield "system\nYou are a helpful assistant."
    yield "user\n"
    yield "assistant\n"
    for form, templates in wording.FORMS["en"].items():
        for choice in range(len(templates)):
            for shape in SHAPES:
                yield from (wording.ask("en", form, choice, shape, color) for color in COLORS)
    yield from wording.CHINESE
    yield from (f"a {shape}, {color} {shape}s" for shape in SHAPES for color in COLORS)
    yield from "01234"
    # Chinese has no spaces: whole sentences would become single tokens, so only words are given.
    yield from wording.CHINESE_WORDS
    yield from "？，。吗"


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer on `texts` until each word is one token; others are split, down to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return Qwen2Tokenizer(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        eos_token=END_OF_TURN,
        bos_token=None,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
    )


def build_processor(chat_template: str) -> Qwen2_5_VLProcessor:
    """Return the processor classes of Qwen2.5-VL with the embedded model's tokenizer."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=SIZES),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=SIZES, clip_min_pixels=SIZES["shortest_edge"]),
        chat_template=chat_template,
    )


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Return a small config with all parts of Qwen2.5-VL."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    start, end = (tokenizer.convert_tokens_to_ids(f"<|vision_{edge}|>") for edge in ("start", "end"))
    text = {
        "vocab_size": -(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05,
        # Columns rotate the slowest channels: with a theta of 100, neighbouring columns differed by 0.013 to 0.056 rad.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "num_heads": 4,
        "intermediate_size": 256,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
        "initializer_range": 0.05,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )


def build_model(config: Qwen2_5_VLConfig, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Return a model with random weights; half of the patch filters have zero mean, so that edges are learnt early."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        filters = model.model.visual.patch_embed.proj.weight
        filters[::2] -= filters[::2].mean(dim=(2, 3, 4), keepdim=True)
    return model


def save(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Save a bfloat16 checkpoint for `from_pretrained`, with that dtype in the config of every part."""
    config = deepcopy(model.config)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.bfloat16
    half = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    # One file for each part, as in the released checkpoints.
    for part in (processor.tokenizer, processor.image_processor, processor.video_processor):
        part.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
