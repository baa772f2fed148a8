"""Sentences by a language model, against a local server that speaks the protocol, also badly. Run: python -m pytest tests/test_llm.py"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import free_port

import engine
from engine.__main__ import main
from engine.generators import llm
from engine.generators.llm import LLM, Endpoint, Journal, checked, public_host, split_sentences
from engine.tasks import read_bank

BUSI = engine.task("busi")
SECRET = "sk-test-4f9a77"


class Stub(ThreadingHTTPServer):
    """Keeps every byte it is sent; `plan` is what it does with the next requests, by name, then it answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard: list[tuple[str, bytes, bytes]] = []  # path, head, body
        self.times: list[float] = []
        self.plan: list[str] = []
        self.text = lambda n, question: f"The lesion number {n} has a smooth border in the tissue."

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):  # a client that went away, as planned
        pass


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, bytes(self.headers), body))
        self.server.times.append(time.monotonic())
        what = self.server.plan.pop(0) if self.server.plan else "answer"
        if what == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            self.connection.close()
            return
        if what == "slow":
            time.sleep(1.5)
        if what == "drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
            return
        status = int(what) if what.isdigit() else 429 if what.startswith("429:") else 302 if what == "away" else 200
        text = self.server.text(len(self.server.heard), json.loads(body)["messages"][1]["content"])
        said = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        raw = {"broken": b'{"choices": [{"mess', "empty": b"{}", "huge": b" " * (2 << 20)}.get(
            what, json.dumps(said).encode()
        )
        if status >= 400:
            raw = json.dumps({"error": {"message": f"no: {self.headers.get('Authorization')}"}}).encode()
        self.send_response(status)
        if what.startswith("429:"):
            self.send_header("Retry-After", what[4:])
        if what == "away":
            self.send_header("Location", "http://example.org/v1/chat/completions")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setenv(llm.KEY, SECRET)
    monkeypatch.setattr(llm, "CAP_S", 0.02)  # pauses of our own between tries
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def made(stub: Stub, **options) -> LLM:
    return engine.generator("llm", **{"endpoint": stub.address, "model": "stub-1", "per_minute": 1e6} | options)


def test_only_words_of_the_task_leave_and_the_key_only_in_its_header(stub, tmp_path):
    bank = made(stub, journal=str(tmp_path / "j")).fill(BUSI)
    assert len(stub.heard) == 3 * 8 * 2 and {path for path, *_ in stub.heard} == {"/v1/chat/completions"}
    allowed = {"model", "messages", "temperature", "max_tokens", "stream"}
    questions = Counter()
    for _, head, body in stub.heard:
        assert head.count(SECRET.encode()) == 1 and f"Authorization: Bearer {SECRET}".encode() in head
        assert SECRET.encode() not in body
        said = json.loads(body)
        assert set(said) == allowed and said["model"] == "stub-1" and said["stream"] is False and said["max_tokens"] == 150
        system, user = said["messages"]
        assert system == {"role": "system", "content": llm.SYSTEM} and set(user) == {"role", "content"}
        questions[user["content"]] += 1
    # by hand: nothing but our own templates with the class, and "ultrasound images of the breast"
    expected = [q.format(c=c, image="ultrasound images of the breast") for c in BUSI.names for q in llm.EIGHT]
    assert questions == Counter({q: 2 for q in expected})
    assert SECRET not in engine.bank_text(bank) and SECRET not in (tmp_path / "j").read_text()
    assert "127.0.0.1" not in engine.bank_text(bank)
    step = bank.provenance[-1]
    assert step["by"] == "llm" and step["endpoint"] == "not told" and step["answers"] == 48 and step["kept"] == 48
    assert bank.classes["benign tumor"].sentences[0] == "The lesion number 1 has a smooth border in the tissue."
    old = engine.descriptions(BUSI).classes["benign tumor"]
    assert (
        bank.classes["benign tumor"].attributes == old.attributes and bank.classes["benign tumor"].negatives == old.negatives
    )


