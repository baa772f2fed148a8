"""Every error that is meant for the person in front of the screen.

    EngineError            shown as one sentence; the app goes on
    ├── ImageError         a file that cannot be read as an image
    ├── BackboneError      a backbone that cannot be loaded or lacks a capability
    ├── PromptSetError     a prompt set that is damaged or does not fit
    ├── DataError          labelled data, tasks or description banks that do not hold together
    ├── ExplainError       a map that cannot be made
    └── Stopped            a training that its user stopped

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations


class EngineError(Exception):
    """What is wrong with the user's thing, with the value; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str = ""):
        self.message, self.hint = message, hint
        super().__init__(f"{message} {hint}".strip())


class ImageError(EngineError):
    pass


class BackboneError(EngineError):
    pass


class PromptSetError(EngineError):
    pass


class DataError(EngineError):
    pass


class ExplainError(EngineError):
    pass


class Stopped(EngineError):
    pass
