# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer on a pruned model: losses and weights are those of a loop written by hand."""

import pytest
import tiny_models
import torch
from transformers import Trainer, TrainingArguments

import tokenprune

METHODS = ["zoo-exact", "fastv"]
STEPS, RATE, KEEP = 3, 1e-3, 5


class Samples(torch.utils.data.Dataset):
    """Prompts with a picture, all of one length; the last three tokens are the answer."""

    def __init__(self, n):
        self.samples = [tiny_models.llava_inputs((3, "I", 5), seed=seed) for seed in range(n)]
        for sample in self.samples:
            sample["labels"] = sample["input_ids"].clone()
            sample["labels"][:, :-3] = -100

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, number):
        return self.samples[number]


def collate(samples):
    return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


def by_hand(model, samples, size, accumulated=1):
    """Losses of the steps, and the model trained by plain gradient descent on batches in their order."""
    model.train()
    losses = []
    for step in range(STEPS):
        model.zero_grad()
        total = 0.0
        for part in range(accumulated):
            start = (step * accumulated + part) * size
            batch = collate([samples[number] for number in range(start, start + size)])
            loss = model(**batch).loss / accumulated
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= RATE * weight.grad
    return losses


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return None  # a loader without a sampler keeps the order


def trainer(model, folder, samples, size, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=size,
        per_device_eval_batch_size=size,
        remove_unused_columns=False,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        max_grad_norm=0.0,
        dataloader_pin_memory=False,
        **options,
    )
    descent = torch.optim.SGD(model.parameters(), lr=RATE)
    constant = torch.optim.lr_scheduler.LambdaLR(descent, lambda step: 1.0)
    return InOrder(
        model,
        arguments,
        data_collator=collate,
        train_dataset=samples,
        eval_dataset=samples,
        optimizers=(descent, constant),
    )


def losses_of(trained):
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def same_weights(model, other):
    for (name, weight), wanted in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(weight, wanted, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_few_steps_and_the_model_saved_after_them(method, accumulated, tmp_path):
    samples, model, hand = Samples(2 * STEPS * accumulated), tiny_models.llava(), tiny_models.llava()
    with tokenprune.apply(hand, method=method, keep=KEEP):
        want = by_hand(hand, samples, 2, accumulated)
    plain = by_hand(tiny_models.llava(), samples, 2, accumulated)
    with tokenprune.apply(model, method=method, keep=KEEP) as handle:
        trained = trainer(model, tmp_path, samples, 2, gradient_accumulation_steps=accumulated)
        trained.train()
        assert handle.is_active and handle.last.images[0].n_after == KEEP
        trained.save_model(tmp_path / "saved")
    assert losses_of(trained) == pytest.approx(want, abs=1e-3)
    assert losses_of(trained) != pytest.approx(plain, abs=1e-2)
    same_weights(model, hand)
    loaded = type(model).from_pretrained(tmp_path / "saved")
    same_weights(loaded, hand)
    assert not tokenprune.is_pruned(loaded)


@pytest.mark.parametrize("method", METHODS)
def test_evaluation(method, tmp_path):
    samples, model = Samples(4), tiny_models.llava()
    with tokenprune.apply(model, method=method, keep=KEEP) as handle, torch.no_grad():
        batches = [collate([samples[0], samples[1]]), collate([samples[2], samples[3]])]
        want = [model(**batch) for batch in batches]
        kept = [image.kept.tolist() for image in handle.last.images]
        # without it, stock Trainer fails on the model's cache, pruned or not
        evaluated = trainer(model, tmp_path, samples, 2, prediction_loss_only=True)
        found = evaluated.evaluate()
        assert [image.kept.tolist() for image in handle.last.images] == kept
    mean = sum(float(out.loss) for out in want) / 2
    assert found["eval_loss"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing(method, tmp_path):
    samples, model, hand = Samples(2 * STEPS), tiny_models.llava(), tiny_models.llava()
    with tokenprune.apply(hand, method=method, keep=KEEP):
        want = by_hand(hand, samples, 2)
    with tokenprune.apply(model, method=method, keep=KEEP):
        trained = trainer(model, tmp_path, samples, 2, activation_checkpointing=True)
        trained.train()
    assert losses_of(trained) == pytest.approx(want, abs=1e-3)
    same_weights(model, hand)
