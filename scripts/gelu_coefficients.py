"""Writes src/kernels/gelu/coefficients.rs and src/kernels/geglu/cuda/coefficients.cuh: every polynomial, rational function and table
that the GELU kernels evaluate, on the CPU and on CUDA.

    python3 -m venv .venv && .venv/bin/pip install mpmath numpy
    .venv/bin/python scripts/gelu_coefficients.py          writes the files
    .venv/bin/python scripts/gelu_coefficients.py --check  fails if one of them is another

Everything is fitted with 60 digits. The error that each comment states is that of the fit with its coefficients
as they are stored, against the function itself, on a grid; what the kernels make of it is measured by
examples/prove_gelu.rs on every input.
"""

import sys
from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.dps = 60
SOURCE = Path(__file__).resolve().parent.parent / "src" / "kernels"
RUST, CUDA = SOURCE / "gelu" / "coefficients.rs", SOURCE / "geglu" / "cuda" / "coefficients.cuh"
# Where the last f32 and the last f64 underflows: beyond them the left tail of x·Φ(x) is 0.
F32_TAIL, F64_TAIL = mp.mpf("14.65"), mp.mpf(40)


def main():
    exponentials, mills, exact = exponential(), mills_rational(), table(tail)
    rust = HEADER + "".join(constant(*each) for each in exponentials + mills) + rust_table(*exact)
    singles = [each for each in exponentials + mills if each[0].endswith("SINGLE")]
    cuda = CUDA_HEADER + "".join(cuda_constant(*each) for each in singles) + cuda_limits()
    for name, what, fitted in (
        ("EXACT", "`Φ(-z)`", exact),
        ("TANH", "`σ(-2u)`", table(tanh_tail)),
        ("EXACT_SLOPE", "`Φ(-z) - z·φ(z)`", table(slope, near_zero)),
        ("TANH_SLOPE", "the derivative of `x·σ(2u)` at x = -z", table(tanh_slope, near_zero)),
    ):
        cuda += cuda_table(name, what, *fitted)
    for target, text in ((RUST, rust), (CUDA, cuda)):
        if "--check" not in sys.argv:
            target.write_text(text)
        elif target.read_text() != text:
            sys.exit(f"{target} is not what this script writes")


HEADER = """//! Written by scripts/gelu_coefficients.py, which fits all of it with 60 digits. Not to be edited.
"""
CUDA_HEADER = HEADER.replace("//!", "//") + """#pragma once

"""


def scaled_mills(z):
    """Φ(-z)·e^(z²/2): Mills' ratio over √(2π), the left tail without what makes it small."""
    return mp.erfc(z / mp.sqrt(2)) / 2 * mp.exp(z * z / 2)


# ---------------------------------------------------------------------------------------------- e^r


def exponential():
    half = mp.log(2) / 2
    single = interpolate(lambda r: mp.expm1(r) / r, half, 8)
    double = interpolate(lambda r: (mp.expm1(r) - r) / r**2, half, 11)
    single_error = worst(lambda r: 1 + r * polynomial(single, r), mp.exp, -half, half)
    double_error = worst(lambda r: 1 + r + r**2 * polynomial(double, r), mp.exp, -half, half)
    return [
        ("EXP_SINGLE", single, "`(e^r - 1)/r` for |r| ≤ ln 2 / 2", single_error),
        ("EXP_DOUBLE", double, "`(e^r - 1 - r)/r²` for |r| ≤ ln 2 / 2", double_error),
    ]


