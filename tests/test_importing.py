"""Upstream's files made here with torch.save, read by the restricted reader, and turned into prompt sets; what is
hostile or damaged runs nothing and is refused in one sentence. Run: python -m pytest tests/test_importing.py"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import engine
from engine import checkpoints
from engine.checkpoints import Checkpoint, read_records
from engine.errors import PromptSetError
from engine.importing import candidates, import_checkpoint
from engine.methods import METHODS, carried
from engine.predict import bound
from engine.prompts import PromptSet

PHOTO = "a photo of a {}."
TASK = "btmri"


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


def words(backbone, template, names, n):
    """What upstream's prompt learner keeps: ids to the full length, and the embedding before and after the context."""
    ids = backbone.tokenize([template.replace("{}", name) for name in names])
    ids = torch.nn.functional.pad(ids, (0, backbone.context_length - ids.shape[1]))
    vectors = backbone.embed_tokens(ids).vectors.clone()
    return ids, vectors[:, :1].clone(), vectors[:, 1 + n :].clone()


def context(backbone, n, seed=0):
    """(n, W) inside a larger storage, as a context that started from words is."""
    made = 0.05 * torch.randn(50, backbone.token_width, generator=torch.Generator().manual_seed(seed))
    return made[7 : 7 + n]


def prompt_learner(backbone, task, template=PHOTO, n=4, names=None, prefix="prompt_learner."):
    _, first, rest = words(backbone, template, names or engine.task(task).names, n)
    return {f"{prefix}ctx": context(backbone, n), f"{prefix}token_prefix": first, f"{prefix}token_suffix": rest}


def whole_model(backbone, task):
    """BiomedCoOp's keys, the towers small but larger than what is needed of the file."""
    tower = torch.randn(1000, 512)
    return prompt_learner(backbone, task) | {
        "prompt_learner.ZS_image_encoder.trunk.cls_token": torch.randn(300, 512),
        "image_encoder.trunk.cls_token": tower,
        "text_encoder.model.visual.trunk.cls_token": tower,
        "image_encoder.trunk.count": torch.tensor(3),
        "logit_scale": torch.tensor(4.4),
    }


def biomed_dpt(backbone, task, template, n):
    return prompt_learner(backbone, task, template, n) | {"image_encoder.clipmodel.visual.x": torch.randn(4, 4)}


def medpromptclip(backbone, n, depth):
    rows = torch.zeros(backbone.embed_tokens(torch.tensor([[0]])).vectors.shape[-1])
    table = torch.zeros(10, len(rows))
    first = int(backbone.tokenize(["x"])[0, 0])
    table[first] = backbone.embed_tokens(torch.tensor([[first]])).vectors[0, 0]
    deep = {f"text_encoder.transformer.resblocks.{i}.VPT_shallow": context(backbone, n, i) for i in range(1, depth)}
    zs = "prompt_learner.clip_model_zs."
    return {"prompt_learner.ctx": context(backbone, n), f"{zs}token_embedding.weight": table, **deep}


def write(path, state, epoch=100):
    """As Dassl's save_checkpoint: an optimiser's state and a scheduler that drags a pickled CosineAnnealingLR along."""
    parameter = torch.nn.Parameter(torch.zeros(4, 8))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(4, 8)
    optimizer.step()
    after = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    scheduler = {"successor": after, "last_epoch": 3, "base_lrs": [0.1]}
    state = {name: value.detach() for name, value in state.items()}
    torch.save({"state_dict": state, "epoch": epoch, "optimizer": optimizer.state_dict(), "scheduler": scheduler}, path)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.pth.tar-100"


def by_hand(backbone, template, names, rows, deep=None):
    """Embed each prompt, replace its rows 1 to n, encode: one class at a time, to the full length."""
    made = []
    for name in names:
        ids, _, _ = words(backbone, template, [name], 0)
        vectors = backbone.embed_tokens(ids).vectors.clone()
        vectors[0, 1 : 1 + len(rows)] = rows
        deeper = None if deep is None else deep[:, None]
        made.append(backbone.encode_embedded(engine.backbones.base.Embedded(vectors, ids), deep=deeper)[0])
    return torch.stack(made).detach().numpy()


# --- the reader ---------------------------------------------------------------------------------------------------------


