"""The screen. It knows the engine only through its client and holds no state of its own."""

import os

# Textual reads these once, when it is imported. A monitor over SSH wants no motion. Frames are as many as
# there are changes, once a second; a key is shown after up to two periods of these.
os.environ.setdefault("TEXTUAL_FPS", "60")
os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
