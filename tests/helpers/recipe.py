"""The code of the Qwen2.5-VL model card: the reference for inputs and numbers."""

from __future__ import annotations

from PIL import Image
from qwen_vl_utils import process_vision_info


def recipe(processor, paths, question, *, text_first=False):
    """Return the tensors that the code of the model card makes from pictures and a question."""
    pictures = [{"type": "image", "image": Image.open(path).convert("RGB")} for path in paths]
    text = [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": [*text, *pictures] if text_first else [*pictures, *text]}]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images, videos = process_vision_info(messages)
    return processor(text=[prompt], images=images, videos=videos, padding=True, return_tensors="pt")
