"""The wording of the demo's questions and answers, in English and in Chinese. Independent of pictures.

A question has a kind (its topic) and a form (its templates); most kinds have one form of the same name.
"""

from __future__ import annotations

from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

FORMS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "color": (
            "what color is the {shape}?",
            "What color is the {shape}?",
            "what is the color of the {shape}?",
            "which color does the {shape} have?",
            "what colour is the {shape}?",
        ),
        "shape": (
            "what shape is the {color} object?",
            "What shape is the {color} object?",
            "what is the {color} object?",
            "which shape is {color}?",
        ),
        "exist": ("is there {a_shape}?", "Is there {a_shape} in the picture?", "do you see {a_shape}?"),
        "exist_colored": (
            "is there {a_color} {shape}?",
            "Is there {a_color} {shape} in the picture?",
            "do you see {a_color} {shape}?",
        ),
        "count": (
            "how many {shapes}?",
            "How many {shapes} are there?",
            "how many {shapes} are in the picture?",
            "how many {shapes} do you see?",
        ),
        "side": ("is the {shape} on the left or on the right?", "Which side is the {shape} on, left or right?"),
        "level": ("is the {shape} at the top or at the bottom?", "Is the {shape} at the top or the bottom?"),
        "where": ("where is the {shape}?", "Where is the {shape} in the picture?"),
        "describe": ("describe the picture", "list the objects"),
        "which": ("in which picture is the {shape}?", "which picture shows the {shape}?"),
        "which_colored": ("in which picture is the {color} {shape}?", "which picture shows the {color} {shape}?"),
        "move_color": ("what color is the moving shape?", "What color is the moving object?"),
        "move_shape": ("what is moving?", "which shape is moving?", "What shape moves?"),
        "appear": ("what appears?", "Which shape appears?", "what shows up?"),
        "vanish": ("what disappears?", "Which shape disappears?", "what goes away?"),
        "recolor": ("what changes color?", "Which shape changes its color?"),
        "when": ("when does the {shape} appear?", "When do you first see the {shape}?"),
        "color_at_end": ("what color is the {shape} at the end?", "What color is the {shape} in the end?"),
        "color_at_start": ("what color is the {shape} at the start?", "What color is the {shape} at first?"),
    },
    "zh": {
        "color": ("{shape}是什么颜色？", "{shape}的颜色是什么？", "{shape}是什么颜色的？"),
        "shape": ("{color}的物体是什么？", "{color}的是什么？", "{color}的东西是什么？"),
        "exist": ("有{shape}吗？", "图中有{shape}吗？", "图里有{shape}吗？", "有没有{shape}？"),
        "exist_colored": ("有{color}的{shape}吗？", "图中有{color}的{shape}吗？", "有没有{color}的{shape}？"),
        "count": ("有几{unit}{shape}？", "图中有几{unit}{shape}？", "图里有几{unit}{shape}？", "有多少{unit}{shape}？"),
        "side": ("{shape}在左边还是右边？", "图中的{shape}在左边还是在右边？"),
        "level": ("{shape}在上面还是下面？", "图中的{shape}在上面还是在下面？"),
        "where": ("{shape}在哪里？", "{shape}在图中的哪里？"),
        "describe": ("描述图片", "有什么物体？"),
        "which": ("{shape}在第几张图？", "哪张图里有{shape}？", "哪张图有{shape}？"),
        "which_colored": ("{color}的{shape}在第几张图？", "哪张图里有{color}的{shape}？"),
        "move_color": ("移动的物体是什么颜色？", "在动的物体是什么颜色？"),
        "move_shape": ("什么在动？", "什么在移动？"),
        "appear": ("什么出现了？", "出现了什么？"),
        "vanish": ("什么消失了？", "消失了什么？"),
        "recolor": ("什么变了颜色？", "什么东西变了颜色？"),
        "when": ("{shape}什么时候出现？", "{shape}是什么时候出现的？"),
        "color_at_end": ("最后{shape}是什么颜色？", "{shape}最后是什么颜色？"),
        "color_at_start": ("开始时{shape}是什么颜色？", "{shape}开始时是什么颜色？"),
    },
}
CHINESE: dict[str, str] = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "purple": "紫色",
    "orange": "橙色",
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星星",
    "cat": "猫",
    "dog": "狗",
    "fish": "鱼",
    "yes": "有",
    "no": "没有",
    "left": "左边",
    "right": "右边",
    "top": "上面",
    "bottom": "下面",
    "top left": "左上",
    "top right": "右上",
    "bottom left": "左下",
    "bottom right": "右下",
    "first": "第一张",
    "second": "第二张",
    "start": "开始",
    "middle": "中间",
    "end": "最后",
}
MEASURE_WORDS = {"cat": "只", "dog": "只", "fish": "条", "star": "颗"}
# The words of the templates, so that the tokenizer can make each of them one token.
CHINESE_WORDS = (
    *CHINESE.values(),
    *("什么", "颜色", "物体", "形状", "时候", "移动", "出现", "消失", "哪里", "图中", "图片", "描述", "多少", "还是"),
    *(
        "是",
        "的",
        "在",
        "动",
        "了",
        "变",
        "时",
        "几",
        "张",
        "图",
        "哪",
        "吗",
        "第",
        "只",
        "条",
        "颗",
        "个",
        "没",
        "里",
        "东西",
    ),
)


def ask(language: Language, form: str, choice: int, shape: str = "", color: str = "") -> str:
    """Return the text of a question.

    Args:
        language: language of the templates.
        form: a key of `FORMS`.
        choice: a number from 0 on; picks a template, modulo their count.
        shape: shape that the question is about, in English.
        color: colour of the shape, in English.
    """
    templates = FORMS[language][form]
    template = templates[choice % len(templates)]
    if language == "zh":
        unit = MEASURE_WORDS.get(shape, "个")
        return template.format(shape=CHINESE.get(shape, ""), color=CHINESE.get(color, ""), unit=unit)
    return template.format(
        shape=shape,
        shapes=shape if shape == "fish" else f"{shape}s",
        a_shape=f"a {shape}",
        color=color,
        a_color=f"{'an' if color == 'orange' else 'a'} {color}",
    )


def answer(language: Language, word: str) -> str:
    """Translate an English answer; numbers are not changed."""
    return CHINESE.get(word, word) if language == "zh" else word


def description(language: Language, things: list[tuple[str, str]]) -> str:
    """List things, each a colour and a shape in English, in the given order."""
    if language == "zh":
        return "，".join(f"{CHINESE[color]}的{CHINESE[shape]}" for color, shape in things)
    return ", ".join(f"{color} {shape}" for color, shape in things)