def interpolate(f, half, count):
    """The polynomial through Chebyshev's nodes of [-half, half], its coefficients rounded to f64."""
    nodes = [half * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    nodes = [node + half * mp.mpf("1e-9") for node in nodes]  # none of them at 0
    rows = mp.matrix([[node**j for j in range(count)] for node in nodes])
    return [to_f64(c) for c in mp.lu_solve(rows, mp.matrix([f(node) for node in nodes]))]


# ---------------------------------------------------------------------------------- Mills' ratio, f64


def mills_rational():
    out = []
    for name, tail, degrees in (("SINGLE", F32_TAIL, (5, 6)), ("DOUBLE", F64_TAIL, (10, 11))):
        above, below = fit_rational(tail, *degrees)
        error = worst(lambda z: polynomial(above, z) / polynomial(below, z), scaled_mills, 0, tail)
        what = f"of `Φ(-z)·e^(z²/2)` for 0 ≤ z ≤ {mp.nstr(tail, 4)}, all positive"
        out.append((f"MILLS_ABOVE_{name}", above, f"Numerator {what}", error))
        out.append((f"MILLS_BELOW_{name}", below, f"Denominator {what}", error))
    return out


def fit_rational(tail, above, below):
    """Least squares on the linearised problem, reweighted towards the smallest largest relative error (Lawson)."""
    count = 6 * (above + below + 2)
    # Denser towards 0, where the function bends.
    last = tail / (tail + 3)
    nodes = [last * (1 - mp.cos(mp.pi * (2 * i + 1) / (2 * count))) / 2 for i in range(count)]
    zs = [3 * t / (1 - t) for t in nodes]
    values = [scaled_mills(z) for z in zs]
    weights, denominators, best = [mp.mpf(1)] * count, [mp.mpf(1)] * count, None
    at_0 = mp.mpf(1) / 2  # kept exact: x/2 is what the function is for the least x
    for _ in range(12):
        rows, right = mp.matrix(count, above + below), mp.matrix(count, 1)
        for i, (z, value) in enumerate(zip(zs, values)):
            scale = mp.sqrt(weights[i]) / (denominators[i] * value)
            for j in range(1, above + 1):
                rows[i, j - 1] = scale * z**j
            for j in range(1, below + 1):
                rows[i, above + j - 1] = -scale * value * z**j
            right[i] = scale * (value - at_0)
        solution = list(mp.qr_solve(rows, right)[0])
        p, q = [at_0, *solution[:above]], [mp.mpf(1), *solution[above:]]
        denominators = [polynomial(q, z) for z in zs]
        errors = [abs(polynomial(p, z) / d / v - 1) for z, d, v in zip(zs, denominators, values)]
        largest = max(errors)
        if best is None or largest < best[0]:
            best = (largest, p, q)
        weights = [w * (e / largest + mp.mpf("1e-3")) for w, e in zip(weights, errors)]
        total = sum(weights) / count
        weights = [w / total for w in weights]
    return [to_f64(c) for c in best[1]], [to_f64(c) for c in best[2]]


# -------------------------------------------------------------------------- the tables of the f32 kernel

DEGREE = 6
INTERVALS = 32
# The kernel's index is the integer nearest to (SCALE·(1 + z))², modulo 32; up to LAST it is 32 at most.
SCALE, LAST = np.float32(0.8675), np.float32(5.57)


def near_zero(z):
    """What errors are relative to at least: not to a derivative on its way through zero, at z = 0.75."""
    return mp.mpf(1) / 16 if z < 1 else mp.mpf(0)


def table(f, least=lambda z: mp.mpf(0)):
    """The centers of the intervals and the coefficients of f around each, by rising powers; and the worst error."""
    columns, error = [[None] * INTERVALS for _ in range(DEGREE + 2)], mp.mpf(0)
    size = lambda z: max(abs(f(z)), least(z))
    for index in range(1, INTERVALS + 1):
        low, high = max(boundary(index - mp.mpf("0.5")), mp.mpf(0)), boundary(index + mp.mpf("0.5"))
        center, value = accurate_center(f, low, high)
        coefficients = fit_f32(low, high, center, [value], DEGREE + 1, f, size)
        error = max(error, worst(lambda z: polynomial(coefficients, z - center), f, low, high, size))
        for column, entry in zip(columns, [center, *coefficients]):
            column[index % INTERVALS] = entry
    return columns, error


def tail(z):
    return mp.erfc(z / mp.sqrt(2)) / 2


def slope(z):
    return tail(z) - z * mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


# 2u = z·(LINEAR + CUBIC·z²)
LINEAR = 2 * mp.sqrt(2 / mp.pi)
CUBIC = LINEAR * mp.mpf("0.044715")


def tanh_tail(z):
    return 1 / (1 + mp.exp(z * (LINEAR + CUBIC * z * z)))


def tanh_slope(z):
    lower = tanh_tail(z)
    return lower * (1 - z * (LINEAR + 3 * CUBIC * z * z) * (1 - lower))


def boundary(square):
    """The z at which (SCALE·(1 + z))² is a given number: intervals in which the tail falls by much the same factor."""
    return mp.sqrt(square) / mp.mpf(float(SCALE)) - 1


def accurate_center(f, low, high):
    """A point near the middle at which the function's value is, nearly, an f32 (Gal's accurate tables)."""
    middle = np.float32(float((low + high) / 2))
    candidates = [np.float32(middle + step * 8 * np.spacing(middle)) for step in range(-400, 401)]

    def distance(candidate):
        value = f(mp.mpf(float(candidate)))
        return abs(to_f32(value) / value - 1)

    center = mp.mpf(float(min(candidates, key=distance)))
    return center, to_f32(f(center))


def fit_f32(low, high, center, fixed, count, f, size):
    """Coefficients as f32, each fitted after those before it have been rounded, for the least error relative to size."""
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * i + 1) / 80) for i in range(40)]
    fixed = list(fixed)
    while len(fixed) < count:
        powers = range(len(fixed), count)
        rows = mp.matrix([[(z - center) ** j / size(z) for j in powers] for z in nodes])
        right = mp.matrix([(f(z) - polynomial(fixed, z - center)) / size(z) for z in nodes])
        fixed.append(to_f32(mp.qr_solve(rows, right)[0][0]))
    return fixed


