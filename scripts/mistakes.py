"""Puts the usual mistakes in porting Gemma 3 into transformers, one at a time, and tells how `gemma-mlp compare` calls
them, as a Markdown table:

    GEMMA_MLP=target/release/gemma-mlp python scripts/mistakes.py --model DIR --ids IDS.json --dtype bf16

Needs torch, transformers and safetensors. A dump of 256 tokens of Gemma 3 270M takes 0.5 GB; each is deleted once it
has been compared. Another mistake is one more entry of MISTAKES.
"""

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers.activations import ACT2FN

sys.path.insert(0, str(Path(__file__).parent.parent / "python"))

from gemma_mlp.transformers import DTYPES, capture, find_layers  # noqa: E402

Model = nn.Module


@dataclass(frozen=True)
class Mistake:
    """A mistake by the name that `gemma-mlp` has for it, and how it gets into a model of transformers."""

    name: str
    put: Callable[[Model], None]
    # Why it would change nothing of a model and this many tokens; None if it does.
    idle: Callable[[Model, int], str | None] = lambda model, tokens: None
    # How many tokens at the start are left out.
    skip: int = 0

    @property
    def kind(self) -> str:
        """Mistakes of one kind exclude each other."""
        return re.split(r"[: ]", self.name)[0]


def bf16(x: Tensor) -> Tensor:
    """Rounded to bf16, in its own dtype."""
    return x.bfloat16().to(x.dtype)


def activation(name: str) -> Callable[[Model], None]:
    def put(model: Model) -> None:
        for layer in find_layers(model)[1]:
            layer.mlp.act_fn = ACT2FN[name]

    return put


def embedding_scale(change: Callable[[Tensor], Tensor]) -> Callable[[Model], None]:
    def put(model: Model) -> None:
        embedding = find_layers(model)[0].embed_tokens
        embedding.embed_scale = change(embedding.embed_scale)

    return put


def norms(forward: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Model], None]:
    """Another last step of every norm: from what is normed and the weight, both in f32."""

    def put(model: Model) -> None:
        for norm in (module for module in model.modules() if type(module).__name__.endswith("RMSNorm")):
            norm.forward = lambda x, norm=norm: forward(norm._norm(x.float()), norm.weight.float()).type_as(x)

    return put


def attention(change: Callable[[nn.Module], None]) -> Callable[[Model], None]:
    def put(model: Model) -> None:
        for layer in find_layers(model)[1]:
            change(layer.self_attn)

    return put


def leave_out_qk_norm(module: nn.Module) -> None:
    module.q_norm = module.k_norm = nn.Identity()


def scale_by_head_dim(module: nn.Module) -> None:
    module.scaling = module.head_dim**-0.5


def frequencies(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Model], None]:
    """Other inverse frequencies of the rotary embedding, from those of each type of layer."""

    def put(model: Model) -> None:
        rotary = find_layers(model)[0].rotary_emb
        own = {kind: getattr(rotary, f"{kind}_inv_freq") for kind in rotary.layer_types}
        for kind, inverse in change(own).items():
            setattr(rotary, f"{kind}_inv_freq", inverse.clone())

    return put


def all_of(kind: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda own: dict.fromkeys(own, own[kind])


def round_rope_tables(model: Model) -> None:
    rotary = find_layers(model)[0].rotary_emb
    forward = rotary.forward
    rotary.forward = lambda *args, **kwargs: tuple(map(bf16, forward(*args, **kwargs)))


def compute_rope_in_bf16(model: Model) -> None:
    rotary = find_layers(model)[0].rotary_emb

    def forward(x: Tensor, position_ids: Tensor, layer_type: str) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].bfloat16() * getattr(rotary, f"{layer_type}_inv_freq").bfloat16()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    rotary.forward = forward


def window(change: Callable[[int], int]) -> Callable[[Model], None]:
    def put(model: Model) -> None:
        config = find_layers(model)[0].config
        config.sliding_window = change(config.sliding_window)

    return put


def within_window(model: Model, tokens: int) -> str | None:
    length = find_layers(model)[0].config.sliding_window
    return f"{tokens} tokens are within the window of {length}" if tokens <= length else None


def in_bf16(model: Model, _tokens: int) -> str | None:
    return "every model in bf16 does so" if model.dtype == torch.bfloat16 else None


def scaled_so_already(model: Model, _tokens: int) -> str | None:
    config = find_layers(model)[0].config
    return "query_pre_attn_scalar is head_dim" if config.query_pre_attn_scalar == config.head_dim else None


