"""What the modules of goldens_families share: random checkpoints, runs of them in three dtypes, and checks."""

import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from goldens_common import SEED, check, check_finite, normal, relative_l2, to_safetensors

PACKAGES = ("torch", "transformers", "numpy")
TRANSFORMERS = "5.24.0"
BATCH, SEQUENCE, VOCABULARY = 2, 23, 64
# Where the prompt ends that fills the cache: beyond every window, so that a sliding layer's cache starts out full.
PREFILL = 9
DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}

Weights = dict[str, Tensor]


class Wide(TorchFunctionMode):
    """All of an f64 model in f64: norms, softmaxes and routers, which ask for f32, keep the f64 they are given.

    Cosines and sines of RoPE are still made in f32, as they come from integers; so is the quantile of Gemma 3n's
    sparsity.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            if func in (Tensor.to, Tensor.type) and any(value is torch.float32 for value in args):
                args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)


class Exact(TorchFunctionMode):
    """The exact GELU wherever a model calls the tanh form; `calls` counts them."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is nn.functional.gelu:
            check(kwargs.get("approximate") == "tanh", "a GELU that is not the tanh form")
            self.calls += 1
            kwargs = kwargs | {"approximate": "none"}
        return func(*args, **kwargs)


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform values that depend on the tensor's name alone."""
    generator = np.random.default_rng([SEED, *name.encode()])
    return torch.from_numpy(generator.uniform(low, high, tuple(shape)).astype(np.float32))


def token_ids(name: str, length: int = SEQUENCE, least: int = 3, vocabulary: int = VOCABULARY) -> Tensor:
    """Two texts. Below 3 stand the ids of padding, end and beginning."""
    generator = np.random.default_rng([SEED, *name.encode()])
    return torch.from_numpy(generator.integers(least, vocabulary, (BATCH, length)))


def causal_stacks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The one module that has layers."""
    stack = next(module for module in model.modules() if isinstance(getattr(module, "layers", None), nn.ModuleList))
    return {"": stack}


def draw(name: str, shape: tuple[int, ...], one_plus: bool = False, linear: float = 1.5) -> Tensor:
    """A weight by its name in the model. Nothing is at its default, and logits reach the caps."""
    last = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if "norm" in last:
        # The final norm's are larger, so that logits reach the final cap.
        factor = 2.0 if last in ("norm", "final_norm") else 1.0
        if last in ("q_norm", "k_norm") and not one_plus:
            # Nothing else scales these scores; a softmax of larger ones would be all but a choice.
            factor = 1.5 * shape[-1] ** -0.25
        if last.startswith("post_") and not one_plus:
            # Half of what a layer adds: else rounding grows from layer to layer, and bf16 says little.
            factor = 0.5
        around = normal(name, shape, 0.3) + 1.0
        return factor * around - 1.0 if one_plus else factor * around
    if last == "layer_scalar":
        return uniform(name, shape, 0.2, 1.2)
    if last in ("scale", "per_expert_scale", "correct_output_scale"):
        return uniform(name, shape, 0.4, 1.6)
    if last in ("embed_tokens", "lm_head", "out_proj"):
        # The model multiplies embeddings by the root of the hidden size.
        return normal(name, shape, 2.0 * shape[-1] ** -0.5)
    if last == "embed_tokens_per_layer":
        return normal(name, shape, 0.3)
    if last == "bias" or name.endswith("_bias"):
        return normal(name, shape, 0.4)
    return normal(name, shape, linear * shape[-1] ** -0.5)


@dataclass
class Golden:
    """A model to write: how it is built, and what is asked of it."""

    config: Callable[[], PreTrainedConfig]
    model_class: type[PreTrainedModel]
    # From config.json to the spelling of released files; None: it is the same.
    hub: Callable[[dict], dict] | None = None
    # Tensors of the file that the model does not read, from those it does read, by their names on disk.
    strays: Callable[[PreTrainedModel, Weights], Weights] = lambda model, weights: {}
    draw: Callable[[str, tuple[int, ...]], Tensor] = draw
    inputs: dict[str, Tensor] = field(default_factory=dict)
    # What of the inputs goes into the model beside them, each as the model calls it.
    call: dict[str, object] = field(default_factory=dict)
    stacks: Callable[[PreTrainedModel], dict[str, nn.Module]] = causal_stacks
    cached: bool = True
    # The longest window, of which the sequence must be longer.
    window: int = 0
    # f32's distance from f64 that is still fine, and how many times farther the exact GELU must be.
    noise: float = 2e-5
    exact_over_noise: float = 20.0
    # Which input is decoded, token by token.
    decoded: str = "input_ids"
    new_cache: Callable[[PreTrainedModel], object] = lambda model: None
    forward: Callable[..., object] = lambda model, **call: model(**call)
    # Further results of a right run in f64: {name: tensor}.
    extra: Callable[[PreTrainedModel, dict[str, Tensor]], dict[str, Tensor]] = lambda model, results: {}
    # What the gradients are of, from results and inputs; None: the cross-entropy of the next tokens.
    loss: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor] | None = None
    # Further files of the directory, or of others, from this one's folder and right results.
    further: Callable[[Path, dict[str, Tensor]], dict[str, bytes]] = lambda folder, right: {}


# Gradients are kept of what stands in a block with a GELU.
BLOCKS = ("mlp.", "mlp_block.", "experts.", "per_layer_input_gate", "per_layer_projection", "linear_y", "linear_out")


def files(name: str, golden: Golden) -> dict[str, bytes]:
    """The files of a model's directory."""
    check(transformers.__version__ == TRANSFORMERS, f"transformers is {transformers.__version__}, not {TRANSFORMERS}")
    with tempfile.TemporaryDirectory() as folder:
        save(name, golden, Path(folder))
        tensors, metadata = compute(name, golden, Path(folder))
        written = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        written |= {"golden.safetensors": to_safetensors(tensors, metadata, PACKAGES)}
        return {f"{name}/{file}": data for file, data in written.items()} | golden.further(Path(folder), tensors)


