"""Frozen vision networks: a batch of pictures into local and global tokens of every layer.

backbone = load_backbone("clip-mini")
local, global_ = backbone(pictures)  # uint8 [batch, height, width, 3]
"""

from analysis.backbones.base import Backbone, Preprocessing, View
from analysis.backbones.own import from_function, from_module
from analysis.backbones.plugins import load_backbone, plugin_names, register, require_backbone
from analysis.backbones.registry import CARDS, Card, card_of
from analysis.backbones.vit import OpenClipViT

__all__ = [
    "CARDS",
    "Backbone",
    "Card",
    "OpenClipViT",
    "Preprocessing",
    "View",
    "card_of",
    "from_function",
    "from_module",
    "load_backbone",
    "plugin_names",
    "register",
    "require_backbone",
]
