"""Description banks in and out of other projects' forms; files of strangers are refused in a sentence. Run: python -m pytest tests/test_exchange.py"""

from __future__ import annotations

import ast
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import engine
from engine import exchange
from engine.__main__ import main
from engine.errors import DataError
from engine.exchange import FORMATS, export_bank, import_bank
from engine.tasks import ClassDescriptions, DescriptionBank, Label, bank_text, made_bank, read_bank, tasks_with

TWO = replace(engine.task("busi"), labels=(Label("benign tumor", "Benign"), Label("normal scan", "Normal", ("no_finding",))))


def test_a_python_file_is_parsed_and_not_run(tmp_path):
    path, canary = tmp_path / "prompt_templates.py", tmp_path / "canary"
    path.write_text(
        f"open({str(canary)!r}, 'w')\n"
        "CUSTOM_TEMPLATES = {'BTMRI': 'a photo of a {}.'}\n"
        "BIOMEDDPT_TEMPLATES = {'benign tumor': ['One.', 'Two.', 'One.'], 'normal scan': ['Three'], 'polyp': ['Four.']}\n"
        "BIOMEDCOOP_TEMPLATES = {'benign tumor': ['Five.'], 'normal scan': ['Six.']}\n"
    )
    bank = import_bank(path, TWO)
    assert not canary.exists()
    assert list(bank.classes) == ["benign tumor", "normal scan"]
    assert bank.classes["benign tumor"].sentences == ("One.", "Two.", "One.")
    assert bank.classes["normal scan"].sentences == ("Three",)
    assert bank.source.startswith("Imported from BIOMEDDPT_TEMPLATES of prompt_templates.py; 1 sentences are repeats")
    assert bank.licence == "unknown: imported by the user" and bank.task == "busi"
    other = import_bank(path, TWO, "BIOMEDCOOP_TEMPLATES")
    assert other.classes["normal scan"].sentences == ("Six.",)
    (tmp_path / "bank.json").write_text(bank_text(other))
    again = read_bank(tmp_path / "bank.json", TWO)
    assert bank_text(again) == bank_text(other) and again.sha256 == other.sha256


def test_a_python_file_whose_bank_is_no_literal_is_refused(tmp_path):
    path, canary = tmp_path / "prompt_templates.py", tmp_path / "canary"
    path.write_text(f"BIOMEDCOOP_TEMPLATES = {{'benign tumor': [open({str(canary)!r}, 'w')]}}\n")
    with pytest.raises(DataError, match="cannot be read"):
        import_bank(path, TWO)
    assert not canary.exists()
    path.write_text("BIOMEDCOOP_TEMPLATES = " + "[" * 100_000)
    with pytest.raises(DataError, match="cannot be read"):
        import_bank(path, TWO)
    path.write_text("X = 1")
    with pytest.raises(DataError, match="it has no BIOMEDCOOP_TEMPLATES or BIOMEDDPT_TEMPLATES"):
        import_bank(path, TWO)


def test_a_medpromptclip_bank_is_cleaned(tmp_path):
    path = tmp_path / "Breast.json"
    path.write_text(
        json.dumps({"Benign_tumor": ["It is round..", "", "Two\nlines.", "It is round."], "No_Finding": ["None.."]})
    )
    bank = import_bank(path, TWO)
    assert bank.classes["benign tumor"].sentences == ("It is round.", "Two lines.", "It is round.")
    assert bank.classes["normal scan"].sentences == ("None.",)
    assert "MedPromptCLIP; 1 sentences are repeats" in bank.source


def captions(*images):
    """images : one list of (prefix, name, suffix, colour) by class each."""
    made = {}
    for i, rows in enumerate(images):
        prefix, name, suffix, colour = (list(each) for each in zip(*rows, strict=True))
        caption = ". ".join(a + b + c for a, b, c, _ in rows)
        about = {"caption": caption, "prefix": prefix, "name": name, "suffix": suffix, "color": colour}
        made[f"DATA/POLYP/{i}.png"] = about
    return made


