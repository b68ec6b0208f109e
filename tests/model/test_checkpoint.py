"""Checkpoints that load and checkpoints that do not; models that do not fit the memory."""

from __future__ import annotations

import json
import shutil

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from qvl_attn import Analyzer, Encoder
from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError
from qvl_attn.model.checkpoint import _DEMO, DEFAULT_MODEL, find_checkpoint, guarded
from qvl_attn.model.loading import choose_placement, load_config
from qvl_attn.model.memory import free_bytes, on_device
from qvl_attn.model.placement import Placement


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the demo checkpoint for tests to damage."""
    folder = tmp_path / "model"
    shutil.copytree(_DEMO, folder)
    return folder


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_folder_is_loaded_like_the_demo_model(checkpoint, cats, demo):
    assert Analyzer.load(str(checkpoint)).ask(cats, "how many cats?").answer == demo.ask(cats, "how many cats?").answer


def test_another_architecture_is_named(checkpoint):
    edit_config(checkpoint, model_type="llava")
    with pytest.raises(ModelError, match=r"'llava'.*Qwen2\.5-VL"):
        Analyzer.load(str(checkpoint))


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes"])
def test_a_quantised_checkpoint_is_named(checkpoint, method):
    edit_config(checkpoint, quantization_config={"quant_method": method})
    with pytest.raises(ModelError, match=method):
        Analyzer.load(str(checkpoint))


def test_pickled_weights_are_not_loaded(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        Analyzer.load(str(checkpoint))


def test_a_missing_shard_is_named(checkpoint):
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(ModelError, match=r"model-2\.safetensors is missing"):
        Analyzer.load(str(checkpoint))


def test_a_missing_weight_is_named_and_never_initialised(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if "q_proj.weight" in name)
    del weights[name]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 weight is missing"):
        _ = Analyzer.load(str(checkpoint)).engine.model


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x08\0\0\0\0\0\0\0{}      "])
def test_broken_weights(checkpoint, content):
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError):
        _ = Analyzer.load(str(checkpoint)).engine.model


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"])
def test_broken_files_of_a_checkpoint(checkpoint, file, content):
    if content is None:
        (checkpoint / file).unlink()
    else:
        (checkpoint / file).write_bytes(content)
    kind = InputError if (file, content) == ("config.json", None) else ModelError  # the wrong folder, or a broken model
    with pytest.raises(kind) as caught:
        Analyzer.load(str(checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nothing-there", "a/b/c", "../x/y", "https://x/y", "", "a b/c", "./nothing", "x" * 300, "有" * 100]
)
def test_names_that_are_no_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, ModelError), match="model"):
        find_checkpoint(name, offline=True)


def test_offline_without_the_model_in_the_cache():
    with pytest.raises(ModelError, match="hf download someone/never-heard-of --revision v2"):
        find_checkpoint("someone/never-heard-of", "v2", offline=True)


def test_a_model_from_the_cache_needs_no_network(checkpoint, tmp_path, monkeypatch):
    """A hand-made cache: refs/main names a commit, snapshots/<commit> holds the files."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--someone--small-vl"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint, repo / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model = find_checkpoint("someone/small-vl", offline=True)
    assert (model.name, model.revision) == ("someone/small-vl", commit)
    (repo / "refs" / "v2").write_text(commit)
    assert find_checkpoint("someone/small-vl", "v2", offline=True).revision == commit
    (repo / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="hf download"):
        find_checkpoint("someone/small-vl", offline=True)


def test_the_fingerprint_follows_the_weights(checkpoint):
    before = find_checkpoint(str(checkpoint)).revision
    assert before == find_checkpoint("demo").revision
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert find_checkpoint(str(checkpoint)).revision != before


def test_no_code_of_a_checkpoint_is_run_or_asked_about(checkpoint, monkeypatch):
    (checkpoint / "evil.py").write_text("raise SystemExit('ran')")
    for file, field in (
        ("processor_config.json", "processor_class"),
        ("preprocessor_config.json", "image_processor_type"),
    ):
        path = checkpoint / file
        value = json.loads(path.read_text()) if path.exists() else {}
        kind = "AutoProcessor" if field == "processor_class" else "AutoImageProcessor"
        path.write_text(json.dumps(value | {field: "Evil", "auto_map": {kind: "evil.Evil"}}))
    edit_config(checkpoint, auto_map={"AutoConfig": "evil.Evil"})
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked"))
    with pytest.raises(ModelError):
        Analyzer.load(str(checkpoint))


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"\xff", b'{"weight_map": 3}'])
def test_a_broken_index(checkpoint, content):
    (checkpoint / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ModelError):
        find_checkpoint(str(checkpoint))


