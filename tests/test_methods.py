"""Every method through one contract, and each one's formula by a second road. Run: python -m pytest tests/test_methods.py"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

import engine
from engine.backbones.base import Embedded
from engine.context import Prompts
from engine.errors import BackboneError, DataError, Stopped
from engine.heads import CacheHead
from engine.methods import biomedcoop, carried, instant, linear_probe, lp_plus_plus, medpromptclip, tip_adapter
from engine.methods._context import ContextMethod
from engine.methods._descriptions import description_features, sentence_features
from engine.methods.base import LabelledFeatures, Trained, learn_stacked, visual_prompt
from engine.methods.biomed_dpt import MiddlePrompts, made_template
from engine.methods.prograd import ProGradLearner
from engine.predict import bound
from engine.prompts import PromptSet
from engine.store import Store
from engine.tasks import Label
from engine.training import Batch, Run, Watch, train


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These matrices are small: threads that wait for each other on a busy machine cost fifty times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def slow_clock(monkeypatch):
    """Every epoch is reported and may be stopped."""
    monkeypatch.setattr("engine.training.time", SimpleNamespace(monotonic=itertools.count(1.0).__next__))


@pytest.fixture(scope="module")
def mini():
    return engine.load_backbone("scope-mini")


def frozen_hash(backbone) -> str:
    digest = hashlib.sha256()
    for name, tensor in backbone._model.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def untouched(mini) -> str:
    return frozen_hash(mini)


BUSI, KIDNEY = engine.task("busi"), engine.task("ctkidney")
# other labels for busi's task, with its modality, organ and number of word pieces before the class
NOVEL = replace(BUSI, labels=tuple(Label(name, name) for name in ("breast cyst", "lymph node", "scar", "implant rupture")))


def around(mini, task, shots: int = 4, views: int = 2, seed: int = 0, noise: float = 0.2) -> LabelledFeatures:
    """Points around the classes' sentences; 2 validation images a class."""
    r = np.random.default_rng(seed)
    text = mini.encode_texts([f"a photo of a {name}." for name in task.names]).numpy()

    def drawn(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        targets = np.tile(np.arange(len(text)), shape[-1])
        made = text[targets] + noise * r.normal(size=(*shape[:-1], len(targets), text.shape[1]))
        return (made / np.linalg.norm(made, axis=-1, keepdims=True)).astype(np.float32), targets

    (pictures, targets), (held, held_targets) = drawn(views, shots), drawn(2)
    return LabelledFeatures(pictures, targets, held, held_targets)


@pytest.fixture(scope="module")
def data(mini) -> LabelledFeatures:
    return around(mini, BUSI)


def small(method, **options):
    """The method with few epochs and small batches."""
    known = {field.name for field in fields(method.Config)}
    few = {"epochs": 3, "batch": 4} if "epochs" in known else {}
    return method(method.Config(**{k: v for k, v in (few | options).items() if k in known}))


def given(method, data):
    return data if method.needs_images else None


ALL = list(engine.METHODS)
TRAINED = [name for name in ALL if issubclass(engine.METHODS[name], Trained)]
CONTEXT = [name for name in TRAINED if issubclass(engine.METHODS[name], ContextMethod)]
WITH_IMAGES = [name for name in ALL if engine.METHODS[name].needs_images]
AT_RANDOM = {"cocoop", "medpromptclip", "medpromptclip-few-shot", "clip-adapter", "lp++"}  # a start drawn from the seed


@pytest.fixture(params=ALL)
def method(request):
    return engine.METHODS[request.param]


@pytest.fixture(scope="module")
def learned(mini, data):
    """learned(name) : the small method's set on busi, seed 1, made once."""
    made: dict[str, PromptSet] = {}

    def get(name: str) -> PromptSet:
        if name not in made:
            kind = engine.METHODS[name]
            made[name] = small(kind).learn(mini, BUSI, given(kind, data))
        return made[name]

    return get


def scores(prompts, mini, data) -> np.ndarray:
    return bound(prompts, mini).scores(data.validation)


# --- the contract ---------------------------------------------------------------------------------------------------------


def test_a_method_leaves_a_whole_prompt_set_in_label_order(method, mini, data, learned, tmp_path):
    made = learned(method.name)
    assert made.labels == BUSI.names and made.card["method"]["name"] == method.name
    made.check(mini)
    found = scores(made, mini, data)
    assert found.shape == (6, 3) and found.dtype == np.float32 and np.isfinite(found).all()
    for place in (made.save(tmp_path / "x"), made.export(tmp_path / "x.safetensors")):
        again = PromptSet.load(place)
        assert np.array_equal(scores(again, mini, data), found)
        assert again.card == made.card and again.learned.keys() == made.learned.keys()
        assert all(np.array_equal(again.learned[k], made.learned[k]) for k in made.learned)
    right = (found.argmax(axis=1) == data.validation_targets).mean()
    assert right > 0.5  # points around the classes' own sentences; chance is a third


def test_the_card_says_what_the_set_was_learned_from(method, data, learned):
    about = learned(method.name).card["data"]
    if method.needs_images:
        assert {k: about[k] for k in ("images", "validation_images", "shots", "views", "seed")} == {
            "images": 12,
            "validation_images": 6,
            "shots": 4,
            "views": 2,
            "seed": 1,
        }
    else:
        assert about["images"] == 0


@pytest.mark.parametrize("name", [n for n in ALL if n not in WITH_IMAGES])
def test_images_that_a_method_does_not_use_are_not_said_to_have_been(name, mini, data):
    made = small(engine.METHODS[name]).learn(mini, BUSI, data)
    assert made.card["data"]["images"] == 0


def test_a_method_is_deterministic(method, mini, data, learned):
    again = small(method).learn(mini, BUSI, given(method, data))
    first, second = learned(method.name).head.tensors(), again.head.tensors()
    assert first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", [*TRAINED, "lp++"])
def test_another_seed_learns_other_numbers(name, mini, data, learned):
    kind = engine.METHODS[name]
    other = small(kind).learn(mini, BUSI, given(kind, data), seed=2)
    assert not np.array_equal(scores(other, mini, data), scores(learned(name), mini, data))


@pytest.mark.parametrize("name", [name for name in ALL if name != "lp++"])  # its bias is drawn class by class
def test_each_class_follows_its_own_words(name, mini, data, learned):
    """Classes in another order give the same scores in that order."""
    kind = engine.METHODS[name]
    turned = replace(BUSI, labels=BUSI.labels[::-1])
    images = replace(data, targets=2 - data.targets, validation_targets=2 - data.validation_targets)
    found = scores(small(kind).learn(mini, turned, given(kind, images)), mini, data)
    # 3e-3 of a scale of 16: three epochs of rounding in another order; L-BFGS stops elsewhere
    np.testing.assert_allclose(
        found[:, ::-1], scores(learned(name), mini, data), atol=0.05 if name == "linear-probe" else 3e-3
    )


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_its_loss_and_moves_every_parameter(name, mini, data):
    kind = engine.METHODS[name]
    method = small(kind, epochs=8, batch=1000)  # whole batches, so that epochs compare
    items = method.items(mini, BUSI, given(kind, replace(data, views=data.views[:1])))
    learner = kind.learner(mini, BUSI, [method], [items], [1])
    before = {k: v.detach().clone() for k, v in learner.parameters[0].items()}
    history = train(learner, [Run(torch.from_numpy(items.views), torch.from_numpy(items.targets), method.recipe, 1)])
    terms = {k: v[0] for k, v in history.terms.items() if not (name == "prograd" and k == "kl")}  # never minimised
    total = np.sum(list(terms.values()), axis=0)
    assert len(total) == 8 and total[-1] < total[0]
    for k, v in learner.parameters[0].items():
        assert torch.isfinite(v).all() and not torch.equal(v, before[k]), k


def test_the_backbone_stays_frozen(method, mini, learned, untouched):
    learned(method.name)
    assert frozen_hash(mini) == untouched
    assert all(p.grad is None and not p.requires_grad for p in mini._model.parameters())
    assert not any(module.training for module in mini._model.modules())


def test_a_method_is_what_its_class_says(method, learned):
    assert engine.METHODS[method.name] is method
    assert (method.name in instant()) == (not method.needs_images and not method.is_trained)
    options = learned(method.name).card["method"]["options"]
    assert method.Config(**options) == small(method).config  # the card holds the whole configuration


@pytest.mark.parametrize("name", [name for name in ALL if engine.METHODS[name].is_trained])
def test_a_training_can_be_watched(name, mini, data, slow_clock):
    kind, told = engine.METHODS[name], []
    small(kind).learn(mini, BUSI, given(kind, data), watch=Watch(progress=lambda *said: told.append(said)))
    assert [epoch for epoch, _, _ in told] == sorted({epoch for epoch, _, _ in told})
    assert told[-1][:2] == (3, 3) and all(math.isfinite(loss) and loss >= 0 for *_, loss in told)


@pytest.mark.parametrize("name", [name for name in ALL if engine.METHODS[name].is_trained])
def test_a_training_can_be_stopped(name, mini, data):
    kind = engine.METHODS[name]
    with pytest.raises(Stopped, match=r"The training was stopped after epoch 1 of (3|72)\."):
        small(kind).learn(mini, BUSI, given(kind, data), watch=Watch(stop=lambda: True))


# --- a training that goes on ----------------------------------------------------------------------------------------------


GOING_ON = {
    "biomedcoop": {"faithful": True},  # draws dropout
    "medpromptclip": {},  # AdamW, deep prompts
    "cocoop": {},
    "clip-adapter": {},  # no momentum
}


@pytest.mark.parametrize("name", GOING_ON)
def test_a_stopped_method_goes_on_to_the_same_set(name, mini, data, slow_clock, tmp_path):
    kind, asked = engine.METHODS[name], itertools.count(1)
    options = {"batch": 4 if kind.needs_images else 256, "epochs": 4} | GOING_ON[name]
    checkpoint = tmp_path / "c"
    with pytest.raises(Stopped, match="after epoch 2 of 4"):
        small(kind, **options).learn(
            mini, BUSI, given(kind, data), watch=Watch(stop=lambda: next(asked) == 2, checkpoint=checkpoint)
        )
    epochs: list[int] = []
    watch = Watch(progress=lambda epoch, *_: epochs.append(epoch), checkpoint=checkpoint)
    again = small(kind, **options).learn(mini, BUSI, given(kind, data), watch=watch)
    assert epochs == [3, 4] and not checkpoint.exists()
    whole = small(kind, **options).learn(mini, BUSI, given(kind, data))
    expected, found = whole.head.tensors() | whole.learned, again.head.tensors() | again.learned
    assert all(np.array_equal(found[k], expected[k]) for k in expected)


def test_dropout_makes_a_faithful_training_another_one(mini, data, learned):
    faithful = small(biomedcoop.BiomedCoOp, faithful=True, selection="coded").learn(mini, BUSI, data)
    plain = small(biomedcoop.BiomedCoOp, selection="coded").learn(mini, BUSI, data)
    assert np.abs(faithful.learned["context"] - plain.learned["context"]).max() > 1e-6


OTHER_OPTIONS = {
    "kgcoop": ({"weight": 8.0}, {"weight": 0.0}),
    "prograd": ({"share": 1.0}, {"temperature": 4.0}),
    "biomedcoop": ({"tau": 1.5}, {"kdsp_weight": 20.0}),
    "medpromptclip": ({"loss": "mse"}, {"loss": "l1"}),
    "clip-adapter": ({"ratio": 0.5}, {"ratio": 0.9}),
}


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_a_checkpoint_of_other_options_is_refused(name, mini, data, slow_clock, tmp_path):
    kind, asked = engine.METHODS[name], itertools.count(1)
    before, after = OTHER_OPTIONS[name]
    before, after = {"lr": 0.1} | before, {"lr": 0.1} | after
    with pytest.raises(Stopped):
        watch = Watch(stop=lambda: next(asked) == 2, checkpoint=tmp_path / "c")
        small(kind, **before).learn(mini, BUSI, given(kind, data), watch=watch)
    with pytest.raises(DataError, match="'c' is no checkpoint of this training"):
        small(kind, **after).learn(mini, BUSI, given(kind, data), watch=Watch(checkpoint=tmp_path / "c"))
    assert (tmp_path / "c").is_file()


# --- stacked --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coop", "biomedcoop", "cocoop", "kgcoop", "prograd", "clip-adapter", "tip-adapter-f"])
def test_stacked_runs_learn_what_each_learns_alone(name, mini, data):
    kind = engine.METHODS[name]
    more = {"tau": 1.0, "sccm_weight": 3.0, "weight": 2.0, "temperature": 2.0, "ratio": 0.2, "alpha": 3.0}
    # from the hand-written words ProGrad's student is its teacher, and the direction of rounding noise decides
    start = {"random": name == "prograd"}
    methods = [small(kind, **start), small(kind, lr=0.01, **start, **more), small(kind, epochs=2, **start)]
    sets = [data, around(mini, BUSI, shots=1, seed=5), around(mini, BUSI, shots=2, seed=6, views=1)]
    together = learn_stacked(methods, mini, BUSI, sets, [1, 2, 3])
    for made, each, images, seed in zip(together, methods, sets, [1, 2, 3], strict=True):
        alone = each.learn(mini, BUSI, images, seed)
        np.testing.assert_allclose(scores(made, mini, data), scores(alone, mini, data), atol=2e-3)  # scale 16
        for k in alone.learned:
            np.testing.assert_allclose(made.learned[k], alone.learned[k], atol=2e-5)
        assert made.card == alone.card


DIFFERENT = {
    "biomedcoop": ({"tau": 0.6}, {"tau": 0.6, "selection": "folded", "kdsp_weight": 20.0}),
    "coop": ({}, {"template": "an image of one {}."}),
    "prograd": ({}, {"faithful": True}),
    "medpromptclip": ({}, {"loss": "l1"}),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_runs_that_cannot_share_a_pass_are_refused_or_learn_what_each_learns_alone(name, mini, data):
    """A stack takes its first run's template, rule and loss; a card that names others would be untrue."""
    kind = engine.METHODS[name]
    methods = [small(kind, lr=0.05, **options) for options in DIFFERENT[name]]
    alone = methods[1].learn(mini, BUSI, given(kind, data))
    try:
        together = learn_stacked(methods, mini, BUSI, [given(kind, data)] * 2, [1, 1])
    except DataError:
        return
    np.testing.assert_allclose(together[1].learned["context"], alone.learned["context"], atol=1e-4)


# --- carrying over --------------------------------------------------------------------------------------------------------


def encoded(mini, template: str, names, context: np.ndarray, deep: np.ndarray | None = None) -> np.ndarray:
    """Sentence after sentence, without padding: rows 1 to n replaced."""
    rows = []
    for name in names:
        text = mini.embed_tokens(mini.tokenize([template.replace("{}", name)]))
        vectors = text.vectors.clone()
        vectors[0, 1 : 1 + len(context)] = torch.from_numpy(context)
        inside = None if deep is None else torch.from_numpy(deep)[:, None]
        with torch.no_grad():
            rows.append(mini.encode_embedded(Embedded(vectors, text.ids), deep=inside)[0].numpy())
    return np.stack(rows)


PLAIN = [name for name in CONTEXT if name != "cocoop"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_context_sets_classes_are_its_context_and_the_class_names(name, mini, learned):
    made = learned(name)
    expected = encoded(mini, made.card["template"], BUSI.names, made.learned["context"], made.learned.get("deep"))
    np.testing.assert_allclose(made.class_embeddings, expected, atol=2e-6)
    np.testing.assert_allclose(made.head.scale, mini.logit_scale)


@pytest.mark.parametrize("name", PLAIN)
def test_a_learned_context_carries_to_new_names(name, mini, learned, tmp_path):
    made = PromptSet.load(learned(name).save(tmp_path / "x"))
    new = carried(made, mini, NOVEL)
    expected = encoded(mini, made.card["template"], NOVEL.names, made.learned["context"], made.learned.get("deep"))
    np.testing.assert_allclose(new.class_embeddings, expected, atol=2e-6)
    assert new.labels == NOVEL.names and new.card["data"] == made.card["data"]
    assert all(np.array_equal(new.learned[k], made.learned[k]) for k in made.learned)
    assert new.card["method"] == made.card["method"]


def test_cocoop_carries_to_new_names(mini, learned, data):
    made = learned("cocoop")
    new = carried(made, mini, NOVEL)
    v, (first, a, second, b) = data.validation[:2], made.head.meta
    for row, found in zip(v, bound(new, mini).scores(v), strict=True):
        context = made.head.context + second @ np.maximum(first @ row + a, 0) + b
        expected = mini.logit_scale * encoded(mini, "a photo of a {}.", NOVEL.names, context) @ row
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert new.labels == NOVEL.names and new.card["data"] == made.card["data"]


def test_clip_adapter_carries_to_new_names(mini, learned, data):
    made, v = learned("clip-adapter"), data.validation
    text = np.concatenate([mini.encode_texts([f"a photo of a {name}."]).numpy() for name in NOVEL.names])
    adapted = np.maximum(np.maximum(v @ made.head.down.T, 0) @ made.head.up.T, 0)
    expected = mini.logit_scale * (0.5 * adapted + 0.5 * v) @ text.T
    np.testing.assert_allclose(carried(made, mini, NOVEL).scores(v), expected, atol=1e-4)
    assert carried(made, mini, NOVEL).card["data"] == made.card["data"]


@pytest.mark.parametrize("name", ["zero-shot", "description-ensemble"])
def test_words_carry_to_another_task(name, mini, learned):
    new = carried(learned(name), mini, KIDNEY)
    np.testing.assert_allclose(new.class_embeddings, engine.METHODS[name]().learn(mini, KIDNEY).class_embeddings, atol=1e-6)
    assert new.labels == KIDNEY.names


def test_a_carried_ensembles_card_names_the_bank_that_it_was_made_from(mini, learned):
    assert carried(learned("description-ensemble"), mini, KIDNEY).card["descriptions"]["bank"] == "ctkidney"


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "linear-probe", "lp++"])
def test_what_belongs_to_its_classes_does_not_carry(name, mini, learned):
    with pytest.raises(DataError, match=r"belongs? to its classes\. Learn the new classes from images of them\."):
        carried(learned(name), mini, NOVEL)


def test_a_set_for_other_weights_does_not_carry(mini, learned):
    made = learned("coop")
    other = replace(made, card=made.card | {"backbone": {"id": mini.id, "weights_hash": "c" * 64}})
    with pytest.raises(engine.PromptSetError, match="other weights"):
        carried(other, mini, NOVEL)


# --- data that cannot teach -----------------------------------------------------------------------------------------------


def without_a_class(d: LabelledFeatures) -> LabelledFeatures:
    kept = d.targets != 1
    return replace(d, views=d.views[:, kept], targets=d.targets[kept])


def with_nan(d: LabelledFeatures) -> LabelledFeatures:
    views = d.views.copy()
    views[1, 3, 7] = np.nan
    return replace(d, views=views)


FAULTS = {
    "no data": (lambda d: None, "needs labelled images"),
    "a class without images": (without_a_class, "No image shows 'malignant tumor'"),
    "not a number": (with_nan, "features of 1 of 12 images hold values that are no numbers"),
    "a label too high": (lambda d: replace(d, targets=d.targets + 1), "outside the 3 classes of the task 'busi'"),
    "a label below zero": (lambda d: replace(d, targets=d.targets - 1), "outside the 3 classes"),
    "no views": (lambda d: replace(d, views=d.views[0]), "do not fit 12 labels"),
    "fewer labels": (lambda d: replace(d, targets=d.targets[:-1]), "do not fit 11 labels"),
    "no images": (lambda d: replace(d, views=d.views[:, :0], targets=d.targets[:0]), "do not fit 0 labels"),
    "not one view": (lambda d: replace(d, views=d.views[:0]), "do not fit"),
    "features of another backbone": (lambda d: replace(d, views=d.views[..., :100]), "100 dimensions; .* makes 256"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WITH_IMAGES)
def test_data_that_cannot_teach_is_refused_before_training(name, fault, mini, data, monkeypatch):
    def trained(*_, **__):
        pytest.fail("trained")

    monkeypatch.setattr("engine.methods.base.train", trained)
    damage, sentence = FAULTS[fault]
    with pytest.raises(DataError, match=sentence) as raised:
        small(engine.METHODS[name]).learn(mini, BUSI, damage(data))
    assert "\n" not in str(raised.value)


HELD = {
    "not a number": lambda d: replace(d, validation=d.validation * np.float32(np.nan)),
    "fewer labels": lambda d: replace(d, validation_targets=d.validation_targets[:-1]),
    "no labels": lambda d: replace(d, validation_targets=None),
    "features of another backbone": lambda d: replace(d, validation=d.validation[:, :100]),
}


@pytest.mark.parametrize("fault", HELD)
@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "linear-probe", "lp++"])
def test_validation_images_that_cannot_choose_are_refused_in_a_sentence(name, fault, mini, data):
    with pytest.raises(DataError):
        small(engine.METHODS[name]).learn(mini, BUSI, HELD[fault](data))


