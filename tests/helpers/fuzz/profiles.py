"""Profiles: JSON files that name layers or heads."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from qvl_attn.attribution.profiles import load_profile, profile_json, shipped_profiles
from tests.helpers.mutations import mutate_bytes, mutate_json

NAME = "profiles"


@cache
def _profiles() -> list[Any]:
    return [json.loads(path.read_bytes()) for path in shipped_profiles().values()]


def try_one(rng: random.Random, folder: Path) -> None:
    value = rng.choice(_profiles())
    data = json.dumps(mutate_json(rng, value) if rng.random() < 0.8 else value).encode()
    (folder / "mine.json").write_bytes(mutate_bytes(rng, data) if rng.random() < 0.3 else data)
    profile = load_profile(str(folder / "mine.json"))
    json.dumps(profile_json(profile, {}), allow_nan=False)
    assert profile.selection
    assert profile.status