@pytest.mark.parametrize("fault", ["429", "500", "503", "broken", "empty", "cut", "slow", "drip", "429:0"])
def test_a_fault_that_may_pass_is_tried_again(stub, fault):
    stub.plan = [fault, fault]
    with Endpoint(made(stub, timeout_s=0.5 if fault in ("slow", "drip") else 60.0).config) as endpoint:
        assert endpoint.ask("What?", None) == "The lesion number 3 has a smooth border in the tissue."
    assert len(stub.heard) == 3


def test_it_waits_as_long_as_it_is_asked_to_and_no_longer_than_its_patience(stub):
    stub.plan = ["429:1"]
    with Endpoint(made(stub).config) as endpoint:
        endpoint.ask("What?", None)
    assert 1.0 <= stub.times[1] - stub.times[0] < 5
    stub.plan = ["429:86400"]
    with (
        Endpoint(made(stub).config) as endpoint,
        pytest.raises(engine.DataError, match=r"asks to wait 86400 s\. Come back later"),
    ):
        endpoint.ask("What?", None)


def test_after_six_tries_it_says_so_and_the_journal_keeps_what_came(stub, tmp_path):
    journal = tmp_path / "answers.jsonl"
    stub.plan = ["answer"] * 5 + ["500"] * 6
    with pytest.raises(
        engine.DataError, match=r"did not answer in 6 tries \(the last: status 500\)\. What it has answered is in"
    ):
        made(stub, journal=str(journal)).fill(BUSI)
    assert len(journal.read_text().splitlines()) == 5 and len(stub.heard) == 11
    with journal.open("a") as file:
        file.write('{"key": "torn by a ki')
    bank = made(stub, journal=str(journal)).fill(BUSI)
    assert len(stub.heard) == 11 + 48 - 5  # only what was missing
    assert len(journal.read_text().splitlines()) == 48
    assert "The lesion number 5 has" in bank.classes["benign tumor"].sentences[4]
    made(stub, journal=str(journal)).fill(BUSI)
    assert len(stub.heard) == 54  # nothing is asked again
    made(stub, journal=str(journal), temperature=0.1, answers=1).fill(BUSI)
    assert len(stub.heard) == 54 + 24  # another temperature is another answer


def test_an_endpoint_that_is_not_there_is_tried_aloud_and_asked_after(stub):
    said, dead = [], f"http://127.0.0.1:{free_port()}/v1"
    with (
        Endpoint(made(stub, endpoint=dead).config, said.append) as endpoint,
        pytest.raises(engine.DataError, match=r"\(the last: ConnectError\)\. Is it running\? What it has answered"),
    ):
        endpoint.ask("What?", None)
    assert said == [f"no answer from '127.0.0.1' (ConnectError): try {i} of 6 in 0 s" for i in range(2, 7)]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("401", r"refuses the key \(status 401\)\. Set PROMPTSCOPE_LLM_KEY"),
        ("404", r"has no 'stub-1' at this address \(status 404\)"),
        ("400", r"refuses the request \(status 400\)"),
        ("away", r"sends on to another address, which is not followed"),
        ("huge", r"larger than 1 MB"),
    ],
)
def test_a_fault_that_stays_is_one_sentence_at_once_without_the_key(stub, status, sentence):
    stub.plan = [status]
    with Endpoint(made(stub).config) as endpoint, pytest.raises(engine.DataError, match=sentence) as said:
        endpoint.ask("What?", None)
    assert len(stub.heard) == 1 and SECRET not in str(said.value)


def test_requests_come_no_faster_than_asked(stub):
    with Endpoint(made(stub, per_minute=300.0).config) as endpoint:
        for _ in range(4):
            endpoint.ask("What?", None)
    gaps = [b - a for a, b in zip(stub.times, stub.times[1:], strict=False)]
    assert sum(gaps) >= 3 * 0.2 - 0.1  # 60 s / 300; the server's clock begins after the client's


