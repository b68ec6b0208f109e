"""The demo: a tiny embedded Qwen2.5-VL, its pictures, and the drawing of more of them."""
