"""Sentences by a large language model: questions about each class to any endpoint that speaks OpenAI's protocol.

Sources: the eight subjects of MedPromptCLIP's questions (user-test023/MedPromptCLIP, two answers to each, temperature 0.9, at most 150
tokens), and BiomedCoOp's query for a number of different descriptions (arXiv:2411.15232); the wording is ours.
Protocol: POST {endpoint}/chat/completions, as OpenAI, vLLM and Ollama serve it; not streamed, one answer a request.

What leaves this machine: the words of the classes, the kind of image, the body part, and the key, to the endpoint alone. No image, no
file, no name. https, unless the endpoint is this machine or `insecure` is set; a redirect is refused. The key comes from an
environment variable and is in no message, log, journal or bank.
Each answer is written to a journal at once: the same call again asks only for what is missing. What the model cannot be trusted
with is checked (`checked`), and what was dropped is counted with its reason in the bank's provenance.
Left out: whether a sentence is true. Nobody who reads a bank of this kind should believe so without a clinician.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from engine.backbones.base import Backbone
from engine.errors import DataError, Stopped
from engine.generators.base import SOURCE, look, with_step, written
from engine.tasks import DescriptionBank, Label, Task, kind_of_image
from engine.training import Watch
from engine.types import Image
from engine.wording import LONGEST, fits, names_another

Say = Callable[[str], None]
KEY = "PROMPTSCOPE_LLM_KEY"  # environment variable
SYSTEM = "You describe how findings look in medical images, in plain English sentences, without headings, lists or markup."
# {c} the class, {image} the kind of image
EIGHT = (
    "In one sentence, name the typical findings and the most prominent pathological features of {c} in {image}.",
    "In one sentence, describe the appearance of {c} in {image} in the precise terms of a radiologist.",
    "In one sentence, say which tissue compartments or layers {c} disrupts, thickens or attenuates in {image}.",
    "In one sentence, give the defining features of {c} in {image}, those that are seen and those that are measured.",
    "In one sentence, relate what is seen of {c} in {image} to its pathophysiology.",
    "In one sentence, relate what is seen of {c} in {image} to clinical symptoms, with an example.",
    "In one sentence, say what tells {c} in {image} from conditions that look alike.",
    "In one sentence, say how {c} in {image} changes over time and what that means for the prognosis.",
)
MANY = ("Write {n} different one-sentence descriptions of {c} as it is seen in {image}, each on a line of its own.",)
PUBLIC = (
    "api.openai.com",
    "api.anthropic.com",
    "api.cohere.ai",
    "api.deepseek.com",
    "api.groq.com",
    "api.mistral.ai",
    "api.together.xyz",
    "generativelanguage.googleapis.com",
    "openrouter.ai",
)
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
TRIES = 6
CAP_S, PATIENCE_S = 60.0, 600.0  # the longest pause of our own; the longest that an endpoint may ask for
LARGEST = 1 << 20  # bytes of an answer
TORN = re.compile(rb'\{"key": "[0-9a-f]{64}", "answer": "')  # how a line of a journal begins
JOURNAL_LARGEST = 64 << 20  # bytes of a journal
REFUSAL = re.compile(
    r"\bas an ai\b|language model|\bi(?:'m| am) (?:sorry|unable|not able)|\bi can(?:'t|not|’t)\b|consult (?:a|your) |medical advice",
    re.I,
)
ENGLISH = frozenset(
    [
        "the",
        "of",
        "with",
        "and",
        "is",
        "are",
        "a",
        "by",
        "to",
        "from",
        "which",
        "that",
        "on",
        "as",
        "or",
        "may",
        "often",
        "at",
        "this",
        "these",
        "its",
        "has",
        "have",
        "whose",
        "between",
        "through",
        "among",
        "without",
        "toward",
        "towards",
    ]
)
LATIN = 0.9  # of the letters must be a to z
ABBREVIATIONS = ("e.g.", "i.e.", "vs.", "approx.", "Fig.", "cf.", "Dr.")


class LLM:
    name = "llm"
    needs_images = False
    writes = "sentences"

    @dataclass(frozen=True)
    class Config:
        """endpoint : its address up to /chat/completions, as in http://localhost:11434/v1; model : its name there.

        questions : medpromptclip (eight, `answers` times each) or biomedcoop (one query for `sentences` descriptions)
        max_tokens : of an answer, 0 takes 150, or 40 a description; per_minute : requests at most; timeout_s : of one request
        journal : a file that keeps the answers, "" keeps none; insecure : http to other machines is allowed
        """

        endpoint: str = ""
        model: str = ""
        questions: str = "medpromptclip"
        answers: int = 2
        sentences: int = 50
        temperature: float = 0.9
        max_tokens: int = 0
        per_minute: float = 60.0
        timeout_s: float = 60.0
        journal: str = ""
        insecure: bool = False

    def __init__(self, config: Config | None = None, backbone: Backbone | None = None, say: Say | None = None):
        """backbone : whose text tower must read every sentence whole; without it a sentence has at most LONGEST characters.
        say : is told, in a line, of each try that failed and is made again."""
        self.config, self.backbone, self.say = config or self.Config(), backbone, say
        c = self.config
        if c.questions not in ("medpromptclip", "biomedcoop"):
            raise DataError(f"There are no questions {c.questions!r}.", "Choose medpromptclip or biomedcoop.")
        if not (
            1 <= c.answers <= 20 and 1 <= c.sentences <= 200 and c.per_minute > 0 and c.timeout_s > 0 and c.max_tokens >= 0
        ):
            raise DataError(
                "The numbers of the language model's questions cannot be used.",
                "Give 1 to 20 answers, 1 to 200 sentences, and a rate and a timeout above 0.",
            )

    def questions(self, task: Task) -> list[tuple[str, int, str]]:
        """(label, which answer, question) of everything that is asked."""
        c, asked = self.config, []
        for label in task.names:
            kinds, times = (EIGHT, c.answers) if c.questions == "medpromptclip" else (MANY, 1)
            texts = [kind.format(c=label, image=kind_of_image(task, "images"), n=c.sentences) for kind in kinds]
            asked += [(label, i, text) for text in texts for i in range(times)]
        return asked

    def fill(self, task: Task, images: Iterable[tuple[Image, str]] = (), watch: Watch | None = None) -> DescriptionBank:
        """As the contract says. Raises DataError also where the endpoint does not answer: what came so far is in the journal."""
        c, asked = self.config, self.questions(task)
        journal = Journal(c.journal)
        answers: dict[str, list[str]] = {label: [] for label in task.names}
        with Endpoint(c, self.say) as endpoint:
            for i, (label, which, question) in enumerate(asked):
                look(watch, i, len(asked))
                key = _key(c, which, question)
                if key not in journal.kept:
                    journal.add(key, endpoint.ask(question, watch))
                answers[label].append(journal.kept[key])
        look(watch, len(asked), len(asked))
        return self.bank(task, answers)

    def bank(self, task: Task, answers: dict[str, list[str]]) -> DescriptionBank:
        """The bank of these answers, by label. Raises DataError where a class is left without a sentence."""
        old, c = written(task), self.config
        classes, dropped = dict(old.classes), Counter[str]()
        for label in task.labels:
            kept, reasons = checked(task, label, answers[label.name], self.backbone)
            if not kept:
                why = ", ".join(f"{reason}: {n}" for reason, n in reasons.items()) or "it was empty"
                raise DataError(
                    f"Nothing of what was answered about {label.display!r} can be used ({why}).", "Try another model."
                )
            classes[label.name] = replace(classes[label.name], sentences=tuple(kept))
            dropped += reasons
        step = {
            "by": self.name,
            "endpoint": public_host(c.endpoint),
            "model": c.model,
            "temperature": c.temperature,
            "questions": c.questions,
            "asked": list(EIGHT if c.questions == "medpromptclip" else MANY),
            "answers": sum(map(len, answers.values())),
            "kept": sum(len(each.sentences) for each in classes.values()),
            "dropped": dict(sorted(dropped.items())),
            "length": f"text tower of {self.backbone.id}" if self.backbone else f"{LONGEST} characters",
        }
        return with_step(replace(old, classes=classes, source=SOURCE, licence=""), step)


# --- what is kept of an answer ------------------------------------------------------------------------------------------


def split_sentences(answer: str) -> list[str]:
    """An answer as sentences: lines, without numbers, bullets and markup, parted where a sentence ends."""
    found = []
    for line in answer[:LARGEST].splitlines():
        line = re.sub(r"^\s*(?:[-*•>#]+|\(?\d{1,3}[.):])\s+", "", line)
        line = " ".join(re.sub(r"[*_`]{1,3}", "", line).split()).strip('"“”')
        start = 0
        for end in re.finditer(r"[.!?][\"”)]?\s+(?=[A-Z0-9\"“(])", line):
            if not line[: end.start() + 1].endswith(ABBREVIATIONS):
                found.append(line[start : end.end()].strip())
                start = end.end()
        found.append(line[start:].strip())
    return [each for each in found if each]


def checked(task: Task, label: Label, answers: Iterable[str], backbone: Backbone | None) -> tuple[list[str], Counter[str]]:
    """(the sentences of a class that can be used, how many were dropped for which reason).

    Language: nine of ten letters are a to z, and a line of six words or more has one of a few frequent English words. That is crude: it
    lets short lines of another language pass, and refuses none of ours.
    """
    kept: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for line in (line for answer in answers for line in split_sentences(answer)):
        reason = _fault(task, label, line, backbone)
        folded = re.sub(r"\W+", " ", line.casefold()).strip()
        reason = reason or ("duplicate" if folded in kept else "")
        if reason:
            dropped[reason] += 1
        else:
            kept[folded] = line
    return list(kept.values()), dropped


def _fault(task: Task, label: Label, line: str, backbone: Backbone | None) -> str:
    words = re.findall(r"[^\W\d_]+", line.lower())
    letters = "".join(words)
    if REFUSAL.search(line):
        return "refusal"
    if len(words) < 3 or line.endswith(":"):
        return "no sentence"
    if sum(c.isascii() for c in letters) < LATIN * len(letters) or (len(words) >= 6 and not ENGLISH & set(words)):
        return "not English"
    if any(names_another(line, other, label) for other in task.labels if other is not label):
        return "names another class"
    if len(line) > LONGEST or (backbone and not fits([line], backbone)):
        return "too long"
    return ""


# --- the journal --------------------------------------------------------------------------------------------------------


def _key(config: LLM.Config, which: int, question: str) -> str:
    """What makes an answer another one."""
    said = [config.endpoint.rstrip("/"), config.model, config.temperature, config.max_tokens, SYSTEM, question, which]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


class Journal:
    """Answers by key, a JSON line each, written as they come. A last line that a kill tore is left out, and asked for again."""

    def __init__(self, file: str):
        self.kept: dict[str, str] = {}
        self.path = Path(file) if file else None
        if self.path is None:
            return
        if not self.path.is_file():
            if self.path.exists() or not self.path.absolute().parent.is_dir():
                raise DataError(f"The journal {self.path.name!r} is no file, or has no folder.", "Choose another file.")
            return
        if self.path.stat().st_size > JOURNAL_LARGEST:
            raise DataError(
                f"The journal {self.path.name!r} is larger than {JOURNAL_LARGEST >> 20} MB.", "Choose another file."
            )
        *lines, last = self.path.read_bytes().split(b"\n")
        if last and not lines and not TORN.match(last):
            raise self._refused(1)
        for i, line in enumerate(lines, 1):
            try:
                found = json.loads(line)
                key, answer = found["key"], found["answer"]
                if not (isinstance(key, str) and isinstance(answer, str)):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise self._refused(i) from error
            self.kept[key] = answer
        if last:
            with self.path.open("r+b") as torn:
                torn.truncate(self.path.stat().st_size - len(last))

    def _refused(self, line: int) -> DataError:
        """It may be a stranger's file, which stays as it is."""
        assert self.path is not None
        return DataError(f"Line {line} of the journal {self.path.name!r} is no answer.", "Choose another file.")

    def add(self, key: str, answer: str) -> None:
        self.kept[key] = answer
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "answer": answer, "at": datetime.now(timezone.utc).isoformat()}) + "\n")
                file.flush()
                os.fsync(file.fileno())