@pytest.mark.parametrize("name", CONTEXT)
def test_a_backbone_without_a_text_tower_is_refused_in_a_sentence(name, mini, data):
    class Plain:
        id, weights_hash, dim, logit_scale, dtype = "plain", "a" * 64, mini.dim, 1.0, "float32"
        device = "cpu"

        def encode_texts(self, texts):
            return mini.encode_texts(texts)

    with pytest.raises(BackboneError, match=f"'plain' cannot carry '{name}'"):
        small(engine.METHODS[name]).learn(Plain(), BUSI, given(engine.METHODS[name], data))


# --- the context ----------------------------------------------------------------------------------------------------------


def test_no_tokens_means_all_word_pieces_before_the_class(mini):
    prompts = Prompts(mini, "a ultrasound photo of a {} in the breast.", BUSI.names, 0)
    words = mini.tokenize(["a ultrasound photo of a"])[0, 1:-1]
    assert prompts.tokens == len(words) == 5
    assert torch.equal(prompts.start, mini.embed_tokens(words[None]).vectors[0])


@pytest.mark.parametrize("tokens", [5, 40])
def test_a_context_that_reaches_into_the_class_is_refused(mini, tokens):
    with pytest.raises(DataError, match=f"first {tokens} word pieces of 'a photo of a {{}}.' are not the same for every"):
        Prompts(mini, "a photo of a {}.", BUSI.names, tokens)


