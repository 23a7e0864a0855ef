"""Which layer, place, scale and channels of a vision network each vertex of visual cortex reads."""

import os

# Idle threads spin for a moment, not for long, before they sleep; read when torch is loaded. A
# training step on two cores: 36 ms with it and 33 ms without; beside another one, 85 and 136 ms.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
