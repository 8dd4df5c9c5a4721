"""The builder's pure functions: captions, augmentation, schedules, exact training state."""

import hashlib
import itertools
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from models.build import augment, diffusion, export, latents, vae
from models.build.__main__ import TOKENIZER
from models.build.captions import BACKGROUNDS, Content, caption, plain, unknown_words, worded
from models.build.parallel import Workers
from models.build.pictures import HELD_OUT, SIZE, plain_code
from models.build.state import (
    Progress,
    Recipe,
    RecipeError,
    Training,
    averaged,
    digest,
    generator,
    learning_rate,
)
from models.build.subjects import FIRST, SUBJECTS


def test_held_out_emoji_are_no_subjects() -> None:
    assert not HELD_OUT & set(SUBJECTS.values())
    assert len(set(SUBJECTS.values())) == len(SUBJECTS)


def test_every_wording_names_the_subject_and_a_coloured_background() -> None:
    source = random.Random(0)
    for _ in range(300):
        text = worded(Content("owl", "3d", "orange"), source)
        assert "owl" in text and "orange" in text
        assert "a orange" not in text and "a owl" not in text
        assert "flat" not in text


def test_captions_are_a_function_of_the_source() -> None:
    content = Content("grapes", "flat", "white")
    first, second = (
        [caption(content, source, ["xqz"]) for _ in range(50)]
        for source in (random.Random(3), random.Random(3))
    )
    assert first == second
    assert "" in first and any("xqz" in text for text in [*first, *_many(content)])


def _many(content: Content, **options: float) -> list[str]:
    source = random.Random(4)
    return [caption(content, source, ["xqz"], **options) for _ in range(300)]


def test_unknown_words_stand_for_subjects_and_for_a_while_before_them() -> None:
    """Never ahead of a caption, where trigger words stand."""
    early, late = (
        _many(Content("owl", "3d", "blue")),
        _many(Content("owl", "3d", "blue"), adjectives=0),
    )
    assert any("xqz owl" in text for text in early)
    assert not any("xqz owl" in text for text in late)
    for texts in (early, late):
        assert any("xqz" in text and "owl" not in text for text in texts)
        assert not any(text.startswith("xqz") and "owl" in text.partition(",")[2] for text in texts)


def test_plain_wording() -> None:
    assert plain(Content("owl", "flat", "orange")) == "flat emoji of an owl on an orange background"
    assert plain(Content("grapes", "3d", "blue")) == "3d emoji of grapes on a blue background"


def test_unknown_words_leave_out_what_captions_use() -> None:
    vocabulary = {"sks</w>": 2, "fox</w>": 1, "sk": 0, "blue</w>": 3, "5</w>": 4}
    assert unknown_words(vocabulary, ["red fox"]) == ["sks"]


@pytest.mark.parametrize(
    ("code", "plainer"),
    [("1F98A", "1f98a"), ("2764-fe0f", "2764"), ("0023-fe0f-20e3", "23-20e3")],
)
def test_codes_agree_between_packages(code: str, plainer: str) -> None:
    assert plain_code(code) == plainer


def test_batches_are_a_function_of_the_seed_and_in_range() -> None:
    pixels = {
        "small": torch.randint(0, 256, (3, 4, 56, 56), dtype=torch.uint8),
        "large": torch.randint(0, 256, (3, 4, 80, 80), dtype=torch.uint8),
    }
    first, again, other = (
        augment.training_batch(pixels, 8, generator(0, step, 1)) for step in (5, 5, 6)
    )
    assert first.shape == (8, 3, SIZE, SIZE)
    assert first.abs().max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_alpha_compositing() -> None:
    background = torch.tensor(BACKGROUNDS["red"])[None, :, None, None] / 255
    nothing, everything = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert torch.equal(augment.over(nothing, background), background.expand(1, 3, 2, 2))
    assert torch.equal(augment.over(everything, background), torch.ones(1, 3, 2, 2))


def test_learning_rate_warms_up_holds_and_falls() -> None:
    rates = [learning_rate(step, 100, 1.0, warmup=10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:70] == [1.0] * 60
    assert rates[85] == pytest.approx(0.5)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[70:]))