def test_tensors_of_every_read_type_and_stride_come_back(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "float32": base,
        "transposed": base.T,
        "column": base[:, 2],
        "half": base.half(),
        "bfloat16": (base / 7).bfloat16(),
        "double": base.double(),
        "long": torch.tensor([[1, -2]]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base + 1),
    }
    torch.save(state, tmp_path / "plain.pt")
    found = read_records(tmp_path / "plain.pt", lambda name: True)
    assert found.keys() == state.keys()
    for name, value in state.items():
        value = value.detach().float() if name == "bfloat16" else value.detach()
        assert np.array_equal(found[name], value.numpy()), name
        assert found[name].dtype == value.numpy().dtype


def test_an_upstream_checkpoint_is_one_that_torchs_own_safe_reader_refuses(mini, file):
    write(file, whole_model(mini, TASK))
    with pytest.raises(pickle.UnpicklingError, match="CosineAnnealingLR"):
        torch.load(file, weights_only=True)
    assert np.array_equal(read_records(file, lambda n: n.endswith(".ctx"))["prompt_learner.ctx"], context(mini, 4).numpy())


class Watched(io.BytesIO):
    """Remembers which bytes were read."""

    def __init__(self, raw):
        super().__init__(raw)
        self.seen = []

    def read(self, size=-1):
        start = self.tell()
        raw = super().read(size)
        self.seen.append((start, start + len(raw)))
        return raw


def test_only_the_index_and_the_wanted_rows_are_read(mini, file):
    write(file, whole_model(mini, TASK))
    watched = Watched(file.read_bytes())
    with zipfile.ZipFile(file) as whole:
        records = {info.filename: info for info in whole.infolist()}
    found = read_records(watched, lambda name: name == "prompt_learner.ctx")
    assert np.array_equal(found["prompt_learner.ctx"], context(mini, 4).numpy())
    large = [info for info in records.values() if info.file_size > 500_000]
    assert len(large) == 2  # both towers, the shared one once
    for info in large:
        for start, end in watched.seen:
            assert end <= info.header_offset + 30 or start >= info.header_offset + info.file_size, info.filename
    index = next(info.file_size for name, info in records.items() if name.endswith("data.pkl"))
    read = sum(end - start for start, end in watched.seen)
    rows = 4 * 4 * mini.token_width  # not the 50 rows of the storage
    directory = 200 * len(records)
    assert rows + index <= read <= rows + index + directory + 1000, (read, rows, index)


class Evil:
    def __init__(self, call, *arguments):
        self.how = (call, arguments)

    def __reduce__(self):
        return self.how


def test_a_pickle_that_calls_the_system_runs_nothing(mini, file, tmp_path):
    canary = tmp_path / "canary"
    script = f"open({str(canary)!r}, 'w')"
    evil = [
        Evil(os.system, f"touch {canary}"),
        Evil(eval, script),
        Evil(exec, script),
        Evil(subprocess.check_output, ["touch", str(canary)]),
    ]
    state = whole_model(mini, TASK) | {"evil": evil[0]}
    torch.save({"state_dict": state, "epoch": 1, "optimizer": evil, "scheduler": {"a": evil[1]}}, file)
    made = import_checkpoint(file, mini, engine.task(TASK))
    assert made.labels == engine.task(TASK).names and not canary.exists()
    torch.load(file, weights_only=False)  # the file would have
    assert canary.exists()


def test_the_reader_imports_neither_torch_nor_what_a_pickle_names(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {"ctx": torch.ones(2, 3)}, "x": Evil(__import__, "antigravity"), "y": Evil(len, "a")}, path)
    program = (
        "import sys, types; package = types.ModuleType('engine'); package.__path__ = ['engine']; sys.modules['engine'] = package\n"
        "from engine.checkpoints import read_records\n"
        "assert read_records(sys.argv[1], lambda n: True)['ctx'].sum() == 6\n"
        "assert not {'torch', 'antigravity'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, timeout=60, cwd=checkpoints.__file__.rsplit("/", 2)[0]
    )


def zipped(path, pickled, how=zipfile.ZIP_STORED, records=()):
    with zipfile.ZipFile(path, "w", how) as out:
        out.writestr("archive/data.pkl", pickled)
        for name, raw in records:
            out.writestr(f"archive/data/{name}", raw)