def test_a_miu_vl_file_gives_each_class_its_distinct_phrases(tmp_path):
    path = tmp_path / "hybrid.json"
    clear = ("", "clear tissue", "", "grey")
    images = captions(
        [("pink ", "round bump", " in breast", "pink"), clear],
        [("white ", "round bump", " in breast", "white"), clear],
        [("pink ", "round bump", " in breast", "pink"), clear],
    )
    path.write_text(json.dumps(images))
    bank = import_bank(path, TWO)
    assert bank.classes["benign tumor"].sentences == ("pink round bump in breast", "white round bump in breast")
    assert bank.classes["benign tumor"].attributes["colour"] == ("pink", "white")
    assert bank.classes["normal scan"].sentences == ("clear tissue",)
    assert "POLYP" not in bank_text(bank)
    images["DATA/POLYP/0.png"]["caption"] = "something else"
    path.write_text(json.dumps(images))
    with pytest.raises(DataError, match="is not its prefixes, names and suffixes"):
        import_bank(path, TWO)
    path.write_text(json.dumps(captions([clear])))
    with pytest.raises(DataError, match="has 1 classes; the task 'busi' has 2"):
        import_bank(path, TWO)


BAD_BANKS = {
    "classes missing": ({"polyp": ["One."]}, "no sentences for: benign tumor, normal scan. It holds: polyp"),
    "a class empty": ({"benign tumor": [" "], "normal scan": ["One."]}, "no sentences for: benign tumor"),
    "a list": (["One."], "another form"),
    "text for a list": ({"benign tumor": "One.", "normal scan": ["Two."]}, "another form"),
    "numbers": ({"benign tumor": [1], "normal scan": ["Two."]}, "another form"),
    "empty": ({}, "another form"),
}