def test_out_of_memory_while_loading(checkpoint, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("qvl_attn.vqa.engine.prove_capture", full)
    with pytest.raises(MemoryLimitError, match="out of memory"):
        _ = Analyzer.load(str(checkpoint)).engine.model


def test_memory_that_torch_reserved_but_does_not_use_is_free(monkeypatch):
    placement = Placement("cuda:0", "bfloat16", None, 0, "")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 700)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 300)
    assert free_bytes(placement) == 500


@pytest.mark.parametrize(
    ("capabilities", "device_map", "dtype", "words"),
    [
        ([(8, 0)], None, "bfloat16", "a GPU is available"),
        ([(7, 5)], None, "float16", "compute capability 7.5, which has no native bfloat16"),  # T4
        ([(7, 0)], None, "float16", "compute capability 7.0"),  # V100
        ([(9, 0), (7, 5)], "auto", "float16", "compute capability 7.5"),
        ([(9, 0), (7, 5)], None, "bfloat16", "a GPU is available"),
    ],
)
def test_a_gpu_without_native_bfloat16_gets_float16(monkeypatch, capabilities, device_map, dtype, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(capabilities))
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True)  # by emulation
    capability = lambda gpu: capabilities[(gpu if isinstance(gpu, int) else gpu.index) or 0]  # noqa: E731
    monkeypatch.setattr("torch.cuda.get_device_capability", capability)
    placement = choose_placement(load_config(find_checkpoint("demo")), device_map=device_map)
    assert (placement.device, placement.dtype) == ("cuda", dtype)
    assert words in placement.reason
    asked = choose_placement(load_config(find_checkpoint("demo")), dtype="bfloat16", device_map=device_map)
    assert asked.dtype == "bfloat16", "what is asked for is taken"


def test_placement_on_a_cpu(monkeypatch):
    config = load_config(find_checkpoint("demo"))
    size = choose_placement(config, "cpu").weight_bytes
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def free(count):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("memory", (), {"available": count})())

    free(2 * size)
    assert choose_placement(config).dtype == "float32"
    free(size - 1)
    assert choose_placement(config).dtype == "bfloat16"
    with pytest.raises(MemoryLimitError, match="do not fit"):
        choose_placement(config, dtype="float32")
    free(size // 2 - 1)
    with pytest.raises(MemoryLimitError, match="do not fit"):
        choose_placement(config)


def test_placement_counts_the_real_weights(demo):
    assert demo.engine.placement.weight_bytes == sum(p.numel() * 4 for p in demo.engine.model.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_supported_with_a_warning(cats, dtype, caplog):
    caplog.set_level("INFO", "qvl_attn")
    analyzer = Analyzer.load("demo", dtype=dtype, device="cpu")
    result = analyzer.ask(cats, "how many cats?")
    assert result.answer
    assert result.provenance.dtype == dtype
    assert any("16 bits" in line for line in caplog.messages)
    assert analyzer.engine.model.dtype == getattr(torch, dtype)


def test_device_map(cats, demo):
    analyzer = Analyzer.load("demo", device_map="auto", dtype="float32")
    result = analyzer.ask(cats, "how many cats?")
    assert result.answer == demo.ask(cats, "how many cats?").answer
    assert result.provenance.device == "auto"


def test_a_lack_of_memory_is_not_blamed_on_the_files():
    def run(fault, **kinds):
        with guarded("it cannot be read", "take other files", **kinds):
            fault()

    for fault in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, dtype=np.uint8)):
        with pytest.raises(MemoryLimitError, match=r"it cannot be read: out of memory .*`max_pixels`"):
            run(fault)
    with pytest.raises(ModelError, match=r"it cannot be read: division by zero .*take other files"):
        run(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0, kinds=(RuntimeError,))


@pytest.mark.parametrize("load", [Analyzer.load, Encoder.load], ids=["ask", "encoder"])
def test_a_fault_of_our_own_is_not_blamed_on_the_files(load, cats, monkeypatch):
    def fault(*values):
        raise TypeError("a fault")

    monkeypatch.setattr("qvl_attn.vqa.engine.prove_capture", fault)
    monkeypatch.setattr("qvl_attn.encoders.engine.capture_attention", fault)
    loaded = load("demo", device="cpu", dtype="float32")
    with pytest.raises(TypeError, match="a fault"):
        _ = loaded.engine.model if isinstance(loaded, Analyzer) else loaded.encode(cats)


def test_out_of_memory_is_one_line(demo):
    def run(fault):
        with on_device(demo.engine.placement, 77):
            fault()

    with pytest.raises(MemoryLimitError, match=r"77 tokens.*`max_pixels`"):
        run(lambda: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="size"):
        run(lambda: torch.ones(2) @ torch.ones(3))


def test_the_default_is_the_3b():
    assert DEFAULT_MODEL == "Qwen/Qwen2.5-VL-3B-Instruct"
