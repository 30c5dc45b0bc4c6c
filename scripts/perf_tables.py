"""Tables out of what scripts/perf.sh measured:

    python3 scripts/perf_tables.py OUT PAGE [--check]

Writes OUT/MACHINE/tables.md for every machine, and into PAGE what stands between `<!-- perf: NAME -->` and
`<!-- end -->`: `machines`, `wins` (every figure in which a peer is faster than ours), and `block`, `quantised`,
`experts`, `model`, `gguf`, `drift` and `gelu` with the machines side by side. A page that is not there is begun with
all of them. --check writes nothing and fails if something would change.

What was not measured by perf.sh stands in OUT/MACHINE/ranges.json: ranges over several runs, as they were published.
"""

import argparse
import json
import os
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

# Of each its title, what a row is called by, and the unit.
SECTIONS = {
    "block": ("The block", ("block", "weights", "tokens"), "ms"),
    "quantised": ("The block in quantised weights", ("block", "weights", "tokens"), "ms"),
    "experts": ("Experts", ("block", "weights", "tokens"), "ms"),
    "model": ("Whole models", ("model", "what", "dtype"), "tokens/s; loading: s"),
    "gguf": ("A model in quantised weights", ("model", "what", "computed in"), "tokens/s; loading: s"),
    "drift": ("The drift run", ("model", "tokens"), "s"),
    "gelu": ("GELU", ("GELU", "dtype"), "ns a number"),
}
PEERS = "candle", "PyTorch", "PyTorch compiled", "PyTorch grouped_mm", "PyTorch in one call", "llama.cpp"
X86 = ["fma", "avx2", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16"]
ARM = ["asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"]


class Range(NamedTuple):
    """A figure of one run, of which both ends are the same, or of several."""

    low: float
    high: float

    def text(self, form):
        if self.low == self.high:
            return form(self.low)
        # What was published of several runs has fewer digits than those of one.
        low, high = (text.rstrip("0").rstrip(".") if "." in text else text for text in map(form, self))
        return f"{low}–{high}"


class Figure(NamedTuple):
    """What was measured in one row of a section on one machine."""

    section: str
    row: tuple  # as the section's columns are called
    ours: Range | None  # the smaller the better, unless `speed`
    peers: dict  # by name, as `ours`
    ratios: dict  # by name: how many times as fast ours is
    limit: Range | None  # what the machine allows at best
    of_limit: Range | None  # how much of it ours reaches: 1 is all
    cpu: dict  # what all threads computed, in the same unit, by name and "ours"


class Machine(NamedTuple):
    name: str
    about: dict  # the lines of machine.txt
    limits: dict  # by name, Range
    figures: list
    versions: list  # of the peers
    missing: list  # sentences


def figure(section, row, ours, peers, limit=None, cpu=None, speed=False):
    """Of one run. Peers that were not measured are None."""
    peers = {name: value for name, value in peers.items() if value is not None}
    ratios = {name: once(ours / value if speed else value / ours) for name, value in peers.items()}
    of_limit = None if limit is None else once(ours / limit if speed else limit / ours)
    peers, cpu = ({name: once(value) for name, value in of.items()} for of in (peers, cpu or {}))
    return Figure(section, tuple(map(str, row)), once(ours), peers, ratios, limit and once(limit), of_limit, cpu)


def once(value):
    return Range(value, value)


# From raw figures.


def blocks(bench, torch=None, section="block"):
    """Of `gemma-mlp bench --json` and bench_torch.py --json: blocks, or experts."""
    keys = "hidden", "intermediate", "weights", "tokens"
    theirs = {tuple(row[key] for key in keys): row for row in (torch or {"rows": []})["rows"]}
    for row in bench["rows"]:
        shape = f"{row['hidden']}x{row['intermediate']}"
        if "experts" in row:
            shape = f"{shape}, {row['top_k']} of {row['experts']}"
        other = theirs.get(tuple(row[key] for key in keys), {})
        peers = {
            "candle": row["candle_ms"],
            "PyTorch": other.get("eager_ms"),
            "PyTorch compiled": other.get("compiled_ms"),
            "PyTorch grouped_mm": other.get("grouped_mm_ms"),
        }
        cpu = {"ours": row["cpu_ms"], "candle": row["candle_cpu_ms"]}
        if "eager_cpu_ms" in other:
            cpu["PyTorch"] = other["eager_cpu_ms"]
        key = shape, row["weights"], row["tokens"]
        yield figure(section, key, row["median_ms"], peers, row["limit_ms"], cpu)


def models(bench, torch=None, llama=(), section="model"):
    """Of `cargo bench --bench model -- --json`, bench_model.py --json and lines of llama-bench.

    llama.cpp's file is called by its dtype; in the section `gguf` it is ours, and stands beside our f32."""
    of_dtypes = section == "model"
    sides = {(row["side"], row["dtype"]): row for row in bench["rows"] + (torch or {"rows": []})["rows"]}
    llamas = {}
    for line in llama:
        if "samples_ts" in line:
            what = "prompt" if line["n_prompt"] else "generation"
            llamas[what, Path(line["model_filename"]).stem] = statistics.median(line["samples_ts"])

    def value(side, what, dtype):
        row = sides.get((side, dtype))
        if row is None:
            return None
        return row["load_s"] if what == "loading" else row[what]["tokens_per_s"]

    for what in "prompt", "generation", "loading":
        for dtype in "f32", "bf16":
            peers = {name: value(name, what, dtype) for name in ("candle", "PyTorch")}
            if of_dtypes or dtype == "f32":
                peers["llama.cpp"] = llamas.get((what, dtype if of_dtypes else name(bench)))
            limit = None if what == "loading" else sides["ours", dtype][what]["limit"]
            row = size(bench) if of_dtypes else name(bench), what, dtype
            yield figure(section, row, value("ours", what, dtype), peers, limit, speed=what != "loading")


def size(bench):
    """What a model is called in the tables: every directory has another name."""
    count = bench["weights"]
    return f"{count / 1e6:.0f} M weights" if count >= 1e6 else f"{count} weights"


def name(bench):
    """What a model in one file is called."""
    return Path(bench["directory"]).stem


def drifts(run, bench, torch=None):
    ours, theirs = statistics.median(run["seconds"]), torch and statistics.median(torch["seconds"])
    yield figure("drift", (size(bench), run["tokens"]), ours, {"PyTorch": theirs})


def gelus(run):
    """Of bench_gelu.py --json."""
    for row in run["rows"]:
        peers = {"candle": row["candle"], "PyTorch": row.get("PyTorch"), "PyTorch in one call": row.get("whole")}
        yield figure("gelu", (row["form"], row["dtype"]), row["ours"], peers)


def published(ranges):
    """Of ranges.json, whose rows are as figures are, with [low, high] in place of each."""
    for row in ranges["rows"]:
        ours, of_limit = (Range(*row[key]) if key in row else None for key in ("ours", "of_limit"))
        peers, ratios = ({name: Range(*of) for name, of in row.get(key, {}).items()} for key in ("peers", "ratios"))
        yield Figure(row["section"], tuple(row["row"]), ours, peers, ratios, None, of_limit, {})


def merged(figures):
    """One of each row: what a later one has besides goes to the first."""
    found = {}
    for of in figures:
        first = found.setdefault((of.section, of.row), of)
        found[of.section, of.row] = Figure(*(theirs or more for theirs, more in zip(first, of, strict=True)))._replace(
            **{key: getattr(of, key) | getattr(first, key) for key in ("peers", "ratios", "cpu")}
        )
    return list(found.values())


def machine(folder):
    """Everything in OUT/MACHINE."""

    def read(name):
        path = folder / name
        return json.loads(path.read_text()) if path.exists() else None

    about = dict(line.split(": ", 1) for line in (folder / "machine.txt").read_text().splitlines() if ": " in line)
    block, quantised, experts, model, gguf, drift, gelu, ranges = (
        read(f"{name}.json")
        for name in ("block", "quantised", "experts", "model", "gguf", "drift", "gelu", "ranges")
    )
    torch = {name: read(f"{name}-torch.json") for name in ("block", "experts", "model", "drift")}
    llama, llama_gguf = (lines(folder / f"{name}-llama.jsonl") for name in ("model", "gguf"))
    figures, limits = [], {}
    for bench, section in (block, "block"), (quantised, "quantised"), (experts, "experts"):
        figures += blocks(bench, torch.get(section), section) if bench else []
    figures += models(model, torch["model"], llama) if model else []
    figures += models(gguf, None, llama_gguf, "gguf") if gguf else []
    figures += drifts(drift, model, torch["drift"]) if drift and model else []
    figures += gelus(gelu) if gelu else []
    if ranges:
        figures += published(ranges)
        limits = {name: Range(*value) for name, value in ranges.get("limits", {}).items()}
    for bench in filter(None, (gguf, model, experts, quantised, block)):
        limits |= {name: once(value) for name, value in bench["limits"].items()}
    missing = [path.read_text().strip() for path in sorted(folder.glob("*.missing"))]
    missing += [note for bench in (model, gguf) if bench for note in bench["notes"]]
    missing += [f"PyTorch, {way}: {why}" for run in torch.values() if run for way, why in run.get("failed", {}).items()]
    peers = versions([*torch.values(), gelu], llama + llama_gguf)
    return Machine(folder.name, about, limits, merged(figures), peers, missing)


def lines(path):
    """Of a file of JSON, line by line, if it is there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def versions(runs, llama):
    found = []
    for run in filter(None, runs):
        if run.get("torch"):
            found.append(f"PyTorch {run['torch']}" + (f" ({run['capability']})" if "capability" in run else ""))
        if run.get("transformers"):
            found.append(f"transformers {run['transformers']}")
    found += [f"llama.cpp of {line['version']}" for line in llama if "version" in line]
    return list(dict.fromkeys(found))


# Tables, as markdown.


def table(header, rows):
    """Without the columns that are empty in every row."""
    kept = [i for i in range(len(header)) if not rows or any(row[i] for row in rows)]
    lines = [[header[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def number(value):
    """Three digits."""
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:.0f}"


def percent(value):
    return f"{100 * value:.0f}"


def ratio(value):
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def cell(value, form, unit=""):
    return "" if value is None else value.text(form) + unit


def detail(section, figures):
    """Everything about one section on one machine."""
    header = [*SECTIONS[section][1], "limit", "ours", *PEERS]
    header += [f"{name}, CPU" for name in ("ours", *PEERS)]
    header += ["ours, of limit", *(f"{name} / ours" for name in PEERS)]
    rows = []
    for of in figures:
        cells = [*of.row, cell(of.limit, number), cell(of.ours, number)]
        cells += [cell(of.peers.get(name), number) for name in PEERS]
        cells += [cell(of.cpu.get(name), number) for name in ("ours", *PEERS)]
        cells += [cell(of.of_limit, percent, " %"), *(cell(of.ratios.get(name), ratio) for name in PEERS)]
        rows.append(cells)
    return table(header, rows)


def beside(section, machines):
    """One section of all machines: each figure's columns next to each other."""
    found = {machine.name: {of.row: of for of in machine.figures if of.section == section} for machine in machines}
    longest = sorted(found.values(), key=len, reverse=True)
    rows = list(dict.fromkeys(row for figures in longest for row in figures))
    if not rows:
        return "Not measured yet."
    unit = SECTIONS[section][2]
    columns = [(f"ours, {unit}", lambda of: cell(of.ours, number))]
    columns += [("of limit", lambda of: cell(of.of_limit, percent, " %"))]
    columns += [(f"{peer} / ours", lambda of, peer=peer: cell(of.ratios.get(peer), ratio)) for peer in PEERS]
    header = [*SECTIONS[section][1], *(f"{title}: {name}" for title, _ in columns for name in found)]
    body = []
    for row in rows:
        cells = [of(figures[row]) if row in figures else "" for _, of in columns for figures in found.values()]
        body.append([*row, *cells])
    return table(header, body)


def wins(machines):
    """Every figure in which a peer is faster than ours, the largest difference first; and what is not known."""
    found = []
    for machine in machines:
        for of in machine.figures:
            title, unit = SECTIONS[of.section][0], SECTIONS[of.section][2]
            unit = "s" if of.row[1] == "loading" else unit.split("; ")[0]
            what = ", ".join([title, *of.row])
            if SECTIONS[of.section][1][-1] == "tokens":
                what += " token" if of.row[-1] == "1" else " tokens"
            for peer, times in of.ratios.items():
                if times.low < 1:
                    found.append((1 / times.low, times, what, unit, machine.name, of.ours, peer, of.peers.get(peer)))
            for peer, seconds in of.cpu.items():
                if seconds < of.cpu["ours"]:
                    times = once(seconds.low / of.cpu["ours"].low)
                    sides = of.cpu["ours"], peer, seconds
                    found.append((1 / times.low, times, f"{what}, CPU time", unit, machine.name, *sides))
    found.sort(key=lambda win: -win[0])
    rows = [
        [what, name, cell(ours, number, f" {unit}"), peer, cell(theirs, number, f" {unit}"), by(factor, times)]
        for factor, times, what, unit, name, ours, peer, theirs in found
    ]
    header = "what", "machine", "ours", "peer", "the peer's", "times as fast as ours"
    parts = [table(header, rows) if rows else "None."]
    unknown = [f"- {machine.name}: {sentence}" for machine in machines for sentence in machine.missing]
    if unknown:
        parts.append("Not known:\n\n" + "\n".join(unknown))
    return "\n\n".join(parts)


def by(factor, times):
    return ("" if times.low == times.high else "up to ") + (f"{factor:.1f}" if factor >= 1.05 else f"{factor:.3f}")


def overview(machines, out=None):
    """What the machines are; with links to their pages, if `out` is given as a link."""
    header = "machine", "processor", "instructions", "threads", "caches (L1d, L2, L3)"
    header += "f32, GFLOP/s", "bf16, GFLOP/s", "memory, GB/s", "version", "measured", "peers", "note"
    rows = []
    for machine in machines:
        about, limits = machine.about, machine.limits
        flags = about.get("Flags", "").split()
        notes = [about["Note"]] if "Note" in about else []
        if float(about.get("Load", 0)) > 0.5:
            notes.append(f"busy: a load of {about['Load']} before")
        name = machine.name if out is None else f"[{machine.name}]({out}/{machine.name}/tables.md)"
        cells = [name, processor(about), " ".join(name for name in X86 + ARM if name in flags)]
        cells.append(about.get("Threads", ""))
        cells.append(", ".join(about[f"{level} cache"] for level in ("L1d", "L2", "L3") if f"{level} cache" in about))
        cells += [cell(limits.get(key), "{:.0f}".format) for key in ("fma_gflops", "bf16_gflops", "read_gbps")]
        cells += [about.get("Version", ""), about.get("Date", ""), ", ".join(machine.versions), "; ".join(notes)]
        rows.append(cells)
    return table(header, rows)


def processor(about):
    name = about.get("Model name", "unknown")
    if "CPU family" in about:
        name += f" (family {about['CPU family']}, model {about.get('Model', '?')})"
    return name


# Files.


def page(text, machines, out):
    """The page with its tables written anew. `out` is the directory of the machines, as the page links to it."""
    tables = {"machines": overview(machines, out), "wins": wins(machines)}
    tables |= {section: beside(section, machines) for section in SECTIONS}
    pattern = re.compile(r"(<!-- perf: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
    unknown = [name for _, name, _ in pattern.findall(text) if name not in tables]
    if unknown:
        raise SystemExit(f"the page asks for a table '{unknown[0]}'; there are {', '.join(tables)}")
    return pattern.sub(lambda found: f"{found[1]}\n{tables[found[2]]}\n{found[3]}", text)


def empty_page():
    names = {"machines": "Machines", "wins": "Where a peer is faster"}
    names |= {name: title for name, (title, _, _) in SECTIONS.items()}
    parts = [f"## {title}\n\n<!-- perf: {name} -->\n\n<!-- end -->\n" for name, title in names.items()]
    return "# Machines side by side\n\n" + "\n".join(parts)


def own_tables(machine):
    """One machine's file."""
    parts = [
        f"# {machine.name}",
        "All figures of this machine, written by scripts/perf_tables.py.",
        overview([machine]),
    ]
    for section, (title, _, unit) in SECTIONS.items():
        figures = [of for of in machine.figures if of.section == section]
        if figures:
            parts += [f"## {title}", f"In {unit}. X / ours: how many times as long X takes.", detail(section, figures)]
    parts += ["## Where a peer is faster", wins([machine])]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Tables out of what scripts/perf.sh measured.")
    parser.add_argument("out", type=Path, help="the directory of the machines")
    parser.add_argument("page", type=Path, help="the page whose tables are written anew")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if something would change")
    arguments = parser.parse_args()
    machines = [machine(path.parent) for path in sorted(arguments.out.glob("*/machine.txt"))]
    files = {arguments.out / machine.name / "tables.md": own_tables(machine) for machine in machines}
    text = arguments.page.read_text() if arguments.page.exists() else empty_page()
    files[arguments.page] = page(text, machines, Path(os.path.relpath(arguments.out, arguments.page.parent)).as_posix())
    changed = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if arguments.check and changed:
        sys.exit(f"not as scripts/perf_tables.py writes it: {', '.join(map(str, changed))}")
    for path in changed:
        path.write_text(files[path])


if __name__ == "__main__":
    main()
