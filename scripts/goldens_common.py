"""What the golden modules share: seeded values, the way between JAX and torch, checks, and the file format."""

import json
from importlib.metadata import version

import numpy as np
import torch
from safetensors.torch import save

SEED = 20240221

MODES = ("exact", "tanh")
# The names transformers gives to them.
ACTIVATIONS = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# What computes in the files of one kind; the modules that need no JAX name fewer.
PACKAGES = ("torch", "transformers", "jax", "flax", "gemma", "numpy")


def normal(name, shape, std):
    """Normal values that depend on the tensor's name alone, not on what was drawn before it."""
    generator = np.random.default_rng([SEED, *name.encode()])
    return torch.from_numpy(generator.normal(0.0, std, tuple(shape)).astype(np.float32))


def as_bf16_values(tensor):
    """The tensor with its values rounded to bf16, so that both dtypes can compute on the same numbers."""
    return tensor.to(torch.bfloat16).to(tensor.dtype)


def to_jax(tensor):
    import jax.numpy as jnp

    if tensor.dtype == torch.bfloat16:
        # Through f32, which holds every bf16 value: numpy has no bf16 of its own.
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return jnp.asarray(tensor.numpy())


def to_torch(array):
    import jax.numpy as jnp

    if array.dtype == jnp.bfloat16:
        # Bit for bit: torch does not take numpy's extension types.
        return torch.from_numpy(np.array(array).view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def check(condition, message):
    """An assert that python -O does not remove."""
    if not condition:
        raise AssertionError(message)


def check_finite(tensors):
    for name, tensor in tensors.items():
        check(bool(torch.isfinite(tensor).all()), f"{name} has a value that is not finite")


def relative_l2(value, reference):
    value, reference = value.double(), reference.double()
    return float(torch.linalg.vector_norm(value - reference) / torch.linalg.vector_norm(reference))


def to_safetensors(tensors, metadata, packages=PACKAGES):
    """The bytes of a safetensors file, with the versions of all frameworks added to its metadata."""
    metadata = metadata | {package: version(package) for package in packages}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    return _with_sorted_header(save(tensors, metadata=metadata))


def _with_sorted_header(data):
    """The same file with a header that is the same in every run.

    safetensors writes the metadata in a hash map's order, which changes from one process to the next. The
    tensors' offsets count from the header's end, so a header of another length leaves them valid.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    sorted_header = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    # The format pads the header with spaces to keep the tensors aligned.
    sorted_header += b" " * (-len(sorted_header) % 8)
    return len(sorted_header).to_bytes(8, "little") + sorted_header + data[8 + length :]
