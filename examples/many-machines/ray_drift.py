"""A drift run on Ray: each task computes one part. docs/many-machines.md explains it.

    python ray_drift.py --parts 16 --cpus 8 --out run.json -- --model /models/gemma-3-270m --text /texts/*.txt

What follows `--` goes to `gemma-mlp drift`. Every machine needs the program, the model and the texts under the same
paths. The reports travel through Ray and are saved in run.json.parts, each as soon as it is there. Parts that are to
run again, as `merge` names them: `--only 3,7`.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import ray


def run_part(folder, binary, arguments, part, parts, cpus):
    """One part's report, as JSON text. Relative paths are those of `folder`, and not of the folder that Ray runs in."""
    command = [binary, "drift", *arguments, "--shard", f"{part}/{parts}", "--json"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(cpus)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        end = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise RuntimeError(f"ended with {end}. {done.stderr.strip()}".rstrip())
    return done.stdout


def main():
    options = parse()
    names = range(1, options.parts + 1)
    folder = options.out.with_name(f"{options.out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    files = {part: folder / f"part-{part}-of-{options.parts}.json" for part in names}
    # Whatever is saved there is another run's, unless --only says that it is this one's.
    there = [part for part in names if part not in options.only and files[part].exists()] if options.only else []

    ray.init()
    # Ray itself starts a task again if its machine is lost. One that fails would fail again.
    task = ray.remote(num_cpus=options.cpus)(run_part)
    running = {
        task.remote(os.getcwd(), options.binary, options.arguments, part, options.parts, options.cpus): part
        for part in options.only or names
    }
    while running:
        [done], _ = ray.wait(list(running), num_returns=1)
        part = running.pop(done)
        try:
            save(files[part], ray.get(done))
            there.append(part)
        except ray.exceptions.RayError as error:
            print(f"part {part}: {reason(error)}", file=sys.stderr)

    if not there:
        sys.exit("no part came to its end")
    merge = [options.binary, "merge", "--expect", str(options.parts), "--out", str(options.out)]
    sys.exit(subprocess.run([*merge, *(files[part] for part in there)]).returncode)


def parse():
    parser = argparse.ArgumentParser(usage="%(prog)s --parts N [options] --out FILE -- ARGUMENTS")
    parser.add_argument("--parts", type=int, required=True, help="how many parts the run is split into")
    parser.add_argument("--only", type=numbers, default=[], help="run these again, as in 3,7,10-12")
    parser.add_argument("--cpus", type=int, default=1, help="cores for each part")
    parser.add_argument("--binary", default="gemma-mlp", help="the program, on every machine")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the JSON report of the whole run")
    parser.add_argument("arguments", nargs="*", help="the arguments of gemma-mlp drift")
    options = parser.parse_args()
    if not all(1 <= part <= options.parts for part in options.only):
        parser.error(f"--only: the parts are 1 to {options.parts}")
    return options


def numbers(text):
    """Those of a list such as 3,7,10-12."""
    ranges = [piece.partition("-") for piece in text.split(",")]
    return [number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)]


def save(file, text):
    """Under another name first, so that no file is half a report."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def reason(error):
    """What the task raised, or else the first line of what Ray says."""
    return getattr(error, "cause", None) or str(error).splitlines()[0]


if __name__ == "__main__":
    main()