def test_a_template_whose_beginning_differs_by_class_is_refused(mini):
    with pytest.raises(DataError, match="not the same for every class on 'scope-mini'"):
        Prompts(mini, "{} in a photo of a breast.", BUSI.names, 3)


def test_a_template_without_a_word_before_the_class_has_nothing_to_learn(mini):
    with pytest.raises(DataError):
        Prompts(mini, "{} in a photo of a breast.", BUSI.names, 0)


def test_the_start_gives_the_sentences_own_features(mini):
    prompts = Prompts(mini, "a photo of a {}.", BUSI.names, 4)
    found = prompts.encode(prompts.start[None])[0]
    expected = torch.cat([mini.encode_texts([f"a photo of a {name}."]) for name in BUSI.names])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_stacked_contexts_and_deep_prompts_do_not_mix(mini):
    prompts = Prompts(mini, "a photo of a {}.", BUSI.names, 4)
    drawn = torch.Generator().manual_seed(2)
    context = prompts.start + 0.05 * torch.randn(3, *prompts.start.shape, generator=drawn)
    deep = 0.05 * torch.randn(3, 2, *prompts.start.shape, generator=drawn)
    found = prompts.encode(context, deep=deep)
    for a in range(3):
        expected = encoded(mini, "a photo of a {}.", BUSI.names, context[a].numpy(), deep[a].numpy())
        np.testing.assert_allclose(found[a].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("coop", {"template": "a photo"}, "has no single place for the class"),
        ("coop", {"template": "{} and {}"}, "has no single place for the class"),
        ("coop", {"tokens": -1}, "-1 tokens cannot be learned"),
        ("biomed-dpt", {"tokens": -1}, "-1 tokens cannot be learned"),
        ("biomed-dpt", {"template": "a photo"}, "has no single place for the class"),
        ("biomedcoop", {"selection": "best"}, "There is no selection 'best'"),
        ("medpromptclip", {"bank": "half"}, "knows no bank 'half'"),
        ("medpromptclip", {"loss": "l3"}, "with the loss 'l3'"),
        ("medpromptclip-few-shot", {"bank": "half"}, "knows no bank 'half'"),
        ("zero-shot", {"template": "a photo"}, "'a photo' has no place for the class"),
    ],
)
def test_options_that_cannot_be_are_refused(kind, options, sentence):
    with pytest.raises(DataError, match=sentence):
        engine.METHODS[kind].Config(**options)


