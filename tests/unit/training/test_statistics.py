import pytest
import torch
from torch import nn

from dncbm.bcos.norms import BatchNormUncentered2d
from dncbm.training.statistics import statistics_kept


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormUncentered2d])
def test_passes_leave_no_trace(kind: type[nn.Module], momentum: float | None) -> None:
    """The output is that of the batch all the same, and later passes count again."""
    norm = nn.Sequential(kind(3, momentum=momentum)).train()
    images = torch.randn(4, 3, 5, 5) * 2 + 1
    norm(images)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    expected = norm(images / 2)
    norm.load_state_dict(before)
    with pytest.raises(RuntimeError, match="broken"), statistics_kept(norm):
        torch.testing.assert_close(norm(images / 2), expected)
        raise RuntimeError("broken")
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    norm(images / 2)
    assert not torch.equal(norm[0].running_var, before["0.running_var"])
