"""Checkpoints as people have them, and as nobody should: each loads as it is meant, or is refused in one line."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationMixin

from qvl_attn import Analyzer, Encoder
from qvl_attn.core.errors import InputError, ModelError
from qvl_attn.core.runtime import finished_within
from qvl_attn.model import chat_template, checkpoint_files
from qvl_attn.model.checkpoint import find_checkpoint, find_on_disk
from qvl_attn.model.loading import load_weights
from tests.conftest import DEMO_MODEL

PROCESSOR = "preprocessor_config.json"


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model for a test to change."""
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    return tmp_path / "model"


def edit(file, **fields) -> None:
    """Change fields of a JSON file; those of a part of the configuration are given as an object."""
    value = json.loads(file.read_text())
    for name, field in fields.items():
        merged = isinstance(field, dict) and name.endswith("_config")
        value[name] = {**value.get(name, {}), **field} if merged else field
    file.write_text(json.dumps(value))


def refused(folder, words: str, load=Analyzer.load) -> ModelError:
    with pytest.raises(ModelError, match=words) as caught:
        load(str(folder), device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text_config": {"num_attention_heads": 3}}, "must be divisible"),
        ({"text_config": {"num_attention_heads": 0}}, "text_config.num_attention_heads 0, want 1 to"),
        ({"text_config": {"hidden_act": "evil"}}, r"text_config\.hidden_act is 'evil', which transformers"),
        ({"text_config": {"vocab_size": -1}}, "vocab_size -1"),
        ({"text_config": {"vocab_size": 10**15}}, "vocab_size 1"),
        ({"text_config": {"num_hidden_layers": 10**9, "layer_types": None}}, "num_hidden_layers 1"),
        ({"text_config": {"num_hidden_layers": "4"}}, "num_hidden_layers '4', want 1 to"),
        ({"text_config": {"rope_parameters": {"rope_theta": "x"}}}, r"rope_theta 'x', want a number above 0 \(take"),
        ({"text_config": {"rms_norm_eps": float("nan")}}, r"rms_norm_eps nan, want a number above 0 \(take"),
        ({"text_config": {"hidden_size": float("nan")}}, "hidden_size nan"),
        ({"text_config": 7}, r"config\.json cannot be read"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights, which is not supported"),
    ],
    ids=str,
)
def test_a_configuration_of_which_no_model_can_be_made(folder, fields, words):
    edit(folder / "config.json", **fields)
    refused(folder, words)


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"spatial_merge_size": 0}, "spatial_merge_size 0"),
        ({"spatial_merge_size": 4}, "merge_size is 2, and 4 in config"),
        ({"window_size": 0}, "window_size 0"),
        ({"window_size": 20}, "a window of 20 px is smaller than a cell"),
        ({"depth": 10**6}, r"vision_config\.depth 1000000, want 1 to 512"),
    ],
    ids=str,
)
def test_a_configuration_of_which_no_tower_can_be_made(folder, load, fields, words):
    edit(folder / "config.json", vision_config=fields)
    refused(folder, words, load)


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
def test_a_configuration_with_which_only_the_run_fails(folder, load, cats):
    edit(folder / "config.json", vision_config={"num_heads": 7})
    with pytest.raises(ModelError, match=r"invalid for input of size .*config\.json that belongs"):
        run(load(str(folder), device="cpu", dtype="float32"), cats)


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3"], ids=lambda text: text[:5])
def test_a_configuration_that_is_no_object(folder, load, text):
    (folder / "config.json").write_text(text)
    refused(folder, r"config\.json cannot be read", load)


def test_a_kernel_that_a_configuration_names_is_not_fetched(folder, demo, cats):
    edit(folder / "config.json", _attn_implementation="someone/kernel", attn_implementation="someone/kernel")
    assert Analyzer.load(str(folder), device="cpu").ask(cats, "how many cats?").answer == "2"
    assert Encoder.load(str(folder), device="cpu").engine.model.config._attn_implementation == "sdpa"


# Processors


