"""The rivals against their definitions in plain numpy, and what can be known of their scores."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.features import Statistics
from analysis.files import InputError
from analysis.model import SINGLE, VARIANTS, FactorTopy, ModelConfig, named_model
from analysis.rivals import MODELS, Rival, make_model

WIDTHS = [5, 3, 4]
N, D = 7, 6
RIVALS = [name for name in MODELS if name != "factortopy"]


def rival(name: str, standardise: bool = False) -> Rival:
    """A small one in float64, all of whose parameters are random."""
    config = ModelConfig(model=name, channels=D, grid=4, standardise=standardise)
    model = make_model(config, WIDTHS, torch.rand(N, 3)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    local = torch.randn(2, sum(WIDTHS), 4, 4, generator=generator, dtype=torch.float64)
    return local, torch.randn(2, sum(WIDTHS), generator=generator, dtype=torch.float64)


def by_layer(x: Tensor) -> list[np.ndarray]:
    return [t.numpy() for t in x.split(WIDTHS, 1)]


def read(model: Rival, features: np.ndarray) -> np.ndarray:
    """The mean over channels of features times each vertex's weights."""
    return (features[:, None] * model.weight.detach().numpy()).mean(2) + model.bias.detach().numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def class_token(model: Rival, local: Tensor, global_: Tensor) -> np.ndarray:
    maps = [w.detach().numpy() for w in model.bottleneck.weights]
    each = [g @ w.T for g, w in zip(by_layer(global_), maps, strict=True)]
    return read(model, np.mean(each, 0))


def patch_token(model: Rival, local: Tensor, global_: Tensor) -> np.ndarray:
    each = []
    for tokens, mlp in zip(by_layer(local), model.compress, strict=True):
        first, last = ([p.detach().numpy() for p in mlp[i].parameters()] for i in (0, 2))
        hidden = gelu(tokens.reshape(len(tokens), -1) @ first[0].T + first[1])
        each.append(hidden @ last[0].T + last[1])
    return read(model, np.mean(each, 0))


def gnet(model: Rival, local: Tensor, global_: Tensor) -> np.ndarray:
    out = np.zeros((len(local), N))
    for n in range(N):
        pooled = []
        for i, tokens in enumerate(by_layer(local)):
            field = np.exp(model.field[i, n].detach().numpy())
            field = (field / field.sum()).reshape(4, 4)
            near = np.einsum("bchw,hw->bc", tokens, field)
            pooled.append(near @ model.bottleneck.weights[i].detach().numpy().T)
        features = np.mean(pooled, 0)
        out[:, n] = (features * model.weight[n].detach().numpy()).mean(1) + model.bias[n].item()
    return out


DEFINITIONS = {"class-token": class_token, "patch-token": patch_token, "gnet": gnet}


@pytest.mark.parametrize("name", RIVALS)
def test_each_rival_is_its_definition(name: str) -> None:
    model, (local, global_) = rival(name), tokens()
    expected = DEFINITIONS[name](model, local, global_)
    np.testing.assert_allclose(model(local, global_).detach().numpy(), expected, rtol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_reads_the_tokens_it_is_named_for(name: str) -> None:
    model, (local, global_) = rival(name), tokens()
    before = model(local, global_)
    of_global = not torch.equal(model(local, global_ + 1), before)
    of_local = not torch.equal(model(local + torch.rand_like(local), global_), before)
    assert (of_global, of_local) == (name == "class-token", name != "class-token")
    assert model.selectors() is None


@pytest.mark.parametrize("name", RIVALS)
def test_vertices_of_one_weight_get_one_response_unless_their_fields_differ(name: str) -> None:
    model, (local, global_) = rival(name), tokens()
    with torch.no_grad():
        model.weight[1] = model.weight[0]
        model.bias[1] = model.bias[0]
    out = model(local, global_)
    assert torch.allclose(out[:, 0], out[:, 1]) == (name != "gnet")


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="model='ridge': expected one of factortopy, class-token"):
        make_model(ModelConfig(model="ridge"), WIDTHS, torch.rand(N, 3))


