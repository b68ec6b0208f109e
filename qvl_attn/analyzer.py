"""Ask a model about pictures and capture where it looked: the public way in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig

import qvl_attn
from qvl_attn.capture import prove_capture
from qvl_attn.errors import InputError
from qvl_attn.media import load_picture
from qvl_attn.memory import check_fits, on_device
from qvl_attn.model import (
    DEFAULT_MODEL,
    Checkpoint,
    Placement,
    choose_placement,
    find_checkpoint,
    load_config,
    load_processor,
    load_weights,
)
from qvl_attn.passes import greedy, on_model, own_answer, supplied_answer
from qvl_attn.prompt import Prompt, build_prompt, chat_messages, check_text, pixel_limits
from qvl_attn.result import Provenance, Result, Settings
from qvl_attn.select import parse_heads, parse_layers, parse_query, text_positions
from qvl_attn.types import Media

ATTENTION_MODES = ("eager",)
MAX_NEW_TOKENS = 4096


def _silent(message: str) -> None:
    del message


class Analyzer:
    """A model that answers questions about pictures and shows where each layer looked.

    Make one with `Analyzer.load`. The weights are loaded when the first question needs them, so that every fault that
    can be known without them is found first.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: Any, placement: Placement, say: Callable[[str], None] = _silent
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.placement = placement
        self.processor = load_processor(checkpoint, config)
        self._say = say

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | None = None,
        attn: str = "eager",
        offline: bool = False,
        say: Callable[[str], None] = _silent,
    ) -> Analyzer:
        """Find a model and get ready to load it.

        Args:
            model: a Hugging Face id, a local folder, or `demo` for the embedded model.
            revision: branch, tag or commit of a hub model.
            device: `auto`, `cpu`, `cuda` or `cuda:1`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`. Auto is bfloat16 on CUDA, and float32 on the CPU while
                the weights fit the free memory.
            device_map: `auto` and its kin spread a model over several GPUs.
            attn: `eager`, the reference.
            offline: never reach for the hub.
            say: is told what was chosen, a line at a time.

        Raises:
            InputError: a word that is not one of these, or a GPU that is not there.
            ModelError: the model cannot be had or cannot be served.
            MemoryLimitError: the weights do not fit.
        """
        if attn not in ATTENTION_MODES:
            raise InputError(f"--attn {attn}: unknown", f"write {' or '.join(ATTENTION_MODES)}")
        checkpoint = find_checkpoint(model, revision, offline=offline)
        config = load_config(checkpoint)
        placement = choose_placement(config, device, dtype, device_map)
        where = f"--device-map {device_map}" if device_map else placement.device
        say(f"{model} ({checkpoint.revision[:12]}): {placement.dtype} on {where} ({placement.reason}), eager")
        if placement.dtype != "float32":
            say("eager attention in 16 bits can change the answer; compare with --dtype float32 where it matters")
        return cls(checkpoint, config, placement, say)

    @cached_property
    def model(self) -> Any:
        """The loaded model, after it has proved that its attention can be captured."""
        self._say("loading the weights")
        with on_device(self.placement, 0):
            return self._load()

    def _load(self) -> Any:
        model = load_weights(self.checkpoint, self.placement)
        dot = Media(
            kind="picture",
            frames=np.full((1, 56, 56, 3), 127, dtype=np.uint8),
            times_s=np.zeros(1),
            size_px=(56, 56),
            source="self-check",
            sha256="",
        )
        prompt = self._prompt([dot], "?", Settings())
        prove_capture(model, on_model(prompt, model))
        return model

    def ask(
        self,
        picture: str | os.PathLike[str] | Media,
        question: str,
        images: Sequence[str | os.PathLike[str] | Media] = (),
        *,
        query: str = "question",
        layers: str | None = None,
        heads: str | None = None,
        system: str | None = None,
        answer: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int = 128,
        seed: int = 0,
    ) -> Result:
        """Ask one question, and capture the attention of the question's tokens, the last one and the answer's.

        Args:
            picture: path of a picture, or one that was loaded.
            question: any text without control tokens.
            images: further pictures for the same prompt.
            query: what the headline map shows: `question`, `last`, `answer` or `text:words`.
            layers: layers to capture and average; by default all are captured, and the headline averages those at 50 to
                85 % of the depth.
            heads: heads to keep apart and average: `3,5`, or `21.9,21.11` for layer.head.
            system: a system prompt in place of the template's own.
            answer: an answer to be teacher-forced: the maps are then its tokens', beside the model's own answer.
            min_pixels: smallest size to which a picture is resized, in pixels; by default the checkpoint's.
            max_pixels: largest size to which a picture is resized, in pixels; by default the checkpoint's.
            max_new_tokens: where an answer is cut.
            seed: for torch; the answer is greedy and does not depend on it.

        Returns:
            The answer and the captured attention.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: it does not fit the memory.
        """
        settings = Settings(query, layers, heads, system, answer, min_pixels, max_pixels, max_new_tokens, seed)
        started = time.perf_counter()
        media = tuple(one if isinstance(one, Media) else load_picture(one) for one in (picture, *images))
        prompt = self.check(media, question, settings)
        prepared = time.perf_counter()
        model = self.model
        loaded = time.perf_counter()
        torch.manual_seed(seed)
        with on_device(self.placement, prompt.length):
            return self._run(model, prompt, media, settings, {"prepare": prepared - started, "load": loaded - prepared})

    def check(self, media: Sequence[Media], question: str, settings: Settings) -> Prompt:
        """Find every fault that can be known before weights are loaded, and build the prompt.

        Raises:
            InputError: a fault in what was given.
            MemoryLimitError: the prompt is estimated not to fit the memory.
        """
        text = self.config.text_config
        layers = parse_layers(settings.layers, text.num_hidden_layers)
        parse_heads(settings.heads, layers, text.num_attention_heads)
        parse_query(settings.query)
        if not 1 <= settings.max_new_tokens <= MAX_NEW_TOKENS:
            raise InputError(f"--max-new-tokens {settings.max_new_tokens}: want 1 to {MAX_NEW_TOKENS}")
        control = sorted({*self.processor.tokenizer.all_special_tokens, *self.processor.tokenizer.get_added_vocab()})
        for name, words in (
            ("question", question),
            ("system prompt", settings.system),
            ("answer", settings.answer),
        ):
            if words is not None:
                check_text(name, words, control)
        prompt = self._prompt(media, question, settings)
        if settings.query.startswith("text:"):
            text_positions(prompt.tokens, question, settings.query.removeprefix("text:"))
        heads = text.num_attention_heads if settings.heads_apart else 1
        kept = len(layers) * heads * (len(prompt.positions("question")) + settings.max_new_tokens)
        check_fits(
            self.config, self.placement, prompt, settings.max_new_tokens, kept, weights_loaded="model" in self.__dict__
        )
        return prompt

    def _prompt(self, media: Sequence[Media], question: str, settings: Settings) -> Prompt:
        limits = pixel_limits(self.processor, settings.min_pixels, settings.max_pixels)
        messages = chat_messages(media, question, settings.system, *limits)
        return build_prompt(self.processor, messages, media, self.config.vision_config.spatial_merge_size, *limits)

    def _run(
        self, model: Any, prompt: Prompt, media: tuple[Media, ...], settings: Settings, seconds: dict[str, float]
    ) -> Result:
        tokenizer = self.processor.tokenizer
        layers = parse_layers(settings.layers, self.config.text_config.num_hidden_layers)
        by_head = settings.heads_apart
        generation = greedy(model, settings.max_new_tokens)
        started = time.perf_counter()
        own = own_answer(model, tokenizer, prompt, layers, generation, by_head=by_head)
        seconds = {**seconds, "answer": time.perf_counter() - started}
        supplied = None
        if settings.answer is not None:
            started = time.perf_counter()
            supplied = supplied_answer(model, tokenizer, prompt, layers, settings.answer, by_head=by_head)
            seconds["supplied_answer"] = time.perf_counter() - started
        return Result(
            question=prompt.question,
            answer=own.answer,
            answer_logprob=own.logprob,
            supplied_answer=supplied.answer if supplied else None,
            supplied_logprob=supplied.logprob if supplied else None,
            media=media,
            capture=(supplied or own).capture,
            settings=settings,
            provenance=self._provenance(generation),
            seconds={name: round(value, 3) for name, value in seconds.items()},
        )

    @property
    def made_by(self) -> dict[str, str]:
        """What of the model, its place and the libraries goes into the name of a result."""
        return {
            "qvl_attn": qvl_attn.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "model": self.checkpoint.name,
            "revision": self.checkpoint.revision,
            "dtype": self.placement.dtype,
            "device": self.placement.device_map or self.placement.device,
            "attention": "eager",
        }

    def _provenance(self, generation: GenerationConfig) -> Provenance:
        text = self.config.text_config
        size = self.processor.image_processor.size
        return Provenance(
            **self.made_by,
            layer_count=text.num_hidden_layers,
            head_count=text.num_attention_heads,
            generation={
                "do_sample": False,
                "repetition_penalty": float(generation.repetition_penalty),
                "max_new_tokens": int(generation.max_new_tokens),
            },
            processor_size={
                "shortest_edge": int(size["shortest_edge"]),
                "longest_edge": int(size["longest_edge"]),
            },
        )