@pytest.mark.parametrize("fault", BAD_BANKS)
def test_a_bad_bank_is_refused_in_one_sentence(tmp_path, fault):
    found, sentence = BAD_BANKS[fault]
    (tmp_path / "bank.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=sentence) as raised:
        import_bank(tmp_path / "bank.json", TWO)
    assert "\n" not in str(raised.value)


def test_a_bank_file_that_is_no_json_or_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "bank.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match="cannot be read"):
        import_bank(tmp_path / "bank.json", TWO)
    monkeypatch.setattr(exchange, "BANK_BYTES", 1000)
    with pytest.raises(DataError, match="larger than"):
        import_bank(tmp_path / "bank.json", TWO)


# --- round trips --------------------------------------------------------------------------------------------------------

SIGNS = [
    '"',
    "'",
    '"""',
    "\\",
    "{",
    "}",
    "{}",
    "[0]",
    "\n",
    "\t",
    "é",
    "ß",
    "腫瘍",
    "😀",
    "\u2028",
    "#",
    "%s",
    "\\u0041",
    "\\n",
    ", ",
    ". ",
    "in",
]


def drawn(rng: random.Random, words: int) -> str:
    """A text of letters and of what breaks a careless writer; never blank."""
    parts = [
        rng.choice(SIGNS) if rng.random() < 0.4 else "".join(rng.choices("abcxyz", k=rng.randint(1, 6)))
        for _ in range(words)
    ]
    return "k" + " ".join(parts)


def random_bank(seed: int, slots: bool = True) -> DescriptionBank:
    rng = random.Random(seed)
    classes = {}
    for label in TWO.names:
        held = {
            s: tuple(dict.fromkeys(drawn(rng, 2).strip() for _ in range(rng.randint(0, 3))))
            for s in ("colour", "shape", "location")
        }
        sentences = tuple(drawn(rng, rng.randint(1, 9)) for _ in range(rng.randint(1, 6)))
        classes[label] = ClassDescriptions({"query": (drawn(rng, 2).strip(),)}, held if slots else {}, sentences, ())
    return made_bank(DescriptionBank("busi", "made", "", classes))


def on_one_line(text: str) -> str:
    line = " ".join(text.split())
    return line.rstrip(".") + "." if line.endswith("..") else line


@pytest.mark.parametrize("form", ["medpromptclip", "biomedcoop"])
@pytest.mark.parametrize("seed", range(20))
def test_sentences_come_back_whatever_they_hold(tmp_path, form, seed):
    bank = random_bank(seed)
    (out,) = export_bank(bank, TWO, form, tmp_path / f"bank{FORMATS[form].suffix}")
    again = import_bank(out, TWO)
    assert {k: v.sentences for k, v in again.classes.items()} == {
        k: tuple(map(on_one_line, v.sentences)) for k, v in bank.classes.items()
    }
    (twice,) = export_bank(again, TWO, form, tmp_path / f"twice{FORMATS[form].suffix}")
    assert import_bank(twice, TWO).classes == again.classes
    assert again.provenance == ({"by": "import", "form": form},)


@pytest.mark.parametrize("seed", range(20))
def test_words_come_back_from_miu_vls_files_in_their_order(tmp_path, seed):
    bank = random_bank(seed)
    files = export_bank(bank, TWO, "miu-vl", tmp_path / "hybrid.json", ["./DATA/a.png", "DATA/b.png"])
    ranks = max(len(words) for each in bank.classes.values() for words in each.attributes.values())
    assert [each.name for each in files] == [f"hybrid_top{j}.json" for j in range(1, ranks + 1)]
    for j, file in enumerate(files):
        found = json.loads(file.read_text())
        assert list(found) == ["DATA/a.png", "DATA/b.png"]
        for entry in found.values():  # upstream's own assertion when it loads a file
            parts = zip(entry["prefix"], entry["name"], entry["suffix"], strict=True)
            assert entry["caption"] == ". ".join(a + b + c for a, b, c in parts)
        first = bank.classes["benign tumor"]
        held = {slot: (*words, "", "", "")[j] for slot, words in first.attributes.items()}
        colour, shape = (
            (f"{held['colour']} color, ") * bool(held["colour"]),
            (f"{held['shape']} shape ") * bool(held["shape"]),
        )
        place = f" in {held['location']}" * bool(held["location"])
        assert (
            entry["prefix"][0] + entry["name"][0] + entry["suffix"][0] == colour + shape + first.synonyms["query"][0] + place
        )
    again = import_bank(files[0], TWO)
    for label, each in bank.classes.items():
        assert again.classes[label].attributes == {slot: words for slot, words in each.attributes.items() if words}
        assert again.classes[label].synonyms == {"query": each.synonyms["query"]}
    export_bank(again, TWO, "miu-vl", tmp_path / "again.json", ["DATA/a.png", "DATA/b.png"])
    for j, file in enumerate(files, start=1):
        assert (tmp_path / f"again_top{j}.json").read_text() == file.read_text()


def test_python_itself_reads_the_exported_source_as_upstream_does(tmp_path):
    """`from trainers.prompt_templates import BIOMEDCOOP_TEMPLATES`, by an interpreter that has nothing of ours."""
    bank = random_bank(7)
    (out,) = export_bank(bank, TWO, "biomedcoop", tmp_path / "prompt_templates.py")
    expected = {label: list(about.sentences) for label, about in bank.classes.items()}
    tree = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(out.read_text()).body
        if isinstance(node, ast.Assign)
    }
    assert tree["BIOMEDCOOP_TEMPLATES"] == expected and tree["CUSTOM_TEMPLATES"] == {"BUSI": "a photo of a {}."}
    program = f"import sys, json; sys.path.insert(0, {str(tmp_path)!r})\nfrom prompt_templates import BIOMEDCOOP_TEMPLATES as b\nprint(json.dumps(b))"
    said = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(said.stdout) == expected