# --------------------------------------------------------------------------------------------- output


def polynomial(coefficients, x):
    return mp.polyval(list(reversed(coefficients)), x)


def worst(approximation, function, low, high, size=None, count=2001):
    grid = [low + (high - low) * mp.mpf(i) / (count - 1) for i in range(count)]
    size = size or (lambda x: abs(function(x)))
    return max(abs(approximation(x) - function(x)) / size(x) for x in grid)


def to_f64(value):
    return mp.mpf(float(value))


def to_f32(value):
    return mp.mpf(float(np.float32(float(value))))


def exponent_of(error):
    return mp.nstr(mp.log(error, 2), 3)


def constant(name, values, what, error):
    return doc(what, error) + f"pub(super) const {name}: [f64; {len(values)}] = [\n{lines(values, 'f64', 4)}];\n"


def rust_table(columns, error):
    out = "/// What 1 + z is multiplied with before the square's nearest integer becomes an index.\n"
    out += f"pub(super) const TAIL_SCALE: f32 = {literal(SCALE, 'f32')};\n"
    out += f"/// Where the tables end.\npub(super) const TAIL_LAST: f32 = {literal(LAST, 'f32')};\n"
    out += "/// The centers of the intervals of z.\n"
    out += f"pub(super) const TAIL_CENTER: [f32; {INTERVALS}] = [\n{lines(columns[0], 'f32', 4)}];\n"
    out += doc("`Φ(-z)` around each center", error)
    out += f"pub(super) const TAIL: [[f32; {INTERVALS}]; {DEGREE + 1}] = [\n"
    for column in columns[1:]:
        out += "    [\n" + lines(column, "f32", 8) + "    ],\n"
    return out + "];\n"


def cuda_constant(name, values, what, error):
    values = "".join(f"    {float(value)!r},\n" for value in values)
    return cuda_doc(what, error) + f"CONSTANT double {name}[] = {{\n{values}}};\n"


def cuda_limits():
    out = "// What 1 + z is multiplied with before the square's nearest integer becomes an index.\n"
    out += f"constexpr float SCALE = {SCALE}f;\n// Where the tables end.\nconstexpr float LAST = {LAST}f;\n"
    return out + f"constexpr int INTERVALS = {INTERVALS}, ROWS = {DEGREE + 2};\n"


def cuda_table(name, what, columns, error):
    out = cuda_doc(f"The centers of the intervals of z, then {what} around each", error)
    out += f"CONSTANT float {name}[ROWS][INTERVALS] = {{\n"
    for column in columns:
        texts = [str(np.float32(float(value))) + "f" for value in column]
        rows = [", ".join(texts[i : i + 8]) for i in range(0, INTERVALS, 8)]
        out += "    {" + ",\n     ".join(rows) + "},\n"
    return out + "};\n"


def doc(what, error):
    return f"/// {what}, by rising powers.\n/// Off by 2^{exponent_of(error)} of it at most.\n"


def cuda_doc(what, error):
    return doc(what, error).replace("///", "//")


def lines(values, kind, indent):
    return "".join(f"{' ' * indent}{literal(value, kind)},\n" for value in values)


def literal(value, kind):
    """The shortest decimal that reads back as the same number, with its digits grouped as rustfmt's lints ask."""
    text = repr(float(value)) if kind == "f64" else str(np.float32(float(value)))
    mantissa, _, exponent = text.partition("e")
    whole, _, digits = mantissa.partition(".")
    groups = "_".join(digits[i : i + 3] for i in range(0, len(digits), 3)) or "0"
    return f"{whole}.{groups}" + (f"e{int(exponent)}" if exponent else "")


if __name__ == "__main__":
    main()
