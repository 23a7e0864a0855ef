"""Which layer, place, scale and channels of a vision network each vertex of visual cortex reads."""

import os

# Idle threads sleep instead of spinning; read when torch is loaded. Where two programs share two
# cores a training step takes 61 ms with it and 148 ms without.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
