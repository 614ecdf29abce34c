from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vocdist.errors import UserError
from vocdist.models.backbone import build_network, load_weights

NAME = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def donor() -> nn.Module:
    torch.manual_seed(1)
    return build_network(NAME)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("features_only", [True, False])
def test_a_file_with_or_without_a_head_is_loaded(
    donor: nn.Module, tmp_path: Path, suffix: str, features_only: bool
) -> None:
    state = {
        name: value.contiguous()
        for name, value in donor.state_dict().items()
        if not features_only or name.startswith("features.")
    }
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    network = build_network(NAME)
    load_weights(network, NAME, str(path))
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_head_for_other_classes_is_left_as_it_is(donor: nn.Module, tmp_path: Path) -> None:
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    network = build_network(NAME)
    network.classifier[3] = nn.Linear(1024, 20)
    before = network.classifier[3].weight.clone()
    load_weights(network, NAME, str(tmp_path / "w.pth"))
    assert torch.equal(network.classifier[3].weight, before)
    assert torch.equal(network.classifier[0].weight, donor.classifier[0].weight)


def test_none_changes_nothing() -> None:
    network = build_network(NAME)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_weights(network, NAME, "none")
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(build_network("resnet18").state_dict(), path)
    with pytest.raises(UserError, match=r"resnet\.pth.*model\.backbone"):
        load_weights(build_network(NAME), NAME, str(path))


def test_a_missing_file_and_a_file_of_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth: no such weights file"):
        load_weights(build_network(NAME), NAME, str(tmp_path / "nowhere.pth"))
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"notes{suffix}"
        for content in (b"not weights", b"", b"step-00000003\n"):
            path.write_bytes(content)
            with pytest.raises(UserError, match=f"notes{suffix}: holds no weights"):
                load_weights(build_network(NAME), NAME, str(path))


def test_a_failed_download_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A port where nothing listens, so that the real downloader really fails.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_weights(build_network(NAME), NAME, "imagenet")
    message = str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / "mobilenet_v3_small") in message
    assert "model.weights=PATH" in message
    assert "model.weights=none" in message
