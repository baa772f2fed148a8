"""The page: everything that a clinician sees. It imports only the engine's public names."""

import os

# Said before Gradio is imported anywhere: nothing is reported home, and the page works without internet.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# A thread of torch that waits for another one sleeps: the cores are wanted by trainings, readers and other visitors, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
