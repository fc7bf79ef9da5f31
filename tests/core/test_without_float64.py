# SPDX-License-Identifier: Apache-2.0
"""Devices without float64, simulated: every method keeps what it keeps on the CPU, or says what it needs."""

import dataclasses

import pytest
import torch
from narrow_device import DEVICE, NarrowDevice

import tokenprune
from tokenprune.precision import float64_device, in_float64
from tokenprune.projector import LinearForm
from tokenprune.testing import example_tokens
from tokenprune.testing.outputs import largest_difference


def moved(value):
    """A signal on `DEVICE`: a tensor, a projector, or a function whose results are there."""
    if isinstance(value, torch.Tensor):
        return value.to(DEVICE)
    if isinstance(value, tokenprune.Projector):
        form = value.linear_form()
        names = [field.name for field in dataclasses.fields(form) if field.name[0] in "Wb"]
        weights = {name: moved(getattr(form, name)) for name in names}
        return tokenprune.Projector.wrap(LinearForm(act=form.act, **weights))
    if isinstance(value, tuple):
        return tuple(map(moved, value))
    if callable(value):
        return lambda *args: moved(value(*(arg.cpu() if torch.is_tensor(arg) else arg for arg in args)))
    return value


def there(tokens):
    signals = {name: moved(tokens.signal(name)) for name in tokens.provides}
    return tokenprune.VisualTokens(moved(tokens.features), signals, tokens.layout, tokens.layer)


@pytest.mark.parametrize("keep", [7, 20])  # more than the 16 features have dimensions, too
@pytest.mark.parametrize("name", tokenprune.list_methods())
def test_a_method_keeps_what_it_keeps_on_the_cpu(name, keep):
    method, tokens = tokenprune.method(name), example_tokens()
    want = method.select(tokens, keep=keep)
    with NarrowDevice():
        got = method.select(there(tokens), keep=keep)
        assert got.indices.device == DEVICE
        assert got.indices.tolist() == want.indices.tolist()
        assert (got.features is None) == (want.features is None)
        if got.features is not None:
            torch.testing.assert_close(got.features.cpu(), want.features)


@pytest.mark.parametrize("kind", ["scorer", "selector"])
def test_so_does_every_part_with_its_defaults(kind):
    tokens = example_tokens()
    for name in tokenprune.default_registry().names(kind):
        part = getattr(tokenprune, kind)(name)
        method = tokenprune.Method("one", **{"scorer": "uniform", "selector": "topk", kind: part})
        want = method.select(tokens, keep=9).indices.tolist()
        with NarrowDevice():
            assert method.select(there(tokens), keep=9).indices.tolist() == want, name


def test_what_the_pretended_device_refuses():
    with NarrowDevice():
        rows = torch.randn(3, 2).to(DEVICE)
        for wrong in (
            lambda: rows.double(),
            lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE),
            lambda: rows.cpu().double().to(DEVICE),
            lambda: rows + torch.ones(3, 2),
            lambda: rows.numpy(),
        ):
            with pytest.raises((TypeError, RuntimeError), match="float64|one device|numpy"):
                wrong()
        assert torch.equal((rows @ rows.mT).cpu(), rows.cpu() @ rows.cpu().mT)


def test_where_float64_is_computed(monkeypatch):
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    for device in (torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")):
        assert float64_device(device) == device
    for has_fp64 in (True, False):
        monkeypatch.setattr(
            torch.xpu,
            "get_device_properties",
            lambda device, has_fp64=has_fp64: type("Properties", (), {"has_fp64": has_fp64}),
        )
        assert float64_device(torch.device("xpu", 0)) == torch.device("xpu:0" if has_fp64 else "cpu")


def test_differences_of_a_check_are_computed_elsewhere():
    with NarrowDevice():
        rows = torch.tensor([1.0, 2.0]).to(DEVICE)
        assert in_float64(rows).tolist() == [1, 2] and in_float64(rows).dtype == torch.float64
        assert largest_difference([rows], [rows + 0.5]) == 0.5