def test_parameters_are_those_of_the_definitions_at_the_papers_size() -> None:
    layers, width, n = 12, 768, 37_984
    counts = {}
    with torch.device("meta"):
        for name in RIVALS:
            config = dataclasses.replace(VARIANTS[name], channels=128)
            model = make_model(config, [width] * layers, torch.empty(n, 3))
            counts[name] = sum(p.numel() for p in model.parameters())
    readout = n * 129
    assert counts["class-token"] == layers * width * 128 + readout
    mlp = width * 64 * 128 + 128 + 128 * 128 + 128
    assert counts["patch-token"] == layers * mlp + readout
    assert counts["gnet"] == layers * width * 128 + readout + n * layers * 64


def test_a_single_layers_model_is_factortopy_whose_weights_are_all_on_it() -> None:
    config = ModelConfig(channels=D, grid=4, hidden=8, frequencies=2, only_layer=2)
    coordinates = torch.rand(N, 3)
    single = make_model(config, WIDTHS, coordinates).double()
    with torch.no_grad():
        for parameter in single.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    every = FactorTopy(dataclasses.replace(config, only_layer=0), WIDTHS, coordinates).double()
    own = ("bottleneck", "standard")
    mine = {k: v for k, v in single.state_dict().items() if not k.startswith(own)}
    every.load_state_dict(mine, strict=False)
    with torch.no_grad():
        every.bottleneck.weights[1].copy_(single.bottleneck.weights[0])
    chosen = single.selectors()
    assert torch.equal(chosen.layer, torch.ones(N, 1))
    one_hot = torch.eye(3, dtype=torch.float64)[1].expand(N, 3)
    expected = every(*tokens(), chosen._replace(layer=one_hot))
    torch.testing.assert_close(single(*tokens()), expected)
    assert min(chosen.space.std(), chosen.size.std()) > 0.1 and expected.std() > 0.1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_single_layers_model_reads_that_layer_and_no_other(name: str, layer: int) -> None:
    config = ModelConfig(model=name, channels=D, grid=4, hidden=8, frequencies=2, only_layer=layer)
    model = make_model(config, WIDTHS, torch.rand(N, 3)).double()
    local, global_ = tokens()
    before = model(local, global_)
    for other, start in enumerate([0, 5, 8], 1):
        channels = slice(start, start + WIDTHS[other - 1])
        changed = local.clone(), global_.clone()
        for some in changed:
            some[:, channels] += torch.rand_like(some[:, channels])
        assert torch.equal(model(*changed), before) == (other != layer)


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_there_is_not_is_refused(layer: int) -> None:
    with pytest.raises(InputError, match=f"only_layer={layer}; expected 1 to 3, the layers"):
        make_model(ModelConfig(only_layer=layer), WIDTHS, torch.rand(N, 3))


def test_models_have_names() -> None:
    assert named_model("layer-12") == ModelConfig(only_layer=12)
    expected = ModelConfig(model="class-token", only_layer=3)
    assert named_model("class-token-layer-3") == expected
    for name in (*VARIANTS, *SINGLE):
        assert named_model(name) == (VARIANTS | SINGLE)[name]
    for wrong in ("layer-0", "layer-x", "gnet-layer-1", "layer", "mlp"):
        with pytest.raises(InputError, match=f"variant '{wrong}': expected one of factortopy"):
            named_model(wrong)


@pytest.mark.parametrize("name", RIVALS)
def test_standardised_tokens_are_those_of_their_statistics(name: str) -> None:
    local, global_ = tokens()
    local, global_ = 3 * local + 2, torch.randn(9, sum(WIDTHS), dtype=torch.float64)[:2] - 1
    moments = local.mean((0, 2, 3)), local.std((0, 2, 3), False), global_.mean(0), global_.std(0)
    norms = torch.zeros(len(WIDTHS)), torch.zeros(len(WIDTHS))
    seen = Statistics(*(m.float() for m in moments), *norms)
    model, plain = rival(name, standardise=True), rival(name)
    model.standard.measured(seen)
    near = (local - moments[0][:, None, None]) / moments[1][:, None, None]
    far = (global_ - moments[2]) / moments[3]
    torch.testing.assert_close(model(local, global_), plain(near, far), rtol=1e-5, atol=1e-5)
    config = ModelConfig(model=name, channels=D, grid=4, standardise=True)
    made = make_model(config, WIDTHS, torch.rand(N, 3), seen)
    torch.testing.assert_close(made.standard.local.mean, seen.local_mean)
