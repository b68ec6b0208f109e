"""The demo: a tiny embedded Qwen2.5-VL, its pictures, and the generator of its scenes, clips and questions."""