def test_limits_of_pixels_under_their_older_names(folder, demo, cats):
    edit(folder / PROCESSOR, size={"min_pixels": 3136, "max_pixels": 50_176})
    analyzer = Analyzer.load(str(folder), device="cpu", dtype="float32")
    assert dict(analyzer.engine.processor.image_processor.size) == {"shortest_edge": 3136, "longest_edge": 50_176}
    older = analyzer.ask(cats, "how many cats?")
    edit(folder / PROCESSOR, size={"shortest_edge": 3136, "longest_edge": 50_176})
    expected = Analyzer.load(str(folder), device="cpu", dtype="float32").ask(cats, "how many cats?")
    assert older.answer == expected.answer
    assert np.array_equal(older.heatmap().values, expected.heatmap().values)
    assert older.heatmap().values.shape != demo.ask(cats, "how many cats?").heatmap().values.shape


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"shortest_edge": 3136}, "size has no shortest_edge and longest_edge"),
        ({"height": 224, "width": 224}, "size has no shortest_edge and longest_edge"),
        ({"shortest_edge": 2**40, "longest_edge": 2**41}, "a shortest_edge of 1099511627776 pixels"),
        ({"shortest_edge": 0, "longest_edge": 100}, "a shortest_edge of 0 pixels"),
        ({"shortest_edge": "a", "longest_edge": 100}, "size"),
    ],
    ids=str,
)
def test_limits_of_pixels_that_are_none(folder, size, words):
    edit(folder / PROCESSOR, size=size)
    refused(folder, words)
    refused(folder, words, Encoder.load)


def test_a_folder_without_a_processor(folder):
    (folder / PROCESSOR).unlink()
    assert "copy the tokenizer and processor files of the base model" in refused(folder, "it has no processor").hint


def test_an_image_processor_of_another_name(folder):
    edit(folder / PROCESSOR, image_processor_type="Qwen2_5_VLImageProcessor")
    error = refused(folder, "names the image processor 'Qwen2_5_VLImageProcessor'")
    assert error.hint == 'write "image_processor_type": "Qwen2VLImageProcessor" there'


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
@pytest.mark.parametrize("fields", [{"image_mean": [1, 2]}, {"image_std": "a"}, {"resample": 99}], ids=str)
def test_settings_with_which_no_picture_can_be_prepared(folder, load, fields, cats):
    edit(folder / PROCESSOR, **fields)
    with pytest.raises(ModelError, match="processor cannot"):
        run(load(str(folder), device="cpu"), cats)


def run(loaded, cats):
    return loaded.ask(cats, "?") if isinstance(loaded, Analyzer) else loaded.encode(cats)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"patch_size": "14"}, r"patch_size is '14', and 14 in config\.json"),
        ({"image_mean": [0.5]}, r"image_mean is \[0\.5\], want 3 numbers"),
    ],
    ids=str,
)
def test_settings_of_pictures_that_do_not_fit(folder, fields, words):
    edit(folder / PROCESSOR, **fields)
    refused(folder, words)


def test_a_tokenizer_of_a_larger_model(folder):
    edit(folder / "config.json", text_config={"vocab_size": 664})
    refused(folder, "its tokenizer has more tokens than the model")


# Chat templates


def ask_with(folder, template, cats, question="how many cats?"):
    (folder / "chat_template.jinja").write_text(template)
    return Analyzer.load(str(folder), device="cpu", dtype="float32").ask(cats, question)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}", "Conversation roles must alternate"),
        ("{{ x.y.z }}", "'x' is undefined"),
        ("{% for", "chat template cannot be used"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ 2 ** 3 }}", r"computes with \*\*"),
        ("{{ [2][0]** 3 }}", r"computes with \*\*"),
        ("{{ 'a' * 10000000000 }}", "computes with 10000000000"),
        ("{% for i in range(2000) %}" + "x" * 1000 + "{% endfor %}", "makes a prompt of over"),
        ("{#" + "x" * 2**21 + "#}", "has over"),
        ("nothing", "changes the question"),
    ],
    ids=lambda text: text[:30],
)
def test_a_template_that_cannot_be_used(folder, cats, template, words):
    with pytest.raises(ModelError if words != "changes the question" else Exception, match=words) as caught:
        ask_with(folder, template, cats)
    assert "\n" not in str(caught.value)
    assert words == "changes the question" or str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x",
        "{% set n = namespace(x=1) %}{% for i in range(99999) %}{% set n.x = n.x + n.x * n.x %}{% endfor %}",
    ],
    ids=["loops", "numbers that grow"],
)
def test_an_endless_template_is_stopped_on_any_thread(folder, cats, template, monkeypatch):
    monkeypatch.setattr(chat_template, "LIMIT_S", 0.3)
    errors, before = [], threading.active_count()

    def run():
        with pytest.raises(ModelError, match=r"took more than 0\.3 s and was stopped") as caught:
            ask_with(folder, template, cats)
        errors.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert len(errors) == 1
    if "range(99999) %}{% for" in template:
        until = time.monotonic() + 60
        while threading.active_count() > before:
            assert time.monotonic() < until, "its thread has not ended"
            time.sleep(0.01)


