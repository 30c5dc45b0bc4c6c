"""What hostile files of some 20 to 60 MB cost in memory and time, as docs/reliability.md has it:
    python3 scripts/memory.py target/release/gemma-mlp
The factor is the peak of the process, less that of the same command on a small file, over the file's length."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
TINY = pathlib.Path(__file__).parent.parent / "weights/tiny-gemma3"
CONFIG = {
    "model_type": "gemma3_text", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 4,
    "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh",
}
NORMS = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
SHAPES = {
    "embed_tokens": [16, 8], "norm": [8], "layers.0.self_attn.q_proj": [8, 8], "layers.0.self_attn.k_proj": [4, 8],
    "layers.0.self_attn.v_proj": [4, 8], "layers.0.self_attn.o_proj": [8, 8], "layers.0.self_attn.q_norm": [4],
    "layers.0.self_attn.k_norm": [4], "layers.0.mlp.gate_proj": [12, 8], "layers.0.mlp.up_proj": [12, 8],
    "layers.0.mlp.down_proj": [8, 12], **{f"layers.0.{norm}_layernorm": [8] for norm in NORMS},
}


LAUNCHER = """
import resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(code, time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def safetensors(more=""):
    """A small model's file, with more entries in its header."""
    header, end = {}, 0
    for name, shape in SHAPES.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[f"model.{name}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = compact(header)[:-1].encode() + more.encode() + b"}"
    values = b"".join(struct.pack("<f", i % 7 / 8 - 0.4) for i in range(end // 4))
    return struct.pack("<Q", len(text)) + text + values


def checkpoint(at, config=None, weights=None, index=None, tokenizer=None):
    at.mkdir()
    (at / "config.json").write_text(config or compact(CONFIG))
    if index:
        (at / "model-1.safetensors").write_bytes(weights or safetensors())
        (at / "model.safetensors.index.json").write_text(index)
    else:
        (at / "model.safetensors").write_bytes(weights or safetensors())
    if tokenizer:
        (at / "tokenizer.json").write_text(tokenizer)
    else:
        shutil.copy(TINY / "tokenizer.json", at)
    return at


def run(arguments):
    """Peak in MB, seconds, and what came of it."""
    # A process begins with the peak of the one that starts it: a small one does.
    launcher = [sys.executable, "-c", LAUNCHER, PROGRAM, *map(str, arguments)]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    code, seconds, peak = done.stdout.split()
    return int(peak) * 1024 / 1e6, float(seconds), int(code), done.stderr.strip()


def main():
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        small = checkpoint(root / "small")
        print("| file | MB | s | peak over the file | exit |\n|---|---|---|---|---|")

        def row(name, path, arguments, base):
            size = path.stat().st_size / 1e6
            peak, seconds, code, said = run(arguments)
            factor = (peak - run(base)[0]) / size
            print(f"| {name} | {size:.0f} | {seconds:.1f} | {factor:.1f} | {code} |", flush=True)
            if "-v" in sys.argv:
                print("   ", said[:200])
            if path.is_file() and path.parent == root:
                path.unlink()

        def inspect(name, file, **parts):
            at = checkpoint(root / "large", **parts)
            row(name, at / file, ["inspect", "--model", at], ["inspect", "--model", small])
            shutil.rmtree(at)

        few = root / "few.json"
        few.write_text("[1,16]")
        # The last id is out of the vocabulary, so that nothing is computed.
        for name, text in [
            ("ids `[1,1,…]`", "[" + "1," * 15_000_000 + "16]"),
            ("ids `[[1],[1],…]`", "[" + "[1]," * 7_000_000 + "[16]]"),
        ]:
            path = root / "ids.json"
            path.write_text(text)
            drift = lambda ids: ["drift", "--model", small, "--ids", ids]
            row(name, path, drift(path), drift(few))

        def config(name, more):
            inspect(name, "config.json", config=compact(CONFIG)[:-1] + "," + more + "}")

        config("config, a list of end tokens", '"eos_token_id":[' + "1," * 10_000_000 + "1]")
        config("config, `layer_types`", '"layer_types":[' + '"full_attention",' * 1_500_000 + '"full_attention"]')
        config("config, unknown keys", ",".join(f'"k{i}":1' for i in range(2_000_000)))
        config("config, `rope_parameters`", '"rope_parameters":{' + ",".join(f'"k{i}":1' for i in range(2_000_000)) + "}")
        config("config, a list in an unknown key", '"x":[' + "[1]," * 5_000_000 + "1]")
        config("config, nested lists", '"x":' + "[" * 20_000_000 + "]" * 20_000_000)
        empty = ',"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        inspect("header, 500,000 empty tensors", "model.safetensors",
                weights=safetensors("".join(empty.format(i) for i in range(500_000))))
        inspect("header, 3,000,000 keys of metadata", "model.safetensors",
                weights=safetensors(',"__metadata__":{' + ",".join(f'"{i}":"x"' for i in range(3_000_000)) + "}"))
        inspect("header, a shape of 20,000,000 ones", "model.safetensors", weights=safetensors(
            ',"a":{"dtype":"F32","shape":[' + "1," * 20_000_000 + '1],"data_offsets":[0,4]}'))
        names = [f"model.{name}.weight" for name in SHAPES] + [f"a{i}" for i in range(500_000)]
        inspect("index, 500,000 short names", "model.safetensors.index.json",
                index=compact({"weight_map": dict.fromkeys(names, "model-1.safetensors")}))
        # A part of a run of very many windows.
        part = root / "part.json"
        subprocess.run([PROGRAM, "drift", "--model", str(small), "--prompt", "a", "--out", str(part)], capture_output=True)
        few.write_text(compact([1, 2, 3, 4] * 8))
        subprocess.run([PROGRAM, "drift", "--model", str(small), "--ids", str(few), "--window", "4", "--shard", "1/2",
                        "--out", str(part)], check=True, capture_output=True)
        report = json.loads(part.read_text())
        window = report["part"]["windows"][0]
        large = root / "report.json"
        report["windows"] = 2 * (count := 40_000_000 // len(compact(window)))
        many = [{**window, "index": 2 * i} for i in range(count)]
        empty = [{**window, "layers": [], "logits": None, "index": 2 * i} for i in range(100_000)]
        long = [{**window, "logits": [{**window["logits"][0], "kl_nats": [1] * 15_000_000}, *window["logits"][1:]]}]
        for name, command, windows in [
            (f"report, a part of {count:,} windows", "report", many), ("merge of it", "merge", many),
            ("report, 100,000 windows without figures", "report", empty),
            ("report, a list of figures", "report", long),
        ]:
            report["part"]["windows"] = windows
            large.write_text(compact(report))
            row(name, large, [command, large], [command, part])
        vocab = {"<unk>": 0, "<bos>": 2, **{f"t{i}": i for i in range(3, 1_500_000)}}
        model = {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []}
        tokenizer = compact({"version": "1.0", "added_tokens": [], "model": model})
        at = checkpoint(root / "large", tokenizer=tokenizer)
        text = root / "text.txt"
        text.write_text("The fox")
        drift = lambda model, text: ["drift", "--model", model, "--text", text]
        row("tokenizer, 1,500,000 tokens", at / "tokenizer.json", drift(at, text), drift(small, text))
        long = root / "long.txt"
        long.write_text("The fox sees a red house, and the house is old.\n" * 400_000)
        row("text", long, drift(small, long), drift(small, text))


main()