MISTAKES = [
    Mistake("GELU: exact (erf)", activation("gelu")),
    Mistake("GELU: SiLU in its place", activation("silu")),
    Mistake("GELU: x*sigmoid(1.702x)", activation("quick_gelu")),
    Mistake("embedding scale rounded to bf16", embedding_scale(bf16), in_bf16),
    Mistake("embedding not scaled", embedding_scale(torch.ones_like)),
    Mistake("norm: w in place of 1+w", norms(lambda x, w: x * w)),
    Mistake("norm: 1+w rounded to bf16", norms(lambda x, w: x * bf16(1 + w))),
    Mistake("norm: output rounded to bf16", norms(lambda x, w: bf16(x * (1 + w))), in_bf16),
    Mistake("norm: Llama's order of rounding to bf16", norms(lambda x, w: bf16(bf16(x) * bf16(1 + w)))),
    Mistake("q/k norm left out", attention(leave_out_qk_norm)),
    Mistake("RoPE: cosine and sine rounded to bf16", round_rope_tables, in_bf16),
    Mistake(
        "RoPE: inverse frequencies rounded to bf16",
        frequencies(lambda own: {kind: bf16(inverse) for kind, inverse in own.items()}),
    ),
    Mistake("RoPE: all in bf16, positions too", compute_rope_in_bf16),
    Mistake("RoPE: the global base in every layer", frequencies(all_of("full_attention"))),
    Mistake("RoPE: the local base in every layer", frequencies(all_of("sliding_attention"))),
    Mistake("sliding window ignored", window(lambda _: 1 << 30), within_window),
    Mistake("sliding window one shorter", window(lambda length: length - 1), within_window),
    Mistake("sliding window one longer", window(lambda length: length + 1), within_window),
    Mistake("attention scaled by head_dim", attention(scale_by_head_dim), scaled_so_already),
    Mistake("no BOS", lambda model: None, skip=1),
]


@dataclass
class Run:
    """What all runs have in common."""

    model: Path
    ids: list[int]
    dtype: str
    attention: str
    logits_only: bool
    keep: Path | None
    right: Tensor | None = None
    program = os.environ.get("GEMMA_MLP", "gemma-mlp")

    def load(self) -> Model:
        return transformers.AutoModelForCausalLM.from_pretrained(
            self.model, dtype=DTYPES[self.dtype], attn_implementation=self.attention
        ).eval()

    def applying(self, mistakes: list[Mistake]) -> list[Mistake]:
        """Those that change something."""
        model = self.load()
        return [mistake for mistake in mistakes if not mistake.idle(model, len(self.ids))]

    def row(self, *mistakes: Mistake) -> str:
        """The table's row of some mistakes at once; of no mistake, for how right numbers are called."""
        names = [mistake.name for mistake in mistakes]
        title = " + ".join(names) or "none"
        model = self.load()
        for mistake in mistakes:
            if reason := mistake.idle(model, len(self.ids)):
                return cells(title, f"skipped: {reason}")
        for mistake in mistakes:
            mistake.put(model)
        ids = torch.tensor([self.ids[sum(mistake.skip for mistake in mistakes) :]])
        with tempfile.TemporaryDirectory(dir=self.keep) as folder:
            dump = Path(folder, "theirs.safetensors")
            with warnings.catch_warnings(), torch.no_grad():
                # A point that was not captured is a fault of this script.
                warnings.simplefilter("error")
                with capture(model, dump, logits_only=self.logits_only) as captured:
                    model(ids, use_cache=False)
            del model
            moved = self.moved(captured.pop("logits"))
            captured.clear()
            # The tokens that were meant, by which a missing BOS is told.
            meant = Path(folder, "ids.json")
            meant.write_text(json.dumps(self.ids))
            command = [self.program, "compare", dump, "--model", self.model, "--ids", meant, "--json"]
            done = subprocess.run(command, capture_output=True, text=True)
            if self.keep:
                at = self.keep / re.sub(r"\W+", "-", title)
                dump.rename(at.with_suffix(".safetensors"))
                at.with_suffix(".json").write_text(done.stdout)
        try:
            report = json.loads(done.stdout)
        except json.JSONDecodeError:
            return cells(title, moved, done.returncode, done.stderr.strip() or "no JSON")
        return cells(title, moved, done.returncode, *findings(report, names))

    def moved(self, logits: Tensor) -> str:
        """How far logits `[1, T, vocabulary]` are from those without a mistake, in relative L2."""
        # Every eighth position, from the end on: where the first token is left out, the others stay aligned.
        sample = logits[0].flip(0)[::8].double()
        if self.right is None:
            self.right = sample
        right = self.right[: len(sample)]
        return figure(float((sample - right).norm() / right.norm()))


