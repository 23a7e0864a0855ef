"""Frozen vision networks: a batch of pictures into local and global tokens of every layer.

backbone = load_backbone("clip-mini")
local, global_ = backbone(pictures)  # uint8 [batch, height, width, 3]
"""

import importlib
from typing import Any

from analysis.backbones.catalogue import CARDS, Card, card_of

# Imported when first asked for: they load torch, which the list of backbones does without.
LATER = {
    "Backbone": "base",
    "Preprocessing": "base",
    "View": "base",
    "from_function": "custom",
    "from_module": "custom",
    "load_backbone": "load",
    "network_identity": "load",
    "register": "load",
    "require_backbone": "load",
}
__all__ = ["CARDS", "Card", "card_of", *LATER]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"analysis.backbones.{LATER[name]}"), name)