def test_it_can_be_stopped_between_answers(stub, tmp_path):
    said = []
    watch = engine.Watch(progress=lambda done, of, _: said.append((done, of)), stop=lambda: len(stub.heard) >= 3)
    with pytest.raises(engine.Stopped):
        made(stub, journal=str(tmp_path / "j")).fill(BUSI, (), watch)
    assert said[-1] == (3, 48) and len(Journal(str(tmp_path / "j")).kept) == 3


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("http://llm.example.org/v1", "not encrypted, and is not this machine. Use https, or allow it"),
        ("http://10.0.0.4/v1", "not encrypted"),
        ("http://127.0.0.1.example.org/v1", "not encrypted"),
        (f"https://user:{SECRET}@example.org/v1", "holds a password"),
        ("https://example.org/v1?key=1", "holds a password, a query"),
        ("ftp://example.org", "no address of the web"),
        ("", "no address of the web"),
    ],
)
def test_an_endpoint_that_is_not_safe_is_refused(endpoint, sentence):
    with pytest.raises(engine.DataError, match=sentence) as said:
        Endpoint(LLM.Config(endpoint=endpoint, model="m"))
    assert SECRET not in str(said.value)
    assert Endpoint(LLM.Config(endpoint="http://10.0.0.4/v1", model="m", insecure=True)).host == "10.0.0.4"


def test_only_a_known_providers_host_is_told():
    told = {"https://api.openai.com/v1": "api.openai.com", "https://API.mistral.ai/v1": "api.mistral.ai"}
    others = (
        "llm.charite.de",
        "charite.openai.azure.com",
        "api.openai.com.charite.de",
        "8.8.8.8",
        "radiology",
        "[::1]:8000",
    )
    told |= {f"https://{each}/v1": "not told" for each in others}
    assert {each: public_host(each) for each in told} == told


def test_an_answer_is_parted_into_sentences():
    answer = '1. **A dark mass.** It measures 2.5 cm, e.g. T2 bright.\n- "Edges are smooth!" Is it oval? Yes.\n\n'
    assert split_sentences(answer) == [
        "A dark mass.", "It measures 2.5 cm, e.g. T2 bright.", 'Edges are smooth!"', "Is it oval?", "Yes.",
    ]  # fmt: skip


def test_what_cannot_be_used_is_dropped_with_its_reason():
    lines = [
        "The mass is oval with a smooth edge.",
        "The mass is oval with a smooth edge!",  # the same, but for its end
        "As an AI, I am not able to see the image.",
        "I'm sorry, but it depends.",
        "Die Raumforderung hat einen glatten Rand ohne Schatten.",
        "肿块呈椭圆形 边缘光滑 内部回声均匀",
        "Here they are:",
        "Oval.",
        "Unlike a malignant tumor, the edge is smooth.",
        "A benign tumor is round, a " + "very " * 90 + "smooth one.",
        "A benign tumor is hypoechoic.",
    ]
    kept, dropped = checked(BUSI, BUSI.labels[0], ["\n".join(lines)], None)
    assert kept == [lines[0], lines[-1]]
    assert dropped == {
        "duplicate": 1, "refusal": 2, "not English": 2, "no sentence": 2, "names another class": 1, "too long": 1,
    }  # fmt: skip


def test_our_own_banks_pass_the_check_of_language():
    for task in engine.tasks().values():
        for label in task.labels:
            sentences = engine.descriptions(task).classes[label.name].sentences
            assert checked(task, label, sentences, None)[1]["not English"] == 0, label.name


def test_a_sentence_that_the_text_tower_cannot_read_is_dropped():
    backbone = engine.load_backbone("scope-mini")
    long = "A mass with " + " ".join(["edge"] * (backbone.context_length - 1)) + "."
    assert len(long) <= llm.LONGEST  # it is the tower that refuses it
    kept, dropped = checked(BUSI, BUSI.labels[0], [long, "The mass is oval."], backbone)
    assert kept == ["The mass is oval."] and dropped == {"too long": 1}


