"""The page: everything that a clinician sees. It imports only the engine's public names."""

import os

# Said before Gradio is imported anywhere: nothing is reported home, and the page works without internet.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