@pytest.mark.parametrize("task", ["busi", "retina", "kvasir", "modality"])
def test_shipped_banks_pass_through_every_form(tmp_path, task):
    of = engine.task(task)
    bank = engine.descriptions(of)
    for form, about in FORMATS.items():
        files = export_bank(bank, of, form, tmp_path / f"{form}{about.suffix}")
        again = import_bank(files[0], of)
        for label, each in bank.classes.items():
            if form == "miu-vl":
                held = {k: v[:3] for k, v in each.attributes.items() if k != "texture"}
                held["location"] = tuple(w.replace("in the central field", "the central field") for w in held["location"])
                assert again.classes[label].attributes == held
            else:
                assert again.classes[label].sentences == tuple(map(on_one_line, each.sentences))


def test_older_files_of_miu_vl_give_the_location_and_the_bare_name(tmp_path):
    entry = {"caption": "white round bump in rectum. clear", "prefix": ["", ""], "name": ["white round bump", "clear"]}
    entry |= {"suffix": [" in rectum", ""], "color": ["white", ""], "shape": ["round", ""]}
    (tmp_path / "x.json").write_text(json.dumps({"a.png": entry}))
    about = import_bank(tmp_path / "x.json", TWO).classes["benign tumor"]
    assert about.synonyms == {"query": ("bump",)} and about.attributes["location"] == ("rectum",)
    assert about.attributes["colour"] == ("white",) and about.attributes["shape"] == ("round",)


def test_a_location_that_says_how_it_lies_gets_no_second_in(tmp_path):
    places = ("within the glandular tissue", "in front of the chest wall", "the rectum")
    classes = {label: ClassDescriptions({}, {"location": places}, (), ()) for label in TWO.names}
    files = export_bank(made_bank(DescriptionBank("busi", "", "", classes)), TWO, "miu-vl", tmp_path / "x.json")
    suffixes = [json.loads(file.read_text())["all images"]["suffix"][0] for file in files]
    assert suffixes == [" within the glandular tissue", " in front of the chest wall", " in the rectum"]
    assert import_bank(files[0], TWO).classes["normal scan"].attributes["location"] == places