def test_a_class_without_a_sentence_is_said(stub):
    stub.text = lambda n, question: "As an AI language model, I cannot describe this."
    with pytest.raises(engine.DataError, match=r"answered about 'Benign tumou?r' can be used \(refusal: 16\)"):
        made(stub).fill(BUSI)


def test_biomedcoops_query_asks_once_a_class_for_many(stub):
    stub.text = lambda n, question: "\n".join(f"{i}. The finding is number {i} of {n} in the list." for i in range(1, 6))
    bank = made(stub, questions="biomedcoop", sentences=5).fill(BUSI)
    assert len(stub.heard) == 3 and json.loads(stub.heard[0][2])["max_tokens"] == 200
    assert bank.classes["normal scan"].sentences == tuple(
        f"The finding is number {i} of 3 in the list." for i in range(1, 6)
    )


@pytest.mark.parametrize("text", ["[]", "7", '{"key": 1, "answer": "x"}', "[" * 100_000, '{"key": "a"}'])
def test_a_journal_of_something_else_is_refused_and_left_alone(text, tmp_path):
    (tmp_path / "j").write_text(text + "\n")
    with pytest.raises(engine.DataError, match="Line 1 of the journal 'j' is no answer"):
        Journal(str(tmp_path / "j"))
    assert (tmp_path / "j").read_text() == text + "\n"


@pytest.mark.parametrize("text", ['{"key": "patients", "answer": "mine"}', "one line of a stranger", '{"key": "ab'])
def test_a_strangers_line_without_an_end_is_left_as_it_is(text, tmp_path):
    (tmp_path / "j").write_text(text)
    with pytest.raises(engine.DataError, match="Line 1 of the journal 'j' is no answer"):
        Journal(str(tmp_path / "j"))
    assert (tmp_path / "j").read_text() == text


def test_a_journals_own_first_line_that_was_torn_is_left_out(tmp_path):
    journal = Journal(str(tmp_path / "j"))
    journal.add("0123456789abcdef" * 4, "Yes.")
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole[:90])
    assert Journal(str(tmp_path / "j")).kept == {} and (tmp_path / "j").read_bytes() == b""


def test_a_folder_as_a_journal_and_one_in_no_folder_are_said(tmp_path):
    for place in (tmp_path, tmp_path / "none" / "j"):
        with pytest.raises(engine.DataError, match=r"is no file, or has no folder\. Choose another"):
            Journal(str(place))


def test_no_proxy_of_the_environment_hears_what_goes_over_http(stub, monkeypatch):
    proxy = Stub()
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.address.removesuffix("/v1"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Endpoint(made(stub).config) as endpoint:
        endpoint.ask("What?", None)
    proxy.shutdown()
    proxy.server_close()
    assert proxy.heard == [] and len(stub.heard) == 1


def test_the_command_line_writes_a_bank_that_can_be_read(stub, tmp_path, capsys):
    out = tmp_path / "busi.json"
    words = [
        "words",
        "describe",
        "busi",
        "--endpoint",
        stub.address,
        "--model",
        "stub-1",
        "--out",
        str(out),
        "--set",
        "per_minute=1e6",
        "answers=1",
    ]
    assert main(words) == 0 and "benign tumor" in capsys.readouterr().out
    bank = read_bank(out, BUSI)
    assert bank.provenance[-1]["length"] == "text tower of scope-mini" and len(bank.classes["normal scan"].sentences) == 8
    assert (tmp_path / "busi.answers.jsonl").is_file()
    assert main(words) == 2 and "There is a file 'busi.json' already" in capsys.readouterr().err
    heard = len(stub.heard)
    assert main([*words, "--force"]) == 0 and len(stub.heard) == heard  # all is in the journal
