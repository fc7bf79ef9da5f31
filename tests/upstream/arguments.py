# SPDX-License-Identifier: Apache-2.0
"""Arguments of `generate`, what processors see, number formats, what is left of a model afterwards."""

import gc
import weakref

import pytest
import torch
from checks import CLOSE, LOGITS, N_NEW, Checks, cache_in, stacked
from families import SPECIAL, VOCABULARY
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.streamers import BaseStreamer

GREEDY = {"do_sample": False, "suppress_tokens": list(SPECIAL)}


class ArgumentChecks(Checks):
    """Each argument means what it means in a stock model."""

    def test_generate_logits_to_keep(self):
        model, inputs = self.new_model(), self.batch()
        assert torch.equal(*(self.answer(model, inputs, logits_to_keep=n) for n in (1, 0)))
        whole = self.forward(model, inputs).logits
        n = inputs["input_ids"].shape[1]
        assert whole.shape == (2, n, VOCABULARY)
        for last in (1, 3, 10):
            some = self.forward(model, inputs, logits_to_keep=last).logits
            torch.testing.assert_close(some, whole[:, -last:], **CLOSE)
        at = torch.tensor([0, 2, 5, n - 1])
        torch.testing.assert_close(
            self.forward(model, inputs, logits_to_keep=at).logits, whole[:, at], **CLOSE
        )

    def test_generate_max_length_counts_the_whole_prompt(self):
        model, inputs = self.new_model(), self.batch()
        n, given = inputs["input_ids"].shape[1], {"max_new_tokens": None}
        out = self.answer(model, inputs, max_length=n + 3, **given)
        assert torch.equal(out, self.answer(model, inputs, max_new_tokens=3))
        with pytest.raises(ValueError, match="max_length"):
            self.answer(model, inputs, max_length=n - 1, **given)
        static = self.answer(
            model,
            inputs,
            max_length=n + 3,
            cache_implementation="static",
            return_dict_in_generate=True,
            **given,
        )
        assert cache_in(static).layers[0].max_cache_len == n + 2

    def test_generate_end_of_text_and_min_new_tokens(self):
        model, inputs = self.new_model(), self.batch()
        n = inputs["input_ids"].shape[1]
        end = int(self.answer(model, inputs, max_new_tokens=6)[0, n + 1])
        out = self.answer(model, inputs, max_new_tokens=6, eos_token_id=end)[0, n:]
        first = int((out == end).nonzero()[0, 0])
        assert bool((out[first + 1 :] == 0).all())
        longer = self.answer(model, inputs, max_new_tokens=6, eos_token_id=end, min_new_tokens=6)
        assert longer.shape[1] == n + 6
        assert not bool((longer[:, n : n + 5] == end).any())

    def test_generate_position_ids(self):
        model, inputs = self.new_model(), self.padded(self.batch(), left=3)
        if "mm_token_type_ids" in inputs:
            self.skipTest("positions of the Qwens have three axes and are made of the grid")
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        given = {**inputs, "position_ids": positions}
        assert torch.equal(self.answer(model, inputs), self.answer(model, given))
        one, other = (self.forward(model, each).logits[:, 3:] for each in (inputs, given))
        torch.testing.assert_close(one, other, **CLOSE)

    def test_generate_eager_as_sdpa(self):
        inputs, model = self.padded(self.batch(images=2), left=3), self.new_model()
        sdpa = self.answer(model, inputs, **LOGITS)
        model.set_attn_implementation("eager")  # while it is pruned
        eager = self.answer(model, inputs, **LOGITS)
        torch.testing.assert_close(stacked(sdpa), stacked(eager), **CLOSE)
        fresh = self.answer(self.new_model("eager"), inputs, **LOGITS)
        assert torch.equal(stacked(fresh), stacked(eager))

    def test_generate_encodes_pixels_once(self):
        model, inputs, calls = self.new_model(), self.batch(), []
        tower = model.model.visual if hasattr(model.model, "visual") else model.model.vision_tower
        tower.register_forward_hook(lambda *_: calls.append(1))
        model.generate(**inputs, max_new_tokens=N_NEW, **GREEDY)
        assert calls == [1]

    def test_generate_processors_and_criteria_see_the_whole_prompt(self):
        model, inputs = self.new_model(), self.batch()
        n, seen = inputs["input_ids"].shape[1], []

        class Look(LogitsProcessor):
            def __call__(self, input_ids, scores):
                seen.append(input_ids.shape[1])
                return scores

        class Stop(StoppingCriteria):
            def __call__(self, input_ids, scores, **kwargs):
                return torch.full((len(input_ids),), input_ids.shape[1] >= n + 3)

        given = {"logits_processor": LogitsProcessorList([Look()]), "stopping_criteria": [Stop()]}
        out = model.generate(**inputs, max_new_tokens=9, **GREEDY, **given)
        assert seen == [n, n + 1, n + 2]
        assert out.shape[1] == n + 3

    def test_generate_streams_the_whole_prompt(self):
        model, inputs, put = self.new_model(), self.batch(1), []

        class Stream(BaseStreamer):
            def put(self, value):
                put.append(tuple(value.shape))

            def end(self):
                put.append("end")

        model.generate(**inputs, max_new_tokens=2, **GREEDY, streamer=Stream())
        assert put == [tuple(inputs["input_ids"].shape), (1,), (1,), "end"]

    def test_generate_guidance_calls_the_model_between_steps(self):
        model, inputs = self.new_model(), self.batch(1)
        if "mm_token_type_ids" in inputs:
            self.skipTest("stock Qwens cannot")
        negative = self.model_tester.words(1, 4)
        given = {"guidance_scale": 1.5, "negative_prompt_ids": negative, "output_scores": True, **LOGITS}
        plain = self.answer(model, inputs, **LOGITS)
        out = self.answer(model, inputs, **given)
        assert torch.equal(out.logits[0], plain.logits[0])
        with torch.no_grad():
            text = model(input_ids=negative).logits[:, -1].log_softmax(-1)
        want = 1.5 * (out.logits[0].log_softmax(-1) - text) + text
        ordinary = len(SPECIAL)
        torch.testing.assert_close(out.scores[0][:, ordinary:], want[:, ordinary:], **CLOSE)

    def check_half(self, dtype):
        model, inputs = self.new_model().to(dtype), self.batch()
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        out = self.answer(model, inputs, **LOGITS)
        assert bool(stacked(out).isfinite().any(-1).all())
        assert not bool(stacked(out).isnan().any())
        self.check_pruned(model)

    def test_generate_bfloat16(self):
        self.check_half(torch.bfloat16)

    def test_generate_float16(self):
        self.check_half(torch.float16)

    def test_generate_under_autocast(self):
        model, inputs = self.new_model(), self.batch()
        with torch.autocast("cpu", torch.bfloat16):
            out = self.answer(model, inputs, **LOGITS)
        assert not bool(stacked(out).isnan().any())
        self.check_pruned(model)

    def test_generate_in_inference_mode(self):
        model, inputs = self.new_model(), self.batch()
        with torch.inference_mode():
            out = self.answer(model, inputs)
        assert torch.equal(out, self.answer(model, inputs))

    def test_generate_continuous_batching_of_text(self):
        if type(self).__name__ != "InternVLTest":
            self.skipTest("slow; one family is enough")
        model = self.new_model()
        prompts = [self.model_tester.words(1, n)[0].tolist() for n in (5, 8)]
        model.generation_config.do_sample = False
        want = [model.generate(torch.tensor([p]), max_new_tokens=3)[0, len(p) :].tolist() for p in prompts]
        small = ContinuousBatchingConfig(
            num_blocks=8, max_batch_tokens=64
        )  # else it takes most of the memory
        out = model.generate_batch(prompts, max_new_tokens=3, continuous_batching_config=small)
        assert sorted(one.generated_tokens for one in out.values()) == sorted(want)

    def test_generate_leaves_a_model_that_can_be_freed(self):
        model, inputs = self.new_model(), self.batch()
        out = self.answer(model, inputs, return_dict_in_generate=True)
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None
        assert out.sequences.shape[0] == 2
