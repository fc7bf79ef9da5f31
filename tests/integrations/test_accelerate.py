# SPDX-License-Identifier: Apache-2.0
"""accelerate's hooks and wrappers, before `apply` and after it: the answers are those without them."""

import accelerate
import pytest
import tiny_models
import torch
from accelerate.hooks import remove_hook_from_submodules
from accelerate.state import AcceleratorState

import tokenprune

INPUTS = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))
READS_WEIGHTS = ["zoo-exact", "visionzip"]
OTHERS = ["divprune", "fastv"]
LANGUAGE_ON_DISK = {
    "model.vision_tower": "cpu",
    "model.multi_modal_projector": "cpu",
    "model.language_model": "disk",
    "lm_head": "disk",
}
# of an older transformers; and one of accelerate's about a device that is the input's
pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.filterwarnings("ignore:You are calling .generate"),
]


def all_on_the_cpu(model, folder):
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True, main_device="cpu")


def language_on_disk(model, folder):
    return accelerate.dispatch_model(model, LANGUAGE_ON_DISK, main_device="cpu", offload_dir=folder)


def all_in_cpu_memory(model, folder):
    return accelerate.cpu_offload(model, execution_device="cpu")


def all_on_disk(model, folder):
    return accelerate.disk_offload(model, folder, execution_device="cpu")


WITH_PROJECTOR = [all_on_the_cpu, language_on_disk]
WITHOUT_PROJECTOR = [all_in_cpu_memory, all_on_disk]


def answers(model, handle=None):
    """Logits, generated ids, and the slots kept in each image."""
    ids = model.generate(**INPUTS, max_new_tokens=4, do_sample=False)
    logits = model(**INPUTS).logits
    return logits, ids, None if handle is None else [image.kept.tolist() for image in handle.last.images]


def check(got, want):
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert got[2] == want[2]


def pruned(model, method):
    with tokenprune.apply(model, method=method, keep=4) as handle:
        return answers(model, handle)


CASES = [(way, method) for way in WITH_PROJECTOR for method in READS_WEIGHTS + OTHERS]
CASES += [(way, method) for way in WITHOUT_PROJECTOR for method in OTHERS]


@pytest.mark.parametrize(("way", "method"), CASES)
def test_a_dispatched_model_answers_as_before(way, method, tmp_path):
    plain, want = answers(tiny_models.llava()), pruned(tiny_models.llava(), method)
    dispatched = way(tiny_models.llava(), tmp_path / "first")
    check(pruned(dispatched, method), want)
    check(answers(dispatched), plain)

    model = tiny_models.llava()
    with tokenprune.apply(model, method=method, keep=4) as handle:
        way(model, tmp_path / "second")
        check(answers(model, handle), want)
        remove_hook_from_submodules(model)  # and back
        check(answers(model, handle), want)
        way(model, tmp_path / "third")
    check(answers(model), plain)
    remove_hook_from_submodules(model)
    check(answers(model), plain)


@pytest.mark.parametrize("way", WITHOUT_PROJECTOR)
@pytest.mark.parametrize("method", READS_WEIGHTS)
def test_an_offloaded_projector_is_refused_by_methods_that_read_it(way, method, tmp_path):
    dispatched = way(tiny_models.llava(), tmp_path / "first")
    with pytest.raises(
        tokenprune.IncompatibleError, match="which are offloaded; keep the projector on a device"
    ):
        tokenprune.apply(dispatched, method=method, keep=4)
    assert not tokenprune.is_pruned(dispatched)
    model = tiny_models.llava()
    want = answers(model)
    with tokenprune.apply(model, method=method, keep=4):
        way(model, tmp_path / "second")
        with pytest.raises(
            tokenprune.IncompatibleError, match="which are offloaded; keep the projector on a device"
        ):
            model(**INPUTS)
    check(answers(model), want)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_checkpoints_loaded_piece_by_piece(method, tmp_path):
    model = tiny_models.llava()
    want = pruned(model, method)
    accelerate.Accelerator(cpu=True).save_model(model, tmp_path / "weights")
    with accelerate.init_empty_weights():
        empty = type(model)(model.config).eval()
    empty.generation_config = model.generation_config
    loaded = accelerate.load_checkpoint_and_dispatch(
        empty, tmp_path / "weights", device_map=LANGUAGE_ON_DISK, offload_folder=tmp_path / "offload"
    )
    check(pruned(loaded, method), want)

    model.save_pretrained(tmp_path / "checkpoint")
    loaded = type(model).from_pretrained(
        tmp_path / "checkpoint", device_map=LANGUAGE_ON_DISK, offload_folder=tmp_path / "other"
    )
    check(pruned(loaded.eval(), method), want)


@pytest.fixture
def accelerator():
    """Return a function that makes an Accelerator, of which there is one in a process."""
    AcceleratorState._reset_state(True)
    yield lambda **options: accelerate.Accelerator(cpu=True, **options)
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_prepare(accelerator, method):
    model = tiny_models.llava()
    plain, want = answers(model), pruned(tiny_models.llava(), method)
    with tokenprune.apply(model, method=method, keep=4) as handle:
        accelerator = accelerator()
        prepared = accelerator.prepare(model)
        check(answers(prepared, handle), want)
        assert accelerator.unwrap_model(prepared) is model
        assert accelerator.get_state_dict(prepared).keys() == tiny_models.llava().state_dict().keys()
    check(answers(prepared), plain)
    check(pruned(accelerator.unwrap_model(prepared), method), want)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
@pytest.mark.parametrize("is_pruned_first", [True, False])
def test_prepare_with_mixed_precision(accelerator, method, is_pruned_first):
    """The prepared model runs under autocast: as the model called under autocast by hand."""
    model = tiny_models.llava()
    with (
        tokenprune.apply(model, method=method, keep=4) as handle,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        want = model(**INPUTS).logits.float()
        kept = [image.kept.tolist() for image in handle.last.images]
    accelerator = accelerator(mixed_precision="bf16")
    if is_pruned_first:
        handle = tokenprune.apply(model, method=method, keep=4)
        prepared = accelerator.prepare(model)
    else:
        prepared = accelerator.prepare(model)
        handle = tokenprune.apply(prepared, method=method, keep=4)
    logits = prepared(**INPUTS).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, want)
    assert [image.kept.tolist() for image in handle.last.images] == kept
    handle.remove()
    assert not tokenprune.is_pruned(prepared)
