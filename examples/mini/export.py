"""Write the bundled files from a training cache, at any moment of a run.

python examples/mini/export.py --cache /some/scratch/folder --out dncbm/encoders/mini
"""

import argparse
import logging
import math
import shutil
from pathlib import Path

import banks
import model as mini
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dncbm.errors import InvalidInput
from dncbm.training import checkpoints

LOGGER = logging.getLogger("mini.export")
MERGES = "merges.txt.gz"


def trained_model(cache: Path) -> nn.Module:
    """The model with the averaged weights of both halves, in eval mode."""
    model = mini.create_model()
    banks.load_text_tower(model, cache)
    saved = checkpoints.load_checkpoint(cache / "image.safetensors")
    if saved is None:
        raise InvalidInput(f"{cache} holds no image.safetensors. Run train.py first.")
    own = model.state_dict()
    for name, tensor in saved[0].items():
        key = name.removeprefix("average.")
        if name.startswith("average.") and key in own:
            own[key].copy_(tensor)
    scale = saved[0]["average.scales.names"].clamp(max=math.log(100.0))
    own["logit_scale"].copy_(scale)
    LOGGER.info("image half at step %s", saved[1]["step"])
    return model.eval()


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors as float16; variances too small for it are lifted to its smallest."""
    smallest = torch.finfo(torch.float16).smallest_normal
    out = {}
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor = tensor.clamp(min=smallest)
        out[name] = tensor.half().contiguous() if tensor.is_floating_point() else tensor
        if tensor.is_floating_point() and not out[name].isfinite().all():
            raise InvalidInput(f"{name} does not fit into float16.")
    return out


def main() -> None:
    """Write weights, merges and the configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tensors = half_precision(trained_model(arguments.cache).state_dict())
    temporary = out / ".model.safetensors.part"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    temporary.replace(out / "model.safetensors")
    shutil.copyfile(arguments.cache / MERGES, out / MERGES)
    if out.resolve() != mini.CONFIG.parent.resolve():
        shutil.copyfile(mini.CONFIG, out / mini.CONFIG.name)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    LOGGER.info("%s: %.1f MB, %d tensors", out, size, len(tensors))


if __name__ == "__main__":
    main()