# --- the endpoint -------------------------------------------------------------------------------------------------------


def _address(endpoint: str) -> httpx.URL:
    try:
        url = httpx.URL(endpoint)
    except (httpx.InvalidURL, TypeError) as error:
        raise DataError("The endpoint's address cannot be read.", "Give one as in http://localhost:11434/v1.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise DataError(
            f"The endpoint {str(url.copy_with(userinfo=b''))[:80]!r} is no address of the web.",
            "Give one as in http://localhost:11434/v1.",
        )
    if url.userinfo or url.query or url.fragment:
        raise DataError("The endpoint's address holds a password, a query or a fragment.", f"Put the key into {KEY}.")
    return url


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def public_host(endpoint: str) -> str:
    """The host where it is one of PUBLIC: any other's name may be a hospital's, and is not told."""
    host = _address(endpoint).host
    return host if host in PUBLIC else "not told"


class _Refused(Exception):
    """A try that may be made again. wait_s : what the endpoint asks for, or None."""

    def __init__(self, why: str, wait_s: float | None = None):
        self.why, self.wait_s = why, wait_s


class Endpoint:
    """Asks one question at a time, no more of them than `per_minute`. Raises DataError in a sentence that has no key in it."""

    def __init__(self, config: LLM.Config, say: Say | None = None):
        self.config, self.say, url = config, say, _address(config.endpoint)
        if not config.model.strip():
            raise DataError("The language model is not named.", "Give its name at the endpoint.")
        if url.scheme == "http" and not (_is_local(url.host) or config.insecure):
            raise DataError(
                f"The endpoint at {url.host!r} is not encrypted, and is not this machine.",
                "Use https, or allow it with --insecure.",
            )
        self.url, self.host, self._next = f"{str(url).rstrip('/')}/chat/completions", url.host, 0.0
        self._key = os.environ.get(KEY, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise DataError(f"The key in {KEY} has characters that no key has.", "Set it again.")

    def __enter__(self) -> Endpoint:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        through = self.url.startswith("https:")  # a proxy of the environment; over http it would read the key and the words
        self._client = httpx.Client(
            timeout=self.config.timeout_s, follow_redirects=False, headers=headers, trust_env=through
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, question: str, watch: Watch | None) -> str:
        """The answer's text. Raises DataError, Stopped."""
        for i in range(TRIES):
            self._pause(self._next - time.monotonic(), watch)
            self._next = time.monotonic() + 60 / self.config.per_minute
            try:
                return self._once(question)
            except _Refused as refused:
                if i + 1 == TRIES:
                    running = "Is it running? " if "Connect" in refused.why else ""
                    raise DataError(
                        f"The language model at {self.host!r} did not answer in {TRIES} tries (the last: {refused.why}).",
                        f"{running}What it has answered is in the journal, where there is one: the same call goes on.",
                    ) from None
                if refused.wait_s is not None and refused.wait_s > PATIENCE_S:
                    raise DataError(
                        f"The language model at {self.host!r} asks to wait {refused.wait_s:.0f} s.",
                        "Come back later: what it has answered is in the journal, where there is one.",
                    ) from None
                own = min(CAP_S, 2.0**i) * random.uniform(0.5, 1.0)
                wait = own if refused.wait_s is None else refused.wait_s
                if self.say:
                    self.say(f"no answer from {self.host!r} ({refused.why}): try {i + 2} of {TRIES} in {wait:.0f} s")
                self._pause(wait, watch)
        raise AssertionError("every try returns or raises")

    def _pause(self, seconds: float, watch: Watch | None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if watch and watch.stop and watch.stop():
                raise Stopped("The words were not finished: they were stopped.")
            time.sleep(min(left, 0.2))

    def _once(self, question: str) -> str:
        c = self.config
        own = 150 if c.questions == "medpromptclip" else 40 * c.sentences
        body = {
            "model": c.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
            "temperature": c.temperature,
            "max_tokens": c.max_tokens or own,
            "stream": False,
        }
        end = time.monotonic() + c.timeout_s  # httpx's timeout is of each read alone
        raw = bytearray()
        try:
            with self._client.stream("POST", self.url, json=body) as response:
                self._check(response)
                for block in response.iter_bytes():
                    raw += block
                    if len(raw) > LARGEST:
                        raise DataError(
                            f"An answer of {self.host!r} is larger than {LARGEST >> 20} MB.", "Is it a language model?"
                        )
                    if time.monotonic() > end:
                        raise _Refused(f"no whole answer in {c.timeout_s:g} s")
        except httpx.HTTPError as error:  # its own words may hold the address, never the headers
            raise _Refused(type(error).__name__) from None
        try:
            text = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise _Refused("an answer that is not of the protocol") from None
        if not isinstance(text, str):
            raise _Refused("an answer without text")
        return text

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in RETRIED:
            raise _Refused(f"status {status}", _retry_after(response.headers.get("retry-after", "")))
        if response.is_redirect:
            raise DataError(
                f"The endpoint at {self.host!r} sends on to another address, which is not followed.",
                "Give that address, if you trust it.",
            )
        if status in (401, 403):
            raise DataError(f"The endpoint at {self.host!r} refuses the key (status {status}).", f"Set {KEY}.")
        if status == 404:
            raise DataError(
                f"The endpoint at {self.host!r} has no {self.config.model!r} at this address (status 404).",
                "Check the model's name, and that the address ends as in /v1.",
            )
        if status != 200:
            raise DataError(
                f"The endpoint at {self.host!r} refuses the request (status {status}).", "Check the model's name."
            )


def _retry_after(said: str) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), a number or a date; None where it is neither."""
    if re.fullmatch(r"\d{1,9}", said.strip()):
        return float(said)
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