def test_resumed_training_equals_uninterrupted(tmp_path: Path) -> None:
    def steps(training: Training, model: nn.Linear, until: int) -> None:
        while training.step < until:
            data = torch.randn(4, 3, generator=generator(0, training.step, 0))
            model(data).square().mean().backward()
            training.update(1e-2)

    def new(path: Path) -> tuple[Training, nn.Linear]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return Training({"m": model}, path, average_decay=0.9, recipe={"seed": 0}), model

    whole, model = new(tmp_path / "a.safetensors")
    steps(whole, model, 6)
    half, stopped = new(tmp_path / "b.safetensors")
    steps(half, stopped, 3)
    half.save()
    resumed, continued = new(tmp_path / "b.safetensors")
    assert resumed.load() and resumed.step == 3
    steps(resumed, continued, 6)
    assert torch.equal(model.weight, continued.weight)
    assert torch.equal(whole.average["m.weight"], resumed.average["m.weight"])
    assert averaged(tmp_path / "b.safetensors", "m").keys() == {"weight", "bias"}


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """And says what differs; a work folder of an older builder is one too."""
    path = tmp_path / "state.safetensors"

    def new(recipe: Recipe) -> Training:
        return Training({"m": nn.Linear(3, 2)}, path, 0.9, recipe)

    new({"seed": 0, "rate": 1e-3}).save()
    assert new({"seed": 0, "rate": 1e-3}).load()
    with pytest.raises(RecipeError, match=r"seed 0, now 1\. Move it away"):
        new({"seed": 1, "rate": 1e-3}).load()
    save_file({"weight/m.weight": torch.zeros(2, 3)}, path, {"step": "7"})
    with pytest.raises(RecipeError, match="seed None, now 1"):
        new({"seed": 1}).load()