# --- words alone ----------------------------------------------------------------------------------------------------------


def test_zero_shot_is_the_embedded_sentence(mini):
    made = engine.METHODS["zero-shot"]().learn(mini, engine.task("btmri"))
    expected = mini.encode_texts(["a photo of a pituitary tumor, MRI of the brain."])[0]
    np.testing.assert_allclose(made.class_embeddings[2], expected.numpy(), atol=1e-6)


def test_the_ensemble_is_the_unit_mean_of_unit_sentences(mini):
    made = engine.METHODS["description-ensemble"]().learn(mini, engine.task("busi"))
    sentences = engine.descriptions("busi").classes["malignant tumor"].sentences
    rows = torch.cat([mini.encode_texts([s]) for s in sentences]).double().numpy()  # one by one, without padding
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    mean = rows.sum(axis=0)
    np.testing.assert_allclose(made.class_embeddings[1], mean / np.linalg.norm(mean), atol=2e-6)


def test_every_description_fits_scope_minis_context(mini):
    for task in engine.tasks():
        for words in engine.descriptions(task).classes.values():
            assert mini.tokenize(list(words.sentences + words.negatives)).shape[1] <= mini.context_length


def test_description_features_are_the_sentences_in_label_order_from_the_store_or_not(mini, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path))
    turned = replace(BUSI, labels=BUSI.labels[::-1])
    found = description_features(mini, turned, 3)
    for c, name in enumerate(turned.names):
        for i in range(3):
            expected = mini.encode_texts([engine.descriptions("busi").classes[name].sentences[i]])[0]
            torch.testing.assert_close(found[c, i], expected, atol=2e-6, rtol=0)
    monkeypatch.setattr(type(mini), "encode_texts", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(description_features(mini, turned, 3), found)
    n = min(len(words.sentences) for words in engine.descriptions("busi").classes.values())
    monkeypatch.undo()
    assert description_features(mini, BUSI, 999).shape == (3, n, mini.dim)


def test_a_damaged_store_does_not_end_a_training(mini, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPTSCOPE_CACHE", str(tmp_path))
    (tmp_path / "features.sqlite3").write_bytes(b"no database" * 500)
    expected = mini.encode_texts(["one", "two words"])
    torch.testing.assert_close(sentence_features(mini, ["one", "two words"]), expected, atol=1e-6, rtol=0)
    assert Store().get(["one"]) == {}


# --- BiomedCoOp -----------------------------------------------------------------------------------------------------------


def lower_median(x: np.ndarray) -> float:
    return float(np.sort(x)[(len(x) - 1) // 2])


def kept(q: np.ndarray, tau: float, rule: str) -> np.ndarray:
    """methods/biomedcoop.md 2.2 g and h, 2.3, 2.5, as written: one row."""
    n, middle = len(q), lower_median(q)
    if rule == "described":
        spread = lower_median(np.abs(q - middle))
        mask = np.abs(q - middle) <= tau * spread if spread else np.zeros(n, bool)
    else:
        x = np.abs(q - middle) if rule == "folded" else q
        spread = np.std(x, ddof=1) if n > 1 else 0.0
        mask = np.abs(x - x.mean()) <= tau * spread if spread else np.zeros(n, bool)
    return mask if mask.any() else np.ones(n, bool)


@pytest.mark.parametrize("rule", biomedcoop.RULES)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 49, 50])
def test_the_selection_equals_the_plain_formula(rule, n):
    r = np.random.default_rng(n)
    q, tau = r.normal(size=(40, n)), r.uniform(0.3, 2.0, 40)
    found = biomedcoop.selected(torch.from_numpy(q), torch.from_numpy(tau), rule)
    assert found.dtype == torch.float32
    assert found.tolist() == [kept(q[i], tau[i], rule).tolist() for i in range(40)]


@pytest.mark.parametrize("rule", biomedcoop.RULES)
@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_equal_scores_keep_every_description(rule, value):
    for n in (1, 2, 7):
        assert biomedcoop.selected(torch.full((2, n), value), torch.tensor([0.5, 1.5]), rule).tolist() == [[1.0] * n] * 2


def test_where_nothing_would_be_kept_all_are():
    q = torch.tensor([[-1.0, 1.0, -1.0, 1.0]])  # z-scores +-.87 and deviations from the mean of 1
    for rule in ("coded", "folded"):
        assert biomedcoop.selected(q, torch.tensor([0.1]), rule).tolist() == [[1.0] * 4]


def test_the_described_rule_drops_what_is_far_by_the_median_deviation():
    """Median 3, deviations 2 1 0 1 97, MAD 1: at tau 1.5 only the neighbours stay."""
    q = torch.tensor([[1.0, 2.0, 3.0, 4.0, 100.0]])
    assert biomedcoop.selected(q, torch.tensor([1.5]), "described").tolist() == [[0, 1, 1, 1, 0]]
    assert biomedcoop.selected(q, torch.tensor([1.5]), "coded").tolist() == [[1, 1, 1, 1, 0]]  # 100 is 1.79 deviations off


def test_upstreams_two_standardisations_are_one_z_score():
    """methods/biomedcoop.md 2.3: "MAD is inert"."""
    r = np.random.default_rng(0)
    for _ in range(200):
        q = r.normal(size=50)
        score = (q - lower_median(q)) / lower_median(np.abs(q - lower_median(q)))
        twice = np.abs((score - score.mean()) / score.std(ddof=1)) <= 1.25
        found = biomedcoop.selected(torch.from_numpy(q)[None], torch.tensor([1.25]), "coded")[0]
        assert found.tolist() == twice.tolist()


def test_the_folded_rule_may_drop_the_most_typical_too():
    q = np.concatenate([np.linspace(-1, 1, 48) + np.sign(np.linspace(-1, 1, 48)), [0.0, 0.0]])
    found = biomedcoop.selected(torch.from_numpy(q)[None], torch.tensor([1.25]), "folded")[0]
    assert found[-1] == 0 and found.sum() > 30


def test_only_pmc_clip_has_the_folded_rule_when_faithful():
    kind = biomedcoop.BiomedCoOp
    assert kind(kind.Config()).rule("pmc-clip") == "described"
    assert kind(kind.Config(faithful=True)).rule("pmc-clip") == "folded"
    assert kind(kind.Config(faithful=True)).rule("scope-mini") == "coded"


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def one_batch(data: LabelledFeatures, size: int = 5) -> tuple[Batch, np.ndarray, np.ndarray]:
    """A batch of one run, padded with two rows of weight 0, and its real rows."""
    v, y = data.views[0, :size], data.targets[:size]
    padded = torch.from_numpy(np.concatenate([v, np.zeros((2, v.shape[1]), np.float32)]))[None]
    w = torch.tensor([[1 / size] * size + [0, 0]])
    return Batch([0], padded, torch.tensor([[*y, 0, 0]]), w), v.astype(np.float64), y


def learner_of(name: str, mini, data, **options):
    kind = engine.METHODS[name]
    method = small(kind, **options)
    return kind.learner(mini, BUSI, [method], [method.items(mini, BUSI, given(kind, data))], [1])


@pytest.mark.parametrize("rule", biomedcoop.RULES)
def test_biomedcoops_terms_equal_the_formulas(rule, mini, data):
    learner = learner_of(
        "biomedcoop", mini, data, sccm_weight=3.0, kdsp_weight=2.0, tau=1.2, selection=rule, descriptions=20
    )
    batch, v, y = one_batch(data)
    with torch.no_grad():
        found = {k: float(each[0]) for k, each in learner.terms(batch).items()}
        t = learner.class_features([0])[0].double().numpy()
    s, e = mini.logit_scale, description_features(mini, BUSI, 20).double().numpy()
    z = s * v @ t.T
    q = np.array([(s * v @ e[:, i].T).max(axis=1).mean() for i in range(20)])
    mask = kept(q, 1.2, rule)
    assert 0 < mask.sum() < 20
    p, m = unit(e[:, mask].mean(axis=1)), unit(e.mean(axis=1))
    teacher, student = softmax(s * v @ p.T), softmax(z)
    assert found["ce"] == pytest.approx(-np.log(student[np.arange(5), y]).mean(), rel=1e-4)
    assert found["sccm"] == pytest.approx(3.0 * ((t - m) ** 2).sum() / (3 * mini.dim), rel=1e-4)
    assert found["kdsp"] == pytest.approx(2.0 * (teacher * np.log(teacher / student)).sum() / (5 * 3), rel=1e-3)
    # methods/biomedcoop.md 2.3: SCCM is lambda * 2 / D * (1 - mean cosine)
    assert found["sccm"] == pytest.approx(3.0 * 2 / mini.dim * (1 - (t * m).sum(axis=1).mean()), rel=1e-4)
    # and KDSP lambda / C of the usual batch mean
    usual = F.kl_div(torch.tensor(student).log(), torch.tensor(teacher), reduction="batchmean")
    assert found["kdsp"] == pytest.approx(2.0 / 3 * float(usual), rel=1e-3)


# --- the other contexts ---------------------------------------------------------------------------------------------------


def test_kgcoops_term_is_the_mean_distance_to_the_hand_written_prompt(mini, data):
    learner = learner_of("kgcoop", mini, data, weight=5.0, random=True)
    batch, _, _ = one_batch(data)
    with torch.no_grad():
        found, t = learner.terms(batch), learner.class_features([0])[0]
        general = mini.encode_texts([f"a photo of a {name}." for name in BUSI.names])
        expected = 5.0 * (1 - F.cosine_similarity(t, general).mean())
    assert float(found["kg"][0]) == pytest.approx(float(expected), rel=1e-4)


def projected(g: list[float], h: list[float], share: float) -> list[float]:
    p = nn.Parameter(torch.zeros(1, len(g)))
    learner = SimpleNamespace(parameters=[{"context": p}], share=torch.tensor([share]))
    terms = {"ce": (p @ torch.tensor(g)), "kl": (p @ torch.tensor(h))}
    ProGradLearner.backward(learner, terms, SimpleNamespace(runs=[0]))
    return p.grad[0].tolist()


def test_prograd_takes_away_what_goes_against_the_teacher():
    assert projected([3.0, 4.0], [-2.0, 0.0], 1.0) == pytest.approx([0.0, 4.0])  # cos < 0
    assert projected([3.0, 4.0], [-2.0, 0.0], 0.5) == pytest.approx([1.5, 4.0])
    assert projected([3.0, 4.0], [2.0, 0.0], 1.0) == [3.0, 4.0]  # cos > 0
    assert projected([3.0, 4.0], [0.0, 0.0], 1.0) == [3.0, 4.0]  # a teacher that says nothing
    assert projected([3.0, 4.0], [-1e-12, 0.0], 1.0) == pytest.approx([0.0, 4.0])  # faithful: rounding noise decides


def test_prograds_terms_and_step_equal_the_formulas(mini, data):
    learner = learner_of("prograd", mini, data, temperature=2.0, share=0.7, random=True)
    batch, v, y = one_batch(data)
    terms = learner.terms(batch)
    learner.backward(terms, batch)
    found = learner.parameters[0]["context"].grad.clone()
    context = learner.parameters[0]["context"].detach().clone().requires_grad_()
    s = mini.logit_scale
    general = s * torch.tensor(v).float() @ mini.encode_texts([f"a photo of a {name}." for name in BUSI.names]).T
    z = s * torch.tensor(v).float() @ learner.prompts.encode(context[None])[0].T
    ce = F.cross_entropy(z, torch.tensor(y))
    kl = 4.0 * -((general / 2).softmax(-1) * (z / 2).log_softmax(-1)).sum(-1).mean()
    assert terms["ce"][0].item() == pytest.approx(ce.item(), rel=1e-4)
    assert terms["kl"][0].item() == pytest.approx(kl.item(), rel=1e-4)
    g = torch.autograd.grad(ce, context, retain_graph=True)[0].double().flatten()
    h = torch.autograd.grad(kl, context)[0].double().flatten()
    if torch.dot(g, h) < 0:
        g = g - 0.7 * torch.dot(g, h) / torch.dot(h, h) * h
    torch.testing.assert_close(found.double().flatten(), g, rtol=1e-3, atol=1e-5 * float(g.abs().max()))


def test_a_faithful_prograd_is_its_own_teacher(mini, data):
    batch, _, _ = one_batch(data)
    learner = learner_of("prograd", mini, data, faithful=True)
    terms = learner.terms(batch)
    h = torch.autograd.grad(terms["kl"].sum(), learner.parameters[0]["context"])[0]
    plain = learner_of("prograd", mini, data).terms(batch)
    assert h.norm() < 1e-3 and terms["ce"][0].item() == pytest.approx(plain["ce"][0].item(), rel=1e-6)


def test_cocoops_learner_computes_its_heads_scores(mini, data):
    """The cross-entropy of each possible label gives the log-probabilities of an image."""
    learner = learner_of("cocoop", mini, data)
    learner.parameters[0]["context"].data += 0.05 * torch.randn(
        4, mini.token_width, generator=torch.Generator().manual_seed(3)
    )
    prompts = engine.METHODS["cocoop"]().prompt_set(learner, 0, mini, BUSI)
    v = torch.from_numpy(data.validation[:3])
    found = np.zeros((3, 3))
    for b, c in itertools.product(range(3), range(3)):
        with torch.no_grad():
            found[b, c] = -learner.terms(Batch([0], v[None, b : b + 1], torch.tensor([[c]]), torch.ones(1, 1)))["ce"][0]
    expected = np.log(softmax(bound(prompts, mini).scores(v.numpy()).astype(np.float64)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with torch.no_grad():
        together = learner.terms(Batch([0], v[None], torch.tensor([[0, 1, 2]]), torch.full((1, 3), 1 / 3)))["ce"][0]
    assert float(together) == pytest.approx(-np.diag(expected).mean(), abs=1e-4)


def test_cocoops_network_has_the_papers_shapes(mini, learned):
    d, w = mini.dim, mini.token_width
    assert [each.shape for each in learned("cocoop").head.meta] == [(d // 16, d), (d // 16,), (w, d // 16), (w,)]


# --- Biomed-DPT -----------------------------------------------------------------------------------------------------------


def test_biomed_dpts_terms_equal_the_formulas(mini, data):
    learner = learner_of("biomed-dpt", mini, data, l1_weight=12.5, kl_weight=2.0, descriptions=20)
    batch, v, y = one_batch(data)
    with torch.no_grad():
        found = {k: float(each[0]) for k, each in learner.terms(batch).items()}
        t = learner.class_features([0])[0].double().numpy()
    f, s = unit(description_features(mini, BUSI, 20).double().numpy().mean(axis=1)), mini.logit_scale
    student, teacher = softmax(s * v @ t.T), softmax(s * v @ f.T)
    assert found["ce"] == pytest.approx(-np.log(student[np.arange(5), y]).mean(), rel=1e-4)
    assert found["l1"] == pytest.approx(12.5 * np.abs(t - f).sum() / (3 * mini.dim), rel=1e-4)
    assert found["kl"] == pytest.approx(2.0 * (teacher * np.log(teacher / student)).sum() / (5 * 3), rel=1e-3)


def test_biomed_dpts_zero_tokens_are_inserted_or_faithfully_overwrite(mini, data):
    kind = engine.METHODS["biomed-dpt"]
    plain = visual_prompt(kind(), mini)
    assert plain.tokens.shape == (1, 4, mini.visual_prompt_width) and not plain.tokens.any()
    assert plain.insert and not plain.literal and plain.tokens.dtype == np.float32
    assert not visual_prompt(kind(kind.Config(faithful=True)), mini).insert
    assert not visual_prompt(kind(kind.Config(insert=False)), mini).insert
    assert visual_prompt(kind(kind.Config(zero_tokens=0)), mini) is None
    assert visual_prompt(engine.METHODS["coop"](), mini) is None
    with pytest.raises(BackboneError, match=r"takes no visual prompt\. Set zero_tokens to 0\."):
        visual_prompt(kind(), SimpleNamespace(id="plain"))
    overwriting = SimpleNamespace(id="x", visual_prompt_width=1, inserts_visual_prompts=False)
    for name in ("dim", "device", "dtype", "source", "logit_scale", "preprocess", "weights_hash"):
        setattr(overwriting, name, 0)
    overwriting.encode_images = overwriting.encode_texts = lambda *_: None
    assert not visual_prompt(kind(), overwriting).insert


def test_biomed_dpts_set_holds_its_visual_prompt(mini, learned, tmp_path):
    made = learned("biomed-dpt")
    assert not made.is_shared_image and made.visual_prompt.insert
    again = PromptSet.load(made.save(tmp_path / "x")).visual_prompt
    assert again.insert and not again.literal and np.array_equal(again.tokens, made.visual_prompt.tokens)


@pytest.mark.parametrize(("tokens", "order"), [(4, [0, 1, 2, 5, 3, 4, 6]), (5, [0, 1, 2, 6, 3, 4, 5, 7]), (1, [0, 2, 1, 3])])
def test_the_middle_moves_one_word_piece_between_the_contexts_halves(mini, tokens, order):
    """[CLS] c1 c2 w c3 c4 ...: methods/biomed_dpt.md Q3."""
    template = "a ultrasound photo of a {} in the breast."
    middle, end = (kind(mini, template, BUSI.names, tokens) for kind in (MiddlePrompts, Prompts))
    context = torch.randn(2, tokens, mini.token_width, generator=torch.Generator().manual_seed(4))
    found, plain = middle.insert(context), end.insert(context)
    length = plain.shape[2]
    assert torch.equal(found, plain[:, :, [*order, *range(len(order), length)]])
    assert torch.equal(plain[:, 1, 1 : 1 + tokens], context) and torch.equal(middle.ids, end.ids)


def test_the_made_template_is_in_the_manner_of_the_papers_table():
    assert made_template(KIDNEY) == "a CT photo of a {} in the kidney."
    assert made_template(BUSI) == "a ultrasound photo of a {} in the breast."
    assert made_template(replace(BUSI, modality="any", organ="any")) == "a photo of a {}."


# --- MedPromptCLIP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_one_forward_a_class_equals_one_a_sentence(loss, mini):
    learner = learner_of("medpromptclip", mini, None, loss=loss, weight=50.0)
    names = engine.descriptions("busi").classes
    picked = [(c, s) for c, name in enumerate(names) for s in names[name].sentences[: 2 + c]]  # 2, 3 and 4 of a class
    e = torch.cat([mini.encode_texts([s]) for _, s in picked])
    y, n = torch.tensor([c for c, _ in picked]), len(picked)
    terms = learner.terms(Batch([0], e[None], y[None], torch.full((1, n), 1 / n)))
    learner.backward(terms, Batch([0], e[None], y[None], torch.full((1, n), 1 / n)))
    slow = {k: v.detach().clone().requires_grad_() for k, v in learner.parameters[0].items()}
    assert slow["deep"].shape == (3, 6, mini.token_width)  # depth 9, but scope-mini has 4 blocks
    total = torch.zeros(())
    for (c, _), target in zip(picked, e, strict=True):
        text = mini.embed_tokens(mini.tokenize([f"X X X X X X {list(names)[c]}."]))
        vectors = torch.cat([text.vectors[:, :1], slow["context"][None], text.vectors[:, 7:]], dim=1)
        away = mini.encode_embedded(Embedded(vectors, text.ids), deep=slow["deep"][:, None])[0] - target
        total = total + (away.abs().mean() if loss == "l1" else 50.0 * away.square().mean()) / n
    total.backward()
    assert float(terms["text"][0].detach()) == pytest.approx(float(total.detach()), rel=1e-4)
    for k in slow:
        found, expected = learner.parameters[0][k].grad, slow[k].grad
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_medpromptclip_moves_each_class_towards_the_mean_of_its_descriptions(mini):
    ensemble = engine.METHODS["description-ensemble"]().learn(mini, BUSI).class_embeddings
    before, after = (
        small(engine.METHODS["medpromptclip"], epochs=epochs, batch=256, lr=lr).learn(mini, BUSI).class_embeddings
        for epochs, lr in ((1, 1e-9), (30, 0.005))
    )
    cosines = [(each * ensemble).sum(axis=1) for each in (before, after)]
    assert (cosines[1] > cosines[0]).all() and cosines[1].mean() > 0.9


def test_a_description_too_long_for_the_tower_is_cut_at_a_word(mini):
    text = " ".join(f"shadow{i} behind the mass" for i in range(40))
    cut = medpromptclip.cut(text, mini)
    assert text.startswith(cut + " ") and mini.tokenize([cut]).shape[1] <= mini.context_length
    following = text[len(cut) :].split()[0]
    with pytest.raises(BackboneError):
        mini.tokenize([f"{cut} {following}"])
    assert medpromptclip.cut("a short one", mini) == "a short one"


def test_the_bank_of_a_task_with_fewer_labels_has_no_others():
    """Base classes must not be taught with the descriptions of the novel ones."""
    base = replace(BUSI, labels=BUSI.labels[:2])
    assert list(medpromptclip.described(base, "task")) == list(base.names)


def test_the_bank_of_all_tasks_has_every_description_once():
    found = medpromptclip.described(BUSI, "all")
    assert list(found)[:3] == list(BUSI.names) and all(len(set(each)) == len(each) for each in found.values())
    expected = {name: set() for name in found}
    for task in engine.tasks():
        for name, words in engine.descriptions(task).classes.items():
            expected[name] |= set(words.sentences)
    assert {name: set(each) for name, each in found.items()} == expected


def test_a_faithful_medpromptclip_rounds_its_deep_prompts_at_each_forward(mini):
    learner = learner_of("medpromptclip", mini, None, faithful=True)
    deep = learner.parameters[0]["deep"].detach().numpy()
    rounded = deep.astype(np.float16).astype(np.float32)
    assert not np.array_equal(rounded, deep) and np.array_equal(learner.deep([0])[0].detach().numpy(), rounded)
    plain = learner_of("medpromptclip", mini, None)
    assert torch.equal(plain.deep([0])[0], plain.parameters[0]["deep"])


def test_a_faithful_medpromptclip_trains_on_names_with_underscores(mini):
    faithful, plain = (learner_of("medpromptclip", mini, None, faithful=each).training_prompts.ids for each in (True, False))
    assert torch.equal(faithful, mini.tokenize([f"X X X X X X {name.replace(' ', '_')}." for name in BUSI.names]))
    assert torch.equal(plain, mini.tokenize([f"X X X X X X {name}." for name in BUSI.names]))


def test_a_depth_of_one_has_no_deep_prompts(mini):
    assert list(small(engine.METHODS["medpromptclip"], depth=1, batch=256).learn(mini, BUSI).learned) == ["context"]


def test_the_few_shot_stage_starts_from_the_text_stage_or_faithfully_from_upstreams_words(mini, data):
    kind = engine.METHODS["medpromptclip-few-shot"]
    start = learner_of("medpromptclip-few-shot", mini, data).parameters[0]
    text = engine.METHODS["medpromptclip"]().learn(mini, BUSI, seed=1).learned
    assert all(np.array_equal(start[k].detach().numpy(), text[k]) for k in text)
    upstream = kind(kind.Config(faithful=True)).stage_one(mini, BUSI, 1)
    words = mini.embed_tokens(mini.tokenize(["a fundus image of"])).vectors[0, 1:5]
    assert np.array_equal(upstream["context"], words.numpy())
    assert upstream["deep"].shape == (3, 4, 256) and upstream["deep"].std() == pytest.approx(0.02, rel=0.1)


def test_the_text_stage_of_the_few_shot_method_can_be_stopped_too(mini, data, monkeypatch):
    watches = []
    plain = engine.METHODS["medpromptclip"].learn

    def learn(self, *args, **kwargs):
        watches.append(kwargs.get("watch"))
        return plain(replace_epochs(self), *args, **kwargs)

    def replace_epochs(method):
        return type(method)(replace(method.config, epochs=1))

    monkeypatch.setattr(engine.METHODS["medpromptclip"], "learn", learn)
    with pytest.raises(Stopped):
        small(engine.METHODS["medpromptclip-few-shot"]).learn(mini, BUSI, data, watch=Watch(stop=lambda: True))
    assert watches and watches[0] is not None


# --- adapters -------------------------------------------------------------------------------------------------------------


def test_clip_adapters_learner_computes_its_heads_scores(mini, data):
    learner = learner_of("clip-adapter", mini, data, ratio=0.3)
    head = small(engine.METHODS["clip-adapter"], ratio=0.3).prompt_set(learner, 0, mini, BUSI).head
    batch, v, y = one_batch(data)
    expected = -np.log(softmax(head.scores(v.astype(np.float32)).astype(np.float64)))[np.arange(5), y].mean()
    with torch.no_grad():
        assert float(learner.terms(batch)["ce"][0]) == pytest.approx(expected, rel=1e-4)
    assert head.down.shape == (mini.dim // 4, mini.dim) and head.up.shape == (mini.dim, mini.dim // 4)


def test_tip_adapters_cache_is_the_unit_mean_of_the_views_and_one_hot_labels(data):
    keys, values = tip_adapter.cache(data, 3)
    for i in range(12):
        mean = (data.views[0, i].astype(np.float64) + data.views[1, i]) / 2
        np.testing.assert_allclose(keys[i], mean / np.linalg.norm(mean), atol=1e-6)
        assert values[i].tolist() == [float(c == data.targets[i]) for c in range(3)]
    assert data.views.dtype == keys.dtype == np.float32


def test_tip_adapter_without_validation_keeps_the_papers_numbers(mini, data):
    made = engine.METHODS["tip-adapter"]().learn(mini, BUSI, replace(data, validation=None, validation_targets=None))
    assert (made.head.alpha, made.head.beta) == (1.0, 5.5)
    t = mini.encode_texts([f"a photo of a {name}." for name in BUSI.names]).numpy()
    for v, found in zip(data.validation, made.scores(data.validation), strict=True):
        expected = mini.logit_scale * t @ v
        for key, target in zip(tip_adapter.cache(data, 3)[0], data.targets, strict=True):
            expected[target] += 1.0 * math.exp(-5.5 * (1 - key @ v))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_tip_adapters_search_equals_trying_every_pair(mini, data):
    hard = around(mini, BUSI, seed=9)
    hard = replace(hard, validation_targets=np.array([0, 1, 2, 1, 2, 0]))  # half of them wrong
    head = CacheHead(mini.encode_texts(list(BUSI.names)).numpy(), 5.0, *tip_adapter.cache(hard, 3), 1.0, 5.5)
    best, expected = -1.0, None
    plain, affinity = 5.0 * hard.validation @ head.embeddings.T, hard.validation @ head.keys.T
    steps = [0.1 + 49.75 * i / 199 for i in range(200)]
    for beta in steps:
        near = np.exp(-beta * (1 - affinity)) @ head.values
        for alpha in steps:
            right = ((plain + alpha * near).argmax(axis=1) == hard.validation_targets).mean()
            if right > best:
                best, expected = right, (alpha, beta)
    found = tip_adapter.searched(head, hard)
    assert (found.alpha, found.beta) == pytest.approx(expected)
    assert (found.scores(hard.validation).argmax(axis=1) == hard.validation_targets).mean() == best < 1


def test_tip_adapter_fs_learner_computes_its_heads_scores(mini, data):
    learner = learner_of("tip-adapter-f", mini, data, alpha=2.0, beta=3.0)
    head = replace(learner.heads[0])
    assert (head.alpha, head.beta) == (2.0, 3.0)
    batch, v, y = one_batch(data)
    expected = -np.log(softmax(head.scores(v.astype(np.float32)).astype(np.float64)))[np.arange(5), y].mean()
    with torch.no_grad():
        assert float(learner.terms(batch)["ce"][0]) == pytest.approx(expected, rel=1e-4)


def test_a_faithful_tip_adapter_f_trains_one_set_of_keys_for_alpha_0_to_9(mini, data, monkeypatch):
    seen = []
    plain = train
    monkeypatch.setattr(
        "engine.methods.base.train",
        lambda learner, *rest, **more: (
            seen.append((learner.alpha[0], learner.beta[0], learner.parameters[0]["keys"].detach().clone())),
            plain(learner, *rest),
        )[1],
    )
    made = small(engine.METHODS["tip-adapter-f"], faithful=True, search=False).learn(mini, BUSI, data)
    assert [(alpha, beta) for alpha, beta, _ in seen] == [(float(a), 1.0) for a in range(10)]
    moved = [float((seen[a + 1][2] - seen[a][2]).abs().max()) for a in range(9)]
    assert moved[0] < 1e-4 < min(moved[1:])  # alpha 0 teaches nothing, only the decay acts
    assert (made.head.alpha, made.head.beta) == (9.0, 1.0)


# --- probes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_probe_has_sklearns_probabilities(classes, mini, data):
    task = replace(BUSI, labels=BUSI.labels[:classes])
    images = around(mini, task, seed=3, noise=0.1)
    made = engine.METHODS["linear-probe"]().learn(mini, task, replace(images, validation=None, validation_targets=None))
    reference = LogisticRegression(C=1.0, max_iter=1000).fit(images.views[0], images.targets)
    np.testing.assert_allclose(made.probabilities(images.validation), reference.predict_proba(images.validation), atol=1e-5)


def test_the_linear_probes_c_is_at_least_as_good_as_the_grids(mini):
    images = around(mini, BUSI, seed=11, noise=0.2)

    def right(c: float) -> float:
        made = LogisticRegression(C=c, max_iter=1000).fit(images.views[0], images.targets)
        return made.score(images.validation, images.validation_targets)

    found = linear_probe.searched(images, 1000)
    assert right(found) >= max(right(10.0**k) for k in (6, 4, 2, 0, -2, -4, -6)) and 1e-8 <= found <= 1e8


@pytest.mark.parametrize("faithful", [False, True])
def test_lp_plus_plus_equals_autograd_and_torchs_sgd(faithful, mini):
    images = replace(around(mini, BUSI, seed=12, noise=0.1), validation=None, validation_targets=None)
    text = mini.encode_texts([f"a photo of a {name}." for name in BUSI.names])
    kind = engine.METHODS["lp++"]
    found = kind(kind.Config(epochs=25, faithful=faithful)).fit(images, text, 1, Watch())
    f, y = torch.from_numpy(images.views[0]).double(), torch.from_numpy(images.targets)
    t, n = text.double(), len(y)
    layer = nn.Linear(mini.dim, 3).double()
    layer.weight.data = torch.stack([f[y == c].sum(dim=0) for c in range(3)])
    start = kind(kind.Config(epochs=0)).fit(images, text, 1, Watch())
    layer.bias.data = start[1].double()
    own = torch.stack([(f[y == c] @ t[c]).mean() for c in range(3)])
    alpha = (250 * own.mean()).repeat(3).requires_grad_()
    torch.testing.assert_close(start[2].double(), alpha.detach(), rtol=1e-5, atol=0)
    assert start[1].abs().max() <= 1 / mini.dim**0.5
    optimiser = torch.optim.SGD(layer.parameters(), lr=float(4 * n / torch.linalg.matrix_norm(f, 2) ** 2), momentum=0.9)
    step = n / (4 * max(float((f @ t[c]).square().sum()) for c in range(3)))
    for epoch in range(25):
        optimiser.zero_grad()
        F.cross_entropy(layer(f) + alpha * (f @ t.T), y).backward()  # alpha's gradient adds up
        optimiser.step()
        if (epoch + 1) % 10 == 0:
            alpha.data -= step * alpha.grad
            if not faithful:
                alpha.grad = None
    for mine, theirs in zip(found, (layer.weight.detach(), layer.bias.detach(), alpha.detach()), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3)


def test_lp_plus_pluss_set_scores_as_its_three_parts(mini, data):
    made = small(engine.METHODS["lp++"], epochs=12).learn(mini, BUSI, data)
    text = mini.encode_texts([f"a photo of a {name}." for name in BUSI.names])
    w, b, alpha = small(engine.METHODS["lp++"], epochs=12).fit(data, text, 1, Watch())
    v = torch.from_numpy(data.validation)
    expected = v @ w.T + b + alpha * (v @ text.T)
    np.testing.assert_allclose(made.scores(data.validation), expected.numpy(), rtol=1e-4, atol=1e-3)


def test_lp_plus_plus_keeps_the_latest_of_the_best_validation_epochs(mini, monkeypatch):
    images = around(mini, BUSI, seed=13, noise=0.15)
    text = mini.encode_texts([f"a photo of a {name}." for name in BUSI.names])
    kind, best, expected = engine.METHODS["lp++"], -1.0, None
    for epochs in range(1, 16):
        none = replace(images, validation=None, validation_targets=None)
        w, b, alpha = kind(kind.Config(epochs=epochs)).fit(none, text, 1, Watch())
        v = torch.from_numpy(images.validation)
        right = float(((v @ w.T + b + alpha * (v @ text.T)).argmax(dim=1).numpy() == images.validation_targets).mean())
        if right >= best:
            best, expected = right, w
    assert torch.equal(kind(kind.Config(epochs=15)).fit(images, text, 1, Watch())[0], expected)
    assert lp_plus_plus.EVERY == 10


def test_lp_plus_plus_tells_a_loss(mini, data):
    told = []
    watch = Watch(progress=lambda *said: told.append(said))
    images = replace(data, validation=None, validation_targets=None)
    small(engine.METHODS["lp++"], epochs=12).learn(mini, BUSI, images, watch=watch)
    assert told[-1][:2] == (12, 12) and told[-1][2] >= 0