def save(name: str, golden: Golden, folder: Path) -> None:
    """A checkpoint of random weights in bf16, as transformers saves it, and with what the model does not read."""
    torch.manual_seed(SEED)
    model = golden.model_class(golden.config()).eval()
    with torch.no_grad():
        for key, weight in parameters(model).items():
            weight.copy_(golden.draw(key, tuple(weight.shape)))
    model = model.bfloat16()
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    strays = {key: tensor.bfloat16() for key, tensor in golden.strays(model, weights).items()}
    check(not strays.keys() & weights.keys(), f"{name}: what the model does not read, it reads")
    Path(folder, "model.safetensors").write_bytes(to_safetensors(weights | strays, {"format": "pt"}, ()))
    Path(folder, "generation_config.json").unlink(missing_ok=True)
    if golden.hub:
        config = golden.hub(json.loads(Path(folder, "config.json").read_text()))
        Path(folder, "config_hub.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def parameters(model: PreTrainedModel) -> Weights:
    """Everything that a file holds, by name; a tied head has none of its own."""
    buffers = dict(model.named_buffers())
    stored = {key: buffers[key] for key in model.state_dict() if key in buffers}
    return dict(model.named_parameters()) | stored


def load(golden: Golden, folder: Path, dtype: str, hub: bool = False) -> PreTrainedModel:
    config_class = type(golden.config())
    config = json.loads(Path(folder, "config_hub.json" if hub else "config.json").read_text())
    config = config_class.from_dict(config)
    model, info = golden.model_class.from_pretrained(
        folder,
        config=config,
        dtype=DTYPES[dtype],
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    check(not info["missing_keys"] and not info["mismatched_keys"], f"{folder}: {info}")
    return model.eval()


def run(golden: Golden, model: PreTrainedModel, exact: bool = False, **changed: object) -> dict[str, Tensor]:
    """The residual stream after every layer, the last of them normed, and the logits."""
    captured, hooks = {}, []

    def keep(key: str) -> Callable:
        return lambda module, args, output: captured.update({key: output[0] if isinstance(output, tuple) else output})

    for prefix, stack in golden.stacks(model).items():
        for index, layer in enumerate(stack.layers):
            hooks.append(layer.register_forward_hook(keep(f"{prefix}hidden.{index}")))
        hooks.append(final_norm(stack).register_forward_hook(keep(f"{prefix}last_hidden")))
    mode = Exact() if exact else nullcontext()
    with mode, Wide():
        output = golden.forward(model, **(golden.call | changed))
    for hook in hooks:
        hook.remove()
    check(not exact or mode.calls > 0, "no GELU was exchanged")
    results = {key: side_by_side(value) if value.dim() == 4 else value for key, value in captured.items()}
    if getattr(output, "logits", None) is not None:
        results["logits"] = output.logits
    else:
        results["output"] = output.last_hidden_state
    return results


def side_by_side(streams: Tensor) -> Tensor:
    """Gemma 3n's streams: [A, B, T, H] to [B, T, A·H]."""
    return streams.permute(1, 2, 0, 3).flatten(2)


def final_norm(stack: nn.Module) -> nn.Module:
    return stack.final_norm if hasattr(stack, "final_norm") else stack.norm


def end(results: dict[str, Tensor]) -> Tensor:
    return results["logits"] if "logits" in results else results["output"]


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean over every token but the first of each text, which nothing predicts."""
    return -logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()


def compute(name: str, golden: Golden, folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    model = load(golden, folder, "f64")
    right = run(golden, model)
    extra = golden.extra(model, right)
    if golden.loss:
        loss = golden.loss(right, golden.inputs)
    else:
        loss = cross_entropy(right["logits"], golden.call[golden.decoded])
    loss.backward()
    tensors = {f"grad.{key}": gradient for key, gradient in gradients(golden, model).items()}
    with torch.no_grad():
        check_structure(name, golden, model, right)
        check_spelling(name, golden, folder, right)
        check_rows_alone(name, golden, model, right)
        f32, bf16 = (end(run(golden, load(golden, folder, dtype))) for dtype in ("f32", "bf16"))
        exact = end(run(golden, model, exact=True))
        if golden.cached:
            check_cache(name, golden, model, right)
    noise, rounding, form = (relative_l2(value, end(right).detach()) for value in (f32, bf16, exact))
    check(noise < golden.noise, f"{name}: f32 is {noise:.1e} away from f64")
    check(form > golden.exact_over_noise * noise, f"{name}: exact is {form:.1e} away, f32 {noise:.1e}")
    length = min(ids.shape[1] for ids in golden.inputs.values())
    check(length > golden.window, f"{name}: {length} tokens, window {golden.window}")
    of = "logits" if "logits" in right else "output"
    tensors |= right | extra | {f"{of}.f32": f32, f"{of}.bf16": bf16, f"{of}.exact": exact}
    tensors = {key: tensor.detach() for key, tensor in tensors.items()}
    tensors = {key: tensor.float() if tensor.dtype == torch.float64 else tensor for key, tensor in tensors.items()}
    tensors |= golden.inputs | {"loss": loss.detach().double().reshape(1)}
    check_finite(tensors)
    metadata = {
        "how": "transformers, eager; f64, with RoPE's tables in f32; what ends in .f32 and .bf16, in these",
        "relative_l2.f32": f"{noise:.2e}",
        "relative_l2.bf16": f"{rounding:.2e}",
        "relative_l2.exact": f"{form:.2e}",
    }
    print(f"{name}: f32 {noise:.1e}, bf16 {rounding:.1e}, exact {form:.1e} from f64", flush=True)
    return tensors, metadata


def gradients(golden: Golden, model: PreTrainedModel) -> dict[str, Tensor]:
    found = {}
    for prefix, stack in golden.stacks(model).items():
        for index, layer in enumerate(stack.layers):
            for key, weight in layer.named_parameters():
                if any(block in key for block in BLOCKS) and "norm" not in key:
                    key = f"{prefix}layers.{index}.{key.removesuffix('.weight')}"
                    check(weight.grad is not None and bool(weight.grad.any()), f"{key} has no gradient")
                    found[key] = weight.grad
    return found


def check_structure(name: str, golden: Golden, model: PreTrainedModel, right: dict[str, Tensor]) -> None:
    """Between the last layer and the final norm there is nothing, save where Gemma 3n brings its streams together."""
    for prefix, stack in golden.stacks(model).items():
        last = right[f"{prefix}hidden.{len(stack.layers) - 1}"]
        if last.shape == right[f"{prefix}last_hidden"].shape:
            with Wide():
                normed = final_norm(stack)(last)
            check(torch.equal(normed, right[f"{prefix}last_hidden"]), f"{name}: a layer ends in something else")


def check_spelling(name: str, golden: Golden, folder: Path, right: dict[str, Tensor]) -> None:
    if not golden.hub:
        return
    for key, tensor in run(golden, load(golden, folder, "f64", hub=True)).items():
        check(torch.equal(tensor, right[key]), f"{name}: the two spellings of its config disagree in {key}")


def check_rows_alone(name: str, golden: Golden, model: PreTrainedModel, right: dict[str, Tensor]) -> None:
    for row in range(BATCH):
        alone = {
            key: value[row : row + 1] if isinstance(value, Tensor) and len(value) == BATCH else value
            for key, value in golden.call.items()
        }
        difference = relative_l2(end(run(golden, model, **alone)), end(right)[row : row + 1])
        check(difference < 1e-9, f"{name}: row {row} is another alone, by {difference:.1e}")


def check_cache(name: str, golden: Golden, model: PreTrainedModel, right: dict[str, Tensor]) -> None:
    """A prompt into an empty cache, then token by token, gives the same as all at once."""
    length = golden.call[golden.decoded].shape[1]
    steps, cache = [], golden.new_cache(model)
    with Wide():
        for start, end_ in [(0, PREFILL)] + [(at, at + 1) for at in range(PREFILL, length)]:
            call = {
                key: value[:, start:end_] if isinstance(value, Tensor) and value.shape[1] == length else value
                for key, value in golden.call.items()
            }
            step = golden.forward(model, **(call | {"cache": cache, "use_cache": True}))
            cache = getattr(step, "cache", cache)
            steps.append(step.logits)
    difference = relative_l2(torch.cat(steps, dim=1), right["logits"])
    check(difference < 1e-9, f"{name}: with a cache the logits are {difference:.1e} away")