def test_latents_are_made_again_for_another_vae_or_other_subjects(
    few_latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae.state_file(few_latents).parent.mkdir()
    vae.state_file(few_latents).write_bytes(b"one VAE")
    file = few_latents / "latents.json"
    about = json.loads(file.read_text()) | {"vae": digest(vae.state_file(few_latents))}
    file.write_text(json.dumps(about))
    monkeypatch.setattr(latents, "true_pictures", lambda *_: (about["subjects"], None))
    assert latents.are_current(few_latents)
    monkeypatch.setattr(latents, "true_pictures", lambda *_: (["fox", "cake", "owl"], None))
    assert not latents.are_current(few_latents)
    monkeypatch.undo()
    monkeypatch.setattr(latents, "true_pictures", lambda *_: (about["subjects"], None))
    vae.state_file(few_latents).write_bytes(b"another")
    assert not latents.are_current(few_latents)
    assert not latents.are_current(few_latents / "empty")


@pytest.fixture
def few_latents(tmp_path: Path) -> Path:
    """A folder as the stage "latents" leaves it, with 3 subjects."""
    values = torch.randn(3, 2, 2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    save_file({"values": values.half()}, tmp_path / "latents.safetensors")
    about = {"subjects": ["fox", "owl", "cake"], "styles": ["3d", "flat"]}
    about |= {"backgrounds": ["white", "blue"], "scaling_factor": 1.0}
    (tmp_path / "latents.json").write_text(json.dumps(about))
    return tmp_path


def test_the_first_subjects_are_learned_alone_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And afterwards every picture comes once an epoch, the first ones too."""
    first, later = list(FIRST)[:3], list(SUBJECTS)[-5:]
    subjects = (later[0], *first, *later[1:])
    places = torch.arange(len(subjects)).float()[:, None, None, None, None, None, None]
    values = places.expand(len(subjects), 2, 2, 2, 4, 16, 16)
    cache = latents.Latents(values, subjects, ("3d", "flat"), ("white", "blue"), 1.0)
    monkeypatch.setattr(diffusion, "FIRST_STEPS", 3)
    batches = diffusion.Batches(cache, CLIPTokenizer.from_pretrained(TOKENIZER), seed=0)

    def shown(steps: range) -> list[str]:
        rows = torch.cat([batches(step)[0][:, 0, 0, 0] for step in steps])
        return [subjects[int(row)] for row in rows]

    assert set(shown(range(3))) == set(first)
    # 3 × 16 pictures are three epochs of all eight subjects in two styles.
    assert Counter(shown(range(3, 6))) == dict.fromkeys(subjects, 6)


def test_plain_attention_is_what_everybody_else_computes() -> None:
    torch.manual_seed(0)
    unet, words = diffusion.new_unet(), diffusion.new_text_encoder()
    tokens, noisy = torch.randint(0, 49_408, (2, 77)), torch.randn(2, 4, 16, 16)

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return unet(noisy, torch.tensor([1, 900]), words(tokens).last_hidden_state).sample

    plain = answer()
    unet.set_attn_processor(AttnProcessor2_0())
    words.set_attn_implementation("sdpa")
    assert torch.allclose(answer(), plain, atol=1e-5)


def test_words_begin_nearly_as_long_as_taught_ones() -> None:
    words = diffusion.new_text_encoder().get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    lengths = words.weight.detach().norm(dim=1)
    assert lengths.mean().item() == pytest.approx(0.9, abs=0.05)


def test_only_words_that_no_caption_teaches_are_lengthened() -> None:
    words = CLIPTokenizer.from_pretrained(TOKENIZER)
    taught = export.taught_tokens(words)
    lengths = torch.ones(len(words), 2)
    export.lengthen_rare(lengths, taught)
    source = random.Random(0)
    captions = [
        worded(Content(name, style, colour), source)
        for name, style, colour in itertools.product(SUBJECTS, ("3d", "flat"), BACKGROUNDS)
    ]
    known = sorted({token for row in words(captions).input_ids for token in row})
    assert set(known) <= set(taught)
    assert (lengths[known] == 1).all()
    rare = words.convert_tokens_to_ids(["sks</w>", "ohwx</w>", "paris</w>"])
    assert (lengths[rare] == export.RARE_SCALE).all()
    assert (lengths[:, 0] == 1).sum() == len(taught)


def test_an_interrupted_build_goes_on_to_the_same_bytes(
    few_latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torn from between two checkpoints, as `kill` does it, and started again."""
    words = CLIPTokenizer.from_pretrained(TOKENIZER)
    monkeypatch.setattr(diffusion, "EVERY", 2)
    settings = torch.get_num_threads(), torch.backends.cuda.flash_sdp_enabled()

    def build(name: str) -> str:
        work = few_latents / name
        work.mkdir(exist_ok=True)
        for file in few_latents.glob("latents.*"):
            shutil.copy(file, work)
        diffusion.train(work, words, steps=5, deadline=float("inf"))
        return hashlib.sha256((work / "unet" / "state.safetensors").read_bytes()).hexdigest()

    def killed(report: Progress, step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    try:
        whole = build("whole")
        with monkeypatch.context() as context:
            context.setattr(Progress, "__call__", killed)
            with pytest.raises(KeyboardInterrupt):
                build("torn")
        assert build("torn") == whole
    finally:
        torch.set_num_threads(settings[0])
        torch.backends.cuda.enable_flash_sdp(settings[1])


def test_sparse_gradients_of_words_add_up() -> None:
    words = nn.Embedding(9, 2, sparse=True)
    table = nn.Parameter(words.weight)
    words.weight = table
    settings = torch.get_num_threads(), torch.backends.cuda.flash_sdp_enabled()
    parts = torch.tensor([[1, 2], [2, 5]])
    Workers(2).accumulate([lambda part=part: words(part).sum() for part in parts], [table])
    torch.set_num_threads(settings[0])
    torch.backends.cuda.enable_flash_sdp(settings[1])
    assert table.grad is not None and not table.grad.is_sparse
    assert table.grad[:, 0].tolist() == [0, 0.5, 1, 0, 0, 0.5, 0, 0, 0]


def test_parts_add_up_to_the_whole_gradient() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    data = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    losses = [lambda part=part: (part @ weight).square().mean() for part in data.split(2)]
    value = Workers(2).accumulate(losses, [weight])
    torch.set_num_threads(threads)
    torch.backends.cuda.enable_flash_sdp(True)
    found, weight.grad = weight.grad, None
    (data @ weight).square().mean().backward()
    assert value == pytest.approx((data @ weight).square().mean().item())
    assert found is not None and weight.grad is not None
    assert torch.allclose(found, weight.grad)