def test_work_in_a_thread_returns_its_value_or_raises_its_error():
    assert finished_within(60, lambda: 7) == 7
    with pytest.raises(KeyError):
        finished_within(60, lambda: {}["a"])
    stopped = threading.Event()

    def endless():
        try:
            while True:
                time.sleep(0.001)
        finally:
            stopped.set()

    with pytest.raises(TimeoutError):
        finished_within(0.05, endless)
    assert stopped.wait(60)


def test_a_template_may_unpack_the_arguments_of_a_call(folder, cats):
    template = (folder / "chat_template.jinja").read_text()
    macro = "{% macro m(a='', b='') %}{{ a }}{% endmacro %}{{ m(**{'b': '1'}) }}{{ m('', ** {'b': '1'}) }}"
    assert ask_with(folder, macro + template, cats).answer == "2"


def test_a_template_that_begins_the_answer(folder, demo, cats):
    """`<think>` of the template is no part of the question, and of no other text."""
    template = (folder / "chat_template.jinja").read_text()
    result = ask_with(folder, template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"), cats)
    question = "".join(token.text for token in result.capture.tokens if token.role == "question")
    assert question.strip() == "how many cats?"


# Weights


def rewrite(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    changed = {key: weight.contiguous().clone() for key, weight in change(weights).items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def model_error(folder, load=Analyzer.load) -> str:
    with pytest.raises(ModelError) as caught:
        _ = load(str(folder), device="cpu", dtype="float32").engine.model
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
@pytest.mark.parametrize("prefix", ["module", "base_model.model", "_orig_mod"])
def test_a_prefix_before_all_names_is_named(folder, load, prefix):
    rewrite(folder, lambda weights: {f"{prefix}.{key}": weight for key, weight in weights.items()})
    assert f"the names of its weights begin with {prefix}, which" in model_error(folder, load)


def test_a_weight_of_another_shape_is_named_with_both(folder):
    key = next(key for key in load_file(folder / "model.safetensors") if "layers.1.mlp.up_proj.weight" in key)
    rewrite(folder, lambda weights: weights | {key: weights[key][:-1]})
    assert "layers.1.mlp.up_proj.weight: 383x128 in the file, and 384x128 by its config.json" in model_error(folder)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_empty_weights_of_a_training_shard(folder, all_of_them):
    rewrite(
        folder,
        lambda weights: {
            key: torch.empty(0, dtype=weight.dtype) if all_of_them or "layers.0.mlp" in key else weight
            for key, weight in weights.items()
        },
    )
    error = model_error(folder)
    assert "has no elements, so it was saved from one shard of a training run (ZeRO-3)" in error
    assert "zero_to_fp32.py" in error


def test_a_configuration_of_a_much_larger_model(folder):
    """Nothing of its size is made: the file has too few numbers for it."""
    edit(folder / "config.json", text_config={"intermediate_size": 200_000})
    error = model_error(folder)
    assert "numbers, and its config.json asks for" in error


def test_a_head_that_is_missing(folder):
    edit(folder / "config.json", tie_word_embeddings=False, text_config={"tie_word_embeddings": False})
    assert "1 weight is missing, such as lm_head.weight" in model_error(folder)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "/dev/zero", "../model.safetensors", "a/b.safetensors", 3, None])
def test_an_index_that_names_anything_else_than_its_safetensors(folder, file):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    refused(folder, "which is no safetensors file beside it")


# Files


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt", "extra.jinja"])
def test_a_link_to_an_endless_device(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")
    refused(folder, f"{name} is not a regular file")
    refused(folder, f"{name} is not a regular file", Encoder.load)


def test_a_pipe_and_a_link_to_nothing(folder):
    os.mkfifo(folder / "added_tokens.json")
    refused(folder, r"added_tokens\.json is not a regular file")
    (folder / "added_tokens.json").unlink()
    for name in ("added_tokens.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder / "nowhere")
        refused(folder, f"{name} is a link to nothing")
        refused(folder, f"{name} (is a link to nothing|cannot be read: No such file)", Encoder.load)
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_whose_blob_is_missing_from_the_cache_is_downloaded_again(folder, name, tmp_path, monkeypatch):
    """The hub's client is offline in tests: it tries, and gives back the folder as it is."""
    snapshot = in_cache(folder, "vl", tmp_path, monkeypatch)
    assert find_checkpoint("someone/vl").folder == snapshot
    (snapshot / name).unlink()
    (snapshot / name).symlink_to("../../blobs/nothing")
    with pytest.raises(ModelError, match=f"{name} is a link to nothing"):
        find_checkpoint("someone/vl")
    with pytest.raises(ModelError, match="not in the cache, and `offline=True` forbids"):
        find_checkpoint("someone/vl", offline=True)
    needed = name != "model.safetensors"
    assert (find_on_disk("someone/vl", weights=False) is None) == needed


def in_cache(folder, name, tmp_path, monkeypatch):
    """Put a checkpoint into a cache of its own, as someone/NAME, and return its folder there."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / f"models--someone--{name}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repo / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return repo / "snapshots" / commit


def test_a_link_to_a_regular_file_is_followed(folder, tmp_path):
    before = find_checkpoint(str(folder)).revision
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert find_checkpoint(str(folder)).revision == before


def test_a_settings_file_without_bounds(folder):
    with (folder / "trainer_state.json").open("wb") as stream:
        stream.truncate(checkpoint_files.MAX_SETTINGS_BYTES + 2**20)
    assert "move it away" in refused(folder, r"trainer_state\.json has 65 MiB; the limit is 64").hint


@pytest.mark.parametrize("name", ["~nosuchuser/x", "~nosuchuser", "~"])
def test_a_home_folder_that_is_no_model(name):
    with pytest.raises((InputError, ModelError), match=name):
        find_checkpoint(name, offline=True)


# Adapters


@pytest.fixture
def adapter(folder):
    """An adapter of the embedded model, beside its weights."""
    value = {"peft_type": "LORA", "base_model_name_or_path": "someone/base", "r": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(value))
    save_file({"base_model.a": torch.zeros(2)}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
def test_weights_with_an_adapter(adapter, load):
    error = refused(adapter, "holds the weights of a model and an adapter", load)
    assert "merge_and_unload" in error.hint
    assert "move adapter_config.json away" in error.hint
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_model.safetensors").unlink()
    assert load(str(adapter), device="cpu").engine.checkpoint.revision == find_checkpoint("demo").revision


def test_an_adapter_alone(adapter, tmp_path, monkeypatch):
    for name in ("model.safetensors", "config.json"):
        (adapter / name).unlink()
        assert "merge_and_unload" in refused(adapter, "is an adapter of someone/base, not a whole model").hint
    in_cache(adapter, "lora", tmp_path, monkeypatch)
    with pytest.raises(ModelError, match="someone/lora is an adapter of someone/base"):
        find_checkpoint("someone/lora", offline=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"base_model_name_or_path": 3}', '{"base_model_name_or_path": "a\\nb"}'])
def test_an_adapter_whose_base_is_not_known(adapter, text):
    (adapter / "model.safetensors").unlink()
    (adapter / "adapter_config.json").write_text(text)
    refused(adapter, "adapter")


def test_an_adapter_is_merged_as_the_readme_shows(folder, tmp_path, monkeypatch):
    """With the names of before transformers 4.52, which peft by itself ignores."""
    pytest.importorskip("peft")
    value = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(value))
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    low_rank = {f"{stem}.lora_A.weight": torch.ones(2, 128), f"{stem}.lora_B.weight": torch.ones(128, 2)}
    save_file(low_rank, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    text = (DEMO_MODEL.parents[2] / "README.md").read_text()
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "merge_and_unload" in block)
    for name, path in {"Qwen/Qwen2.5-VL-3B-Instruct": folder, "my-adapter": tmp_path / "adapter"}.items():
        program = program.replace(name, str(path))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(program, {})
    before, after = (Analyzer.load(str(path), device="cpu").engine.model for path in (folder, tmp_path / "merged"))
    before, after = (model.model.language_model.layers[0].self_attn.q_proj.weight for model in (before, after))
    assert torch.allclose(after, before + 2, atol=0.02)


@pytest.mark.parametrize(
    "fields",
    [
        {"eos_token_id": "x"},
        {"eos_token_id": [659, 10**6]},
        {"repetition_penalty": 0},
        {"repetition_penalty": float("nan")},
        {"pad_token_id": -1},
        None,
    ],
    ids=str,
)
def test_settings_of_generation_that_cannot_be_used(folder, fields):
    if fields is None:
        (folder / "generation_config.json").write_text("{")
    else:
        edit(folder / "generation_config.json", **fields)
    assert "its generation_config.json cannot be used" in model_error(folder)


def test_settings_that_say_nothing_about_greedy_answers_are_left_out(folder, demo, cats):
    """transformers takes from the file what the call leaves open: lengths, outputs, even a limit of time."""
    others = {"output_hidden_states": "a", "bos_token_id": "x", "max_time": 1e-9, "max_length": 1, "num_beams": 3}
    neutral = {"no_repeat_ngram_size": 0, "min_length": 0, "suppress_tokens": [], "guidance_scale": 1.0}
    edit(folder / "generation_config.json", **others, **neutral, temperature=0.1, do_sample=True, cache_config=3)
    result = Analyzer.load(str(folder), device="cpu", dtype="float32").ask(cats, "how many cats?")
    assert result.answer == demo.ask(cats, "how many cats?").answer
    assert len(result.capture.tokens) == len(demo.ask(cats, "how many cats?").capture.tokens)


# Each can change the greedy answers of transformers.
CHANGING = {
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "min_new_tokens": 9,
    "min_length": 2000,
    "suppress_tokens": [0, 1],
    "begin_suppress_tokens": [5],
    "bad_words_ids": [[5]],
    "sequence_bias": [[[5], -9.0]],
    "forced_eos_token_id": 659,
    "exponential_decay_length_penalty": [1, 2.0],
    "encoder_repetition_penalty": 1.5,
    "guidance_scale": 2.0,
    "stop_strings": ["a"],
    "token_healing": True,
    "watermarking_config": {"bias": 9.0},
}


def test_settings_that_change_greedy_answers_are_refused(folder):
    analyzer = Analyzer.load(str(folder), device="cpu", dtype="float32")
    for field, value in CHANGING.items():
        shutil.copy(DEMO_MODEL / "generation_config.json", folder)
        edit(folder / "generation_config.json", **{field: value})
        with pytest.raises(ModelError, match=rf"generation_config\.json has {field} .*take {field} out") as caught:
            load_weights(analyzer.engine.checkpoint, analyzer.engine.config, analyzer.engine.placement)
        assert "\n" not in str(caught.value)


def test_every_setting_of_transformers_that_acts_on_greedy_logits_is_known():
    """Settings that a later version adds to the processors of logits must be sorted into served, refused, left out."""
    source = inspect.getsource(GenerationMixin._get_logits_processor)
    greedy, _, sampling = source.partition("if generation_config.do_sample:")
    read = set(re.findall(r"generation_config\.([a-z]\w+)", greedy + sampling.split("watermark")[-1]))
    served = {"repetition_penalty", "forced_bos_token_id"}  # the latter acts on an empty prompt alone
    about_nothing = {"num_beams", "use_cache", "remove_invalid_values", "renormalize_logits", "max_length"}
    assert read - set(CHANGING) - served <= about_nothing | {"do_sample"}
