"""The screen. It knows the engine only through its client and holds no state of its own."""

import os

# Textual reads these once, when it is imported. A monitor over SSH wants few frames and no motion.
os.environ.setdefault("TEXTUAL_FPS", "15")
os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