COLUMNS = ("mistake", "logits moved", "exit", "first", "ratio", "named", "cosine", "next", "cosine", "mean KL", "ratio")


def findings(report: dict, names: list[str]) -> list[str]:
    """What a report has found, against the names of the mistakes that were put in: the columns from `first` on."""
    first, logits = report["first"], report["logits"]
    found = [cause["name"] for cause in report["causes"]]
    if report["causes"]:
        best = report["causes"][0]
        nearest = [best["cosine"], best["runner_up_name"], best["runner_up"]]
    else:
        nearest = [value for tried in report["candidates"][:2] for value in (tried["name"], tried["cosine"])][1:]
    nearest += [None] * (3 - len(nearest))
    place = first and (first["point"] if first["layer"] is None else f"{first['layer']} {first['point']}")
    values = [place, first and first["ratio"], called(found, names, report), *nearest]
    values += [logits["metrics"]["kl_mean_nats"], logits["ratio"]] if logits else [None, None]
    return [figure(value) for value in values]


def called(found: list[str], names: list[str], report: dict) -> str:
    """How well the causes that were found, best first, are the mistakes that were put in."""
    tried = report["candidates"]
    below = [below for below in report["below_floor"] if below["sight"] == "suspected"]
    if below:
        hidden = [f"{one['name']} ({one['size']:.2f} ± {one['error']:.2f})" for one in below]
        return f"below the floor: {', '.join(hidden)}"
    if not found:
        return "not named" + (f"; nearest: {tried[0]['name']}" if tried else "") if names else "none"
    right = [name for name in found if name in names]
    wrong = [name for name in found if name not in names]
    if not right:
        return f"misnamed: {', '.join(wrong)}"
    if len(names) == 1:
        text = ("first", "second", "third")[found.index(right[0])] if found.index(right[0]) < 3 else "later"
    else:
        text = "both" if len(right) == len(names) else f"one: {right[0]}"
    return text + (f"; also {', '.join(wrong)}" if wrong else "")


def figure(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def cells(*values: object) -> str:
    """A row of the table; what a run that failed lacks is left empty."""
    texts = [" ".join(str(value).replace("|", "\\|").split()) for value in values]
    return "| " + " | ".join(texts + [""] * (len(COLUMNS) - len(texts))) + " |"


def pairs(mistakes: list[Mistake], count: int) -> list[tuple[Mistake, Mistake]]:
    """So many pairs of different kinds, the same in every run."""
    possible = [pair for pair in itertools.combinations(mistakes, 2) if pair[0].kind != pair[1].kind]
    return random.Random(0).sample(possible, min(count, len(possible)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("--model", type=Path, required=True, help="a folder with a Gemma 3")
    parser.add_argument("--ids", type=Path, required=True, help="a JSON array of token ids, BOS first")
    parser.add_argument("--tokens", type=int, help="how many of them [default: all]")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="[default: bf16]")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager", help="[default: eager]")
    parser.add_argument("--logits-only", action="store_true", help="capture no layers")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="of the names")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="N pairs of mistakes, not single ones")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep dumps and reports in this folder")
    args = parser.parse_args()

    ids = json.loads(args.ids.read_text())[: args.tokens]
    run = Run(args.model, ids, args.dtype, args.attention, args.logits_only, args.keep)
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    try:
        program = subprocess.run([run.program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    except OSError as error:
        parser.error(f"{run.program}: {error.strerror}; GEMMA_MLP is the path of the program")
    print(
        f"transformers {transformers.__version__}, torch {torch.__version__}, {args.attention} attention, {program}; "
        f"{args.model.resolve().name} in {args.dtype}, {len(ids)} tokens, "
        f"{'logits alone' if args.logits_only else 'all layers'}.\n"
    )
    print(cells(*COLUMNS))
    print(cells(*["---"] * len(COLUMNS)))
    mistakes = [mistake for mistake in MISTAKES if args.only.search(mistake.name)]
    sets = pairs(run.applying(mistakes), args.pairs) if args.pairs else [(mistake,) for mistake in mistakes]
    for chosen in [(), *sets]:
        print(run.row(*chosen), flush=True)


if __name__ == "__main__":
    main()