def test_files_of_ranks_that_a_new_bank_does_not_have_are_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "bank:busi", "--format", "miu-vl", "--out", "b[1].json"]) == 0
    assert len(list(tmp_path.iterdir())) == 3
    one = {label: ClassDescriptions({}, {"colour": ("red",)}, (), ()) for label in engine.task("busi").names}
    (tmp_path / "one.json").write_text(bank_text(DescriptionBank("busi", "", "", one)))
    again = ["export", "bank:busi", "--format", "miu-vl", "--out", "b[1].json", "--descriptions", "one.json"]
    assert main(again) == 2 and len(list(tmp_path.iterdir())) == 4
    assert main([*again, "--force"]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b[1]_top1.json", "one.json"]


def test_a_bank_without_what_a_form_holds_is_not_exported(tmp_path):
    empty = made_bank(DescriptionBank("busi", "", "", {label: ClassDescriptions({}, {}, (), ()) for label in TWO.names}))
    with pytest.raises(DataError, match="no colour, shape or location of any class"):
        export_bank(empty, TWO, "miu-vl", tmp_path / "x.json")
    with pytest.raises(DataError, match="lacks sentences of some class"):
        export_bank(empty, TWO, "biomedcoop", tmp_path / "x.py")
    with pytest.raises(DataError, match=r"no form 'coco' of a bank\. Choose one of: miu-vl, medpromptclip, biomedcoop"):
        export_bank(empty, TWO, "coco", tmp_path / "x.json")
    with pytest.raises(DataError, match=r"another ending than '\.py'"):
        export_bank(empty, TWO, "biomedcoop", tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_the_command_line_exports_and_imports(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "bank:busi", "--format", "miu-vl", "--out", "b.json", "--json"]) == 0
    written = [each["written"] for each in json.loads(capsys.readouterr().out)["results"]]
    assert written == ["b_top1.json", "b_top2.json", "b_top3.json"]
    assert main(["export", "bank:busi", "--format", "miu-vl", "--out", "b.json"]) == 2
    assert "Add --force to replace it." in capsys.readouterr().err
    assert main(["import", "b_top1.json", "--bank", "--task", "busi", "--out", "busi.json"]) == 0
    assert main(["words", "show", "busi", "--descriptions", "busi.json", "--class", "benign tumor", "--json"]) == 0
    out = capsys.readouterr().out
    row = json.loads(out[out.index("{") :])["results"][0]
    assert row["slots"]["colour"] == list(engine.descriptions("busi").classes["benign tumor"].attributes["colour"][:3])
    assert main(["export", "bank:busi"]) == 2
    assert "Give --format miu-vl, medpromptclip, biomedcoop." in capsys.readouterr().err


def test_an_imported_bank_goes_where_it_is_told_to(tmp_path, capsys, monkeypatch):
    """Bug: a folder was passed over, and the bank written into the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps({label: ["One."] for label in engine.task("busi").names}))
    (tmp_path / "v1.2").mkdir()
    asked = ("import", "x.json", "--bank", "--task", "busi")
    places = {"banks/new": "banks/new/busi.json", "v1.2": "v1.2/busi.json", "a b/c.json": "a b/c.json", "": "busi.json"}
    for out, written in places.items():
        assert main([*asked, *(["--out", out] if out else [])]) == 0
        assert capsys.readouterr().out.splitlines()[0] == written and list(tasks_with(written)) == ["busi"]
    assert main([*asked, "--out", "a b/d.json"]) == 0 and "--descriptions 'a b/d.json', or" in capsys.readouterr().out
    assert main([*asked, "--out", "x.txt"]) == 2
    assert "'x.txt' has another ending than '.json'. Name it so, or name a folder." in capsys.readouterr().err
    assert main(["import", "none.json", "--bank", "--task", "busi"]) == 2
    assert capsys.readouterr().err.startswith("error: There is no file 'none.json'.")
    assert (
        main(["export", "bank:busi", "--format", "biomedcoop", "--out", "new/p.py"]) == 0
        and (tmp_path / "new/p.py").is_file()
    )


# --- hostile files ------------------------------------------------------------------------------------------------------


def nested(depth: int, value: object = "x") -> object:
    for _ in range(depth):
        value = [value]
    return value


def entry(**changed):
    return {"caption": "a. b", "prefix": ["", ""], "name": ["a", "b"], "suffix": ["", ""]} | changed


WRONG = [None, True, 0, -1.5, 10**30, "text", [], {}, [None], [[]], {"a": 1}, ["x", 1], nested(50), {"": {"": {}}}]
HOSTILE_JSON = {
    "not a number": '{"benign tumor": [NaN], "normal scan": [Infinity]}',
    "a huge integer": '{"benign tumor": [' + "9" * 5000 + "]}",
    "a key twice": '{"benign tumor": ["One."], "benign tumor": ["Two."], "normal scan": ["Three."]}',
    "half a surrogate pair": '{"benign tumor": ["\\ud800"], "normal scan": ["One."]}',
    "200,000 deep lists": "[" * 200_000 + "]" * 200_000,
    "200,000 deep objects": '{"a":' * 200_000 + "1" + "}" * 200_000,
    "cut": '{"benign tumor": ["One."',
    "no text": "\x00\x01",
    "a million numbers": "[" + "0," * 1_000_000 + "0]",
    "half a million classes": "{" + ",".join(f'"{i:x}":[]' for i in range(300_000)) + "}",
    "300,000 images": "{" + ",".join(f'"{i:x}":{{}}' for i in range(300_000)) + "}",
    "a class of a million names": json.dumps(
        {"i": entry(prefix=[""] * 300_000, name=["a"] * 300_000, suffix=[""] * 300_000)}
    ),
}
HOSTILE_PYTHON = {
    "deep brackets": "BIOMEDCOOP_TEMPLATES = " + "[" * 200_000 + "]" * 200_000,
    "a long sum": "BIOMEDCOOP_TEMPLATES = " + "1+" * 150_000 + "1",
    "many signs": "BIOMEDCOOP_TEMPLATES = [" + "0," * 1_500_000 + "]",
    "many words": "BIOMEDCOOP_TEMPLATES = " + "0 or " * 700_000 + "0",
    "many nots": "BIOMEDCOOP_TEMPLATES = " + "not " * 300_000 + "0",
    "deep names": "a" + ".a" * 180_000 + " = 1",
    "many statements": "0\n" * 1_500_000,
    "huge power": "BIOMEDCOOP_TEMPLATES = {'benign tumor': [9**9**9], 'normal scan': ['x']}",
    "a key that is a list": "BIOMEDCOOP_TEMPLATES = {[]: []}",
    "bytes": "BIOMEDCOOP_TEMPLATES = {'benign tumor': [b'x'], 'normal scan': ['x']}",
    "half a surrogate pair": "BIOMEDCOOP_TEMPLATES = {'benign tumor': ['\\ud800'], 'normal scan': ['x']}",
    "a huge integer": "BIOMEDCOOP_TEMPLATES = " + "9" * 5000,
}


def refused(path) -> None:
    began = time.monotonic()
    with pytest.raises(DataError) as raised:
        import_bank(path, TWO)
    said = str(raised.value)
    assert "\n" not in said and len(said) < 800, said[:200]
    assert time.monotonic() - began < 20  # a hang guard: it takes a second or two beside other work


@pytest.mark.parametrize("fault", HOSTILE_JSON)
def test_a_hostile_json_file_is_refused_in_one_sentence(tmp_path, fault):
    (tmp_path / "bank.json").write_text(HOSTILE_JSON[fault])
    refused(tmp_path / "bank.json")


@pytest.mark.parametrize("fault", HOSTILE_PYTHON)
def test_a_hostile_python_file_is_refused_in_one_sentence(tmp_path, fault):
    (tmp_path / "bank.py").write_text(HOSTILE_PYTHON[fault])
    refused(tmp_path / "bank.py")


def test_a_hundred_megabytes_are_not_read(tmp_path):
    for name in ("bank.json", "bank.py"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(100 * 2**20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(tmp_path / name)
        with pytest.raises(DataError, match="cannot be read"):
            read_bank(tmp_path / name, TWO)
        with pytest.raises(DataError, match="cannot be read"):
            tasks_with(tmp_path / name)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # kilobytes


def mutated(rng: random.Random, value: object, wrong: object) -> object:
    """The value with one place in it, at any level, made something else."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.25:
        return wrong
    if isinstance(value, dict):
        key = rng.choice(list(value))
        return value | {key: mutated(rng, value[key], wrong)}
    at = rng.randrange(len(value))
    return [*value[:at], mutated(rng, value[at], wrong), *value[at + 1 :]]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: str(each)[:20])
def test_a_wrong_type_at_any_level_is_refused_or_harmless(tmp_path, wrong):
    rng, path = random.Random(3), tmp_path / "bank.json"
    good = {
        "miu-vl": {"a.png": entry(color=["red", ""], shape=["round", ""], cls=["a", "b"]), "b.png": entry()},
        "medpromptclip": {"benign tumor": ["One."], "normal scan": ["Two.", "Three."]},
    }
    own = json.loads(bank_text(random_bank(1)))
    for _ in range(25):
        for value in good.values():
            path.write_text(json.dumps(mutated(rng, value, wrong)))
            try:
                bank = import_bank(path, TWO)
            except DataError as error:
                assert "\n" not in str(error)
            else:
                assert bank_text(read_back(bank, tmp_path)) == bank_text(bank)
        path.write_text(json.dumps(mutated(rng, own, wrong)))
        try:
            bank = read_bank(path, TWO)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(word, str) for each in bank.classes.values() for word in each.sentences)
            bank_text(made_bank(bank))


def read_back(bank: DescriptionBank, tmp_path) -> DescriptionBank:
    (tmp_path / "own.json").write_text(bank_text(bank))
    return read_bank(tmp_path / "own.json", TWO)