class Tensor:
    """Pickles as torch's tensors do. parts : offset, size, stride; record of the storage."""

    def __init__(self, *parts, record="0"):
        self.parts, self.record = parts, record

    def __reduce__(self):
        storage = ("storage", torch.FloatStorage, self.record, "cuda:3", 4)
        return torch._utils._rebuild_tensor_v2, (Id(storage), *self.parts, False, {})


class Id:
    def __init__(self, about):
        self.about = about


class Pickler(pickle.Pickler):
    def persistent_id(self, found):
        return found.about if isinstance(found, Id) else None


def pickled(value):
    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    return out.getvalue()


def tensor_file(path, *parts, record="0", raw=bytes(16)):
    zipped(path, pickled({"ctx": Tensor(*parts, record=record)}), records=[("0", raw)])


def overwritten(path, at, raw):
    whole = bytearray(path.read_bytes())
    whole[at : at + len(raw)] = raw
    path.write_bytes(whole)


BAD_FILES = {
    "no zip": (lambda p: p.write_bytes(b"hello"), "not in PyTorch's zip format"),
    "older torch": (
        lambda p: torch.save({"ctx": torch.ones(2)}, p, _use_new_zipfile_serialization=False),
        "not in PyTorch's zip format",
    ),
    "empty": (lambda p: p.write_bytes(b""), "not in PyTorch's zip format"),
    "absent": (lambda p: None, "cannot be opened"),
    "cut": (lambda p: (tensor_file(p, 0, (2, 2), (2, 1)), p.write_bytes(p.read_bytes()[:-40])), "cut short or damaged"),
    "no index": (lambda p: zipfile.ZipFile(p, "w").writestr("a/b", b"x"), "cut short|has 0 data.pkl"),
    "compressed": (lambda p: zipped(p, b"\x80\x02}." * 1000, zipfile.ZIP_DEFLATED), "compressed or encrypted record"),
    "pickle cut": (lambda p: zipped(p, pickled({"ctx": [1]})[:-3]), "cannot be followed"),
    "pickle of noise": (lambda p: zipped(p, bytes(range(256))), "cannot be followed"),
    "stack empty": (lambda p: zipped(p, b"\x80\x02R."), "cannot be followed"),
    "memo empty": (lambda p: zipped(p, b"\x80\x02h\x05."), "cannot be followed"),
    "no dict": (lambda p: zipped(p, pickled([1, 2])), "holds no tensors by name"),
    "no tensors": (lambda p: zipped(p, pickled({"state_dict": {"ctx": 3}})), "holds no tensors by name"),
    "past the record": (lambda p: tensor_file(p, 1, (2, 2), (2, 1)), "has 16 bytes in the record .* where 20 are needed"),
    "repeated": (lambda p: tensor_file(p, 0, (10**9, 10**9), (0, 0)), "in 1 elements"),
    "backwards": (lambda p: tensor_file(p, 3, (2,), (-1,)), "has no place"),
    "huge": (lambda p: tensor_file(p, 0, (2**60,), (1,)), "has no place"),
    "many axes": (lambda p: tensor_file(p, 0, (1,) * 100, (1,) * 100), "wrong shape"),
    "lacks a record": (lambda p: tensor_file(p, 0, (2, 2), (2, 1), record="7"), "lacks the record"),
    "outside": (lambda p: tensor_file(p, 0, (2, 2), (2, 1), record="../../../etc/passwd"), "lacks the record"),
    "integers of a kind not read": (lambda p: torch.save({"ctx": torch.ones(2, dtype=torch.int8)}, p), "CharStorage"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, fault):
    path = tmp_path / "model.pth.tar-5"
    make, sentence = BAD_FILES[fault]
    make(path)
    with pytest.raises(PromptSetError, match=sentence) as raised:
        read_records(path, lambda name: True)
    assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # in a step that became text
def test_no_change_of_a_file_escapes_as_another_error(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {"ctx": torch.ones(4, 8)}, "epoch": 3, "rest": [{"a": (1, 2.5, None)}, Evil(len, "a")]}, path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(700):
        changed = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            changed[at] = random.integers(0, 256)
        with zipfile.ZipFile(path) as good:
            raw = bytearray(good.read("x/data.pkl"))
        raw[random.integers(0, len(raw))] = random.integers(0, 256)
        zipped(tmp_path / "y.pt", bytes(raw), records=[("0", bytes(128))])
        for source in (io.BytesIO(bytes(changed)), tmp_path / "y.pt"):
            try:
                read_records(source, lambda name: True)
            except PromptSetError:
                refused += 1
    assert refused > 100


def test_a_record_with_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    tensor_file(path, 0, (2, 2), (2, 1), raw=b"abcdefghijklmnop")
    overwritten(path, path.read_bytes().index(b"abcdefgh"), b"X")
    with pytest.raises(PromptSetError, match="damaged"):
        read_records(path, lambda name: True)


def test_a_pickle_without_end_or_of_great_size_is_stopped(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    monkeypatch.setattr(checkpoints, "PICKLE_STEPS", 1000)
    zipped(path, b"\x80\x02" + b"]" * 1001 + b".")
    with pytest.raises(PromptSetError, match="more than 1000 steps"):
        Checkpoint(path)
    monkeypatch.setattr(checkpoints, "PICKLE_BYTES", 2**20)
    zipped(path, b"\x80\x02" + b"]" * 2**20 + b".")
    with pytest.raises(PromptSetError, match=r"data\.pkl of more than 1 MB"):
        Checkpoint(path)


def test_deep_nesting_as_value_and_as_key_costs_nothing(tmp_path):
    path = tmp_path / "x.pt"
    deep = b"\x80\x02}(X\x01\x00\x00\x00a" + b")" + b"\x85" * 500_000 + b"u."  # {"a": ((((...))))}
    zipped(path, deep)
    with pytest.raises(PromptSetError, match="no tensors"):
        Checkpoint(path)
    key = b"\x80\x02}()" + b"\x85" * 500_000 + b"Nu."  # {((((...)))): None}: hash() would recurse out of the C stack
    zipped(path, key)
    with pytest.raises(PromptSetError, match="no tensors"):
        Checkpoint(path)
    doubling = b"\x80\x02}()" + b"2\x86" * 100 + b"Nu."  # a key that would take 2 ** 100 steps to hash
    zipped(path, doubling)
    with pytest.raises(PromptSetError, match="no tensors"):
        Checkpoint(path)


# --- prompt sets --------------------------------------------------------------------------------------------------------

UNPREFIXED = {
    "coop": {},
    "prograd": {},
    "kgcoop": {"bias_vectors": torch.zeros(1, 8), "meta_net.linear1.weight": torch.zeros(8, 8)},
}


@pytest.mark.parametrize("kind", UNPREFIXED)
def test_the_small_files_of_coop_prograd_and_kgcoop(mini, file, kind):
    write(file, prompt_learner(mini, TASK, prefix="") | UNPREFIXED[kind])
    made = import_checkpoint(file, mini, engine.task(TASK), method=kind)
    assert made.card["method"] == {"name": kind, "options": {"template": PHOTO, "tokens": 4}}
    expected = by_hand(mini, PHOTO, made.labels, context(mini, 4))
    np.testing.assert_allclose(made.class_embeddings, expected, atol=1e-5)  # padding changes the order of summation


def test_biomedcoop_with_its_whole_model(mini, file):
    write(file, whole_model(mini, TASK))
    made = import_checkpoint(file, mini, engine.task(TASK))
    np.testing.assert_allclose(made.class_embeddings, by_hand(mini, PHOTO, made.labels, context(mini, 4)), atol=1e-5)
    card = made.card
    assert card["method"]["name"] == "biomedcoop" and card["licence"].startswith("unknown") and card["descriptions"] is None
    assert {k: card["imported"][k] for k in ("kind", "epoch", "words_checked")} == {
        "kind": "checkpoint",
        "epoch": 100,
        "words_checked": True,
    }
    assert len(card["imported"]["sha256"]) == 64 and str(file.parent) not in json.dumps(card)
    assert np.array_equal(made.learned["context"], context(mini, 4).numpy())
    made.check(mini)


def test_a_file_that_is_a_bare_state_dict_in_half_precision(mini, file):
    torch.save({name: value.half() for name, value in prompt_learner(mini, TASK, prefix="").items()}, file)
    made = import_checkpoint(file, mini, engine.task(TASK), method="coop")
    expected = by_hand(mini, PHOTO, made.labels, context(mini, 4).half().float())
    np.testing.assert_allclose(made.class_embeddings, expected, atol=1e-5)
    assert made.card["imported"]["epoch"] is None


def test_cocoop_scores_each_image_with_its_own_prompts(mini, file):
    hidden, generator = mini.dim // 16, torch.Generator().manual_seed(3)
    shapes = [(hidden, mini.dim), (hidden,), (mini.token_width, hidden), (mini.token_width,)]
    first, first_bias, second, second_bias = (0.05 * torch.randn(*shape, generator=generator) for shape in shapes)
    state = prompt_learner(mini, TASK, prefix="") | {
        "meta_net.linear1.weight": first,
        "meta_net.linear1.bias": first_bias,
        "meta_net.linear2.weight": second,
        "meta_net.linear2.bias": second_bias,
    }
    made = import_checkpoint(write(file, state), mini, engine.task(TASK))
    assert made.card["method"]["name"] == "cocoop" and made.card["head"] == "conditional"
    v = torch.nn.functional.normalize(torch.randn(2, mini.dim, generator=generator), dim=-1)
    for image, scores in zip(v, bound(made, mini).scores(v.numpy()), strict=True):
        shift = torch.relu(image @ first.T + first_bias) @ second.T + second_bias
        texts = by_hand(mini, PHOTO, made.labels, context(mini, 4) + shift)
        np.testing.assert_allclose(scores, mini.logit_scale * texts @ image.numpy(), atol=1e-3)  # scaled by 50 and more


@pytest.mark.parametrize("position", ["end", "middle"])
def test_biomed_dpt_overwrites_patches_and_has_its_datasets_sentence(mini, file, position):
    template, n = "a MR photo of a {} in the brain.", 5
    write(file, biomed_dpt(mini, TASK, template, n))
    made = import_checkpoint(file, mini, engine.task(TASK), method="biomed-dpt", position=position)
    assert made.card["template"] == template
    assert made.visual_prompt.tokens.shape == (1, 4, mini.visual_prompt_width) and not made.visual_prompt.tokens.any()
    assert made.visual_prompt.insert is False
    if position == "end":
        expected = by_hand(mini, template, made.labels, context(mini, n))
    else:  # one word piece stands after the first half of the context
        rows = []
        for name in made.labels:
            _, _, rest = words(mini, template, [name], n)
            both = torch.cat([context(mini, n)[:2], rest[0, :1], context(mini, n)[2:]])
            rows.append(by_hand(mini, template, [name], both)[0])
        expected = np.stack(rows)
    np.testing.assert_allclose(made.class_embeddings, expected, atol=1e-5)


def test_biomed_dpt_must_be_told_where_the_class_stood(mini, file):
    write(file, biomed_dpt(mini, TASK, "a MR photo of a {} in the brain.", 5))
    with pytest.raises(PromptSetError, match=r"Say position 'middle' \(few_shot.sh, base2new.py\) or 'end'"):
        import_checkpoint(file, mini, engine.task(TASK))
    with pytest.raises(PromptSetError, match="no sentence for the task 'modality'"):
        import_checkpoint(file, mini, engine.task("modality"), position="end")


@pytest.mark.parametrize(("n", "template"), [(6, "X X X X X X {}."), (4, PHOTO)])
def test_medpromptclip_with_its_deep_prompts_in_half_precision(mini, file, n, template):
    write(file, medpromptclip(mini, n, depth=3))
    made = import_checkpoint(file, mini, engine.task(TASK))
    deep = torch.stack([context(mini, n, i) for i in (1, 2)]).half().float()
    assert made.card["method"]["options"] == {"template": template, "tokens": n, "depth": 3}
    np.testing.assert_allclose(
        made.class_embeddings, by_hand(mini, template, made.labels, context(mini, n), deep), atol=1e-5
    )


def test_medpromptclip_of_another_backbone_is_refused_by_its_table_of_words(mini, file):
    state = medpromptclip(mini, 4, depth=2)
    table = "prompt_learner.clip_model_zs.token_embedding.weight"
    with pytest.raises(PromptSetError, match="are not those of 'scope-mini'"):
        import_checkpoint(write(file, state | {table: state[table] + 1}), mini, engine.task(TASK))


def test_biomed_dpts_zero_tokens_are_counted_where_the_file_has_them(mini, file):
    state = biomed_dpt(mini, TASK, "a MR photo of a {} in the brain.", 5)
    name = "image_encoder.prompt_embeddings"
    made = import_checkpoint(write(file, state | {name: torch.zeros(1, 2, 8)}), mini, engine.task(TASK), position="end")
    assert made.visual_prompt.tokens.shape[1] == 2
    with pytest.raises(PromptSetError, match="should be zeros"):
        import_checkpoint(write(file, state | {name: torch.ones(1, 2, 8)}), mini, engine.task(TASK), position="end")
    with pytest.raises(PromptSetError, match="middle of CLIP's prompts"):
        import_checkpoint(file, mini, engine.task(TASK), position="middle")


def test_medpromptclips_few_shot_stage_is_refused(mini, file):
    write(file, medpromptclip(mini, 4, depth=2))
    with pytest.raises(PromptSetError, match="changed the image tower"):
        import_checkpoint(file, mini, engine.task(TASK), method="medpromptclip-few-shot")


def test_base_classes_are_the_first_of_the_task_and_the_context_carries_to_all(mini, file):
    names = engine.task(TASK).names
    write(file, prompt_learner(mini, TASK, names=names[:2], prefix=""))
    made = import_checkpoint(file, mini, engine.task(TASK), method="coop")
    assert made.labels == names
    np.testing.assert_allclose(made.class_embeddings, by_hand(mini, PHOTO, names, context(mini, 4)), atol=1e-5)


def test_an_imported_set_carries_to_new_classes(mini, file):
    write(file, whole_model(mini, TASK))
    made = import_checkpoint(file, mini, engine.task(TASK))
    other = engine.task("retina")
    expected = by_hand(mini, PHOTO, other.names, context(mini, 4))
    np.testing.assert_allclose(carried(made, mini, other).class_embeddings, expected, atol=1e-5)
    straight = import_checkpoint(file, mini, other, trained_on=engine.task(TASK).names)
    np.testing.assert_allclose(straight.class_embeddings, expected, atol=1e-5)


def changed(**values):
    """A BiomedCoOp state_dict with some values replaced; None removes."""

    def make(backbone):
        state = whole_model(backbone, TASK)
        for name, value in values.items():
            state["prompt_learner." + name] = value(backbone) if callable(value) else value
        return {name: value for name, value in state.items() if value is not None}

    return make


MISFITS = {
    "no context": (changed(ctx=None), {}, r"has no learned context \(ctx\)"),
    "class-specific": (changed(ctx=torch.zeros(4, 4, 256)), {}, "one for each class, which carries to no other"),
    "too wide": (changed(ctx=torch.zeros(4, 768)), {}, "is 768 wide; 'scope-mini' takes 256"),
    "not numbers": (changed(ctx=torch.full((4, 256), torch.nan)), {}, "values that are no numbers"),
    "other backbone": (changed(token_prefix=torch.ones(4, 1, 256)), {}, "are not those of 'scope-mini'"),
    "word embeddings of another shape": (changed(token_prefix=torch.ones(7)), {}, "are not those of 'scope-mini'"),
    "suffix of another shape": (changed(token_suffix=torch.zeros(4, 3, 256)), {}, "'token_suffix' .* at least"),
    "other method": (changed(), {"method": "coop"}, "is of biomedcoop, not of 'coop'"),
    "other place": (changed(), {"position": "middle"}, "at the end, not at 'middle'"),
    "other words": (
        changed(),
        {"template": "a scan of a {}, MRI."},
        "'a scan of a glioma tumor, MRI.' in the place of 'glioma",
    ),
    "other names": (changed(), {"trained_on": ("glioma tumor", "x", "y", "z")}, "in the place of 'x'"),
    "too few names": (changed(), {"trained_on": ("glioma tumor",)}, "was learned with 4 classes; 1 are named"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_sentence(mini, file, misfit):
    make, options, sentence = MISFITS[misfit]
    write(file, make(mini))
    with pytest.raises(PromptSetError, match=sentence) as raised:
        import_checkpoint(file, mini, engine.task(TASK), **options)
    assert "\n" not in str(raised.value) and str(file.parent) not in str(raised.value)


def test_labels_in_another_order_name_the_first_that_differs(mini, file):
    names = engine.task(TASK).names
    write(file, prompt_learner(mini, TASK, names=[names[0], names[2], names[1], names[3]], prefix=""))
    with pytest.raises(PromptSetError, match="in the place of 'meningioma tumor'"):
        import_checkpoint(file, mini, engine.task(TASK), method="coop")
    unchecked = import_checkpoint(file, mini, engine.task(TASK), method="coop", trained_on=())
    assert unchecked.card["imported"]["words_checked"] is False


def test_an_ambiguous_file_asks_for_the_method(mini, file):
    write(file, prompt_learner(mini, TASK, prefix=""))
    with pytest.raises(PromptSetError, match=r"could be of coop or prograd\. Say which: method"):
        import_checkpoint(file, mini, engine.task(TASK))
    assert candidates(["prompt_learner.ctx", "image_encoder.conv1.weight"]) == ("biomedcoop", "biomed-dpt")


def test_a_cocoop_network_of_another_width_is_refused(mini, file):
    state = prompt_learner(mini, TASK, prefix="")
    for i, shape in ((1, (4, 512)), (2, (mini.token_width, 4))):
        state |= {f"meta_net.linear{i}.weight": torch.zeros(shape), f"meta_net.linear{i}.bias": torch.zeros(shape[0])}
    with pytest.raises(
        PromptSetError, match=r"'meta_net.linear1.weight' .* shape \(4, 512\); this backbone takes \(4, 256\)"
    ):
        import_checkpoint(write(file, state), mini, engine.task(TASK))


# --- one file ------------------------------------------------------------------------------------------------------------


def exported(backbone, kind, tmp_path):
    task, n = engine.task(TASK), 4
    learned = {"context": context(backbone, n).numpy()}
    hidden = 3
    if kind == "cocoop":
        shapes = {"0.weight": (hidden, backbone.dim), "0.bias": (hidden,), "2.weight": (backbone.token_width, hidden)}
        shapes["2.bias"] = (backbone.token_width,)
        learned |= {f"meta.{name}": np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
    if kind == "medpromptclip":
        learned["deep"] = np.stack([context(backbone, n, 5).numpy()])
    made = METHODS[kind](METHODS[kind].Config(template=PHOTO, tokens=n)).of(learned, backbone, task)
    return made, made.export(tmp_path / "sent.safetensors")


@pytest.mark.parametrize("kind", ["coop", "biomed-dpt", "medpromptclip", "cocoop"])
def test_one_file_holds_everything_of_a_set(mini, tmp_path, kind):
    before, path = exported(mini, kind, tmp_path)
    after = PromptSet.load(path)
    assert after.card == before.card and after.labels == before.labels
    assert after.learned.keys() == before.learned.keys()
    for name, value in before.learned.items():
        assert np.array_equal(after.learned[name], value)
    for name, value in before.head.tensors().items():
        assert np.array_equal(after.head.tensors()[name], value)
    if kind == "biomed-dpt":
        assert np.array_equal(after.visual_prompt.tokens, before.visual_prompt.tokens)
        assert (after.visual_prompt.insert, after.visual_prompt.literal) == (True, False)
    features = np.eye(mini.dim, dtype=np.float32)[:2]
    assert np.array_equal(bound(after, mini).scores(features), bound(before, mini).scores(features))
    assert PromptSet.load(after.export(tmp_path / "again.safetensors")).card == before.card
    other = engine.task("retina")
    a, b = (carried(each, mini, other).head.tensors() for each in (before, after))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def unpacked(path):
    with safetensors.safe_open(path, framework="numpy") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, dict(stored.metadata())  # noqa: SIM118


def repacked(path, drop=None, **metadata):
    tensors, about = unpacked(path)
    kept = {k: v for k, v in (about | metadata).items() if v is not None}
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if k != drop}, path, kept)


BAD_EXPORTS = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-5]), "cannot be read"),
    "no card": (lambda p: repacked(p, card=None), "has no card in it"),
    "card no JSON": (lambda p: repacked(p, card="{"), "cannot be read"),
    "card incomplete": (lambda p: repacked(p, card="{}"), "not valid at"),
    "labels changed": (lambda p: repacked(p, labels='["a", "b"]'), "not those that it was saved with"),
    "tensor missing": (lambda p: repacked(p, drop="scale"), "is damaged. The tensor 'scale' is missing"),
    "a checkpoint": (lambda p: torch.save({"ctx": torch.ones(2, 2)}, p), "cannot be read"),
}


@pytest.mark.parametrize("fault", BAD_EXPORTS)
def test_a_damaged_file_is_refused_in_one_sentence(mini, tmp_path, fault):
    _, path = exported(mini, "coop", tmp_path)
    damage, sentence = BAD_EXPORTS[fault]
    damage(path)
    with pytest.raises(PromptSetError, match=sentence) as raised:
        PromptSet.load(path)
    assert "\n" not in str(raised.value)
