# SPDX-License-Identifier: Apache-2.0
"""DistributedDataParallel and FSDP over two processes: the gradients of one process over both batches."""

import textwrap

from two_ranks import run_two_ranks

METHODS = ("zoo-exact", "fastv")

TWO_RANKS = """
    import json, sys
    import torch, torch.distributed as dist
    import tiny_models, tokenprune
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank, said = dist.get_rank(), {}
    batches = [tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=seed) for seed in (1, 2)]
    for batch in batches:
        batch["labels"] = batch["input_ids"].clone()

    def gradients(model):
        return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}

    def kept(handle):
        return [image.kept.tolist() for image in handle.last.images]

    for method in METHODS:
        alone = tiny_models.llava().train()
        with tokenprune.apply(alone, method=method, keep=5) as handle:
            slots = []
            for batch in batches:
                (alone(**batch).loss / 2).backward()
                slots.append(kept(handle))
        want = gradients(alone)

        model = tiny_models.llava().train()
        parallel = DistributedDataParallel(model, find_unused_parameters=True)
        try:
            tokenprune.apply(parallel, method=method, keep=5)
        except tokenprune.UnsupportedModelError as error:
            refused = str(error)
        with tokenprune.apply(parallel.module, method=method, keep=5) as handle:
            parallel(**batches[rank]).loss.backward()
            same = kept(handle) == slots[rank]
        got = gradients(model)
        apart = max(float((got[name] - want[name]).abs().max()) for name in want)
        after = tiny_models.llava()
        with torch.no_grad():  # and a model that is wrapped when it is pruned already
            pruned = tiny_models.llava()
            with tokenprune.apply(pruned, method=method, keep=5):
                wrapped = DistributedDataParallel(pruned, find_unused_parameters=True)
                logits = [wrapped(**batches[rank]).logits]
            with tokenprune.apply(after, method=method, keep=5):
                logits.append(after(**batches[rank]).logits)
        said[method] = [refused, same, sorted(got) == sorted(want), apart, torch.equal(*logits)]

        for when in ("before", "after"):
            model = tiny_models.llava().train()
            if when == "before":
                fully_shard(model)
            handle = tokenprune.apply(model, method=method, keep=5)
            if when == "after":
                fully_shard(model)
            model(**batches[rank]).loss.backward()
            got = {n: w.grad.full_tensor() for n, w in model.named_parameters() if w.grad is not None}
            apart = max(float((got[name] - want[name]).abs().max()) for name in want)
            same = [kept(handle) == slots[rank], sorted(got) == sorted(want)]
            said[f"{method} sharded {when}"] = [*same, apart]
            handle.remove()
    with open(f"{sys.argv[1]}/rank{rank}.json", "w") as file:
        json.dump(said, file)
    dist.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one(tmp_path):
    ranks = run_two_ranks(f"METHODS = {METHODS}\n" + textwrap.dedent(TWO_RANKS), tmp_path)
    for said in ranks:
        for method in METHODS:
            refused, *same, apart, wrapped_later = said[method]
            assert "DistributedDataParallel wraps a model; apply to model.module" in refused
            assert same == [True, True] and wrapped_later
            assert apart < 1e-4
            for when in ("before", "after"):
                *same, apart = said[f"{method} sharded {when}"]
                assert same == [True, True], when
                assert apart < 1e-4
