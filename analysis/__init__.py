"""Which layer, place, scale and channels of a vision network each vertex of visual cortex reads."""
