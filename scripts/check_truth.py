"""Checks the truth that examples/prove_gelu.rs judges by against mpmath, with 60 digits:

    cargo run --release --example prove_gelu -- --points | .venv/bin/python scripts/check_truth.py

Prints the largest relative error of each function, and fails if one is above 2^-70. Around the derivatives'
zeros, where they are below 2^-20, the absolute error counts and has to be below 2^-90.
"""

import sys

import mpmath as mp

mp.mp.dps = 60
LINEAR = 2 * mp.sqrt(2 / mp.pi)
CUBIC = LINEAR * mp.mpf("0.044715")


def exact(x):
    return x * mp.erfc(-x / mp.sqrt(2)) / 2


def exact_derivative(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2 + x * mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def tanh(x):
    return x / (1 + mp.exp(-LINEAR * x - CUBIC * x**3))


def tanh_derivative(x):
    e = mp.exp(-LINEAR * x - CUBIC * x**3)
    return (1 + e + x * e * (LINEAR + 3 * CUBIC * x * x)) / (1 + e) ** 2


FUNCTIONS = {"exact": exact, "exact'": exact_derivative, "tanh": tanh, "tanh'": tanh_derivative}


def main():
    worst = {name: (mp.mpf(0), None) for name in FUNCTIONS}
    count = 0
    for line in sys.stdin:
        name, *numbers = line.split()
        x, high, low = (mp.mpf(float(number)) for number in numbers)
        truth = FUNCTIONS[name](x)
        if abs(truth) < mp.mpf("1e-280"):
            continue
        error = abs(high + low - truth)
        if abs(truth) < mp.mpf(2) ** -20 and -1 < x < mp.mpf("-0.5"):
            check(error < mp.mpf(2) ** -90, f"{name} at {x}: off by {mp.nstr(error, 3)}")
        elif error / abs(truth) > worst[name][0]:
            worst[name] = (error / abs(truth), x)
        count += 1
    check(count > 10_000, f"only {count} points arrived")
    for name, (error, x) in worst.items():
        print(f"{name}: relative error at most 2^{mp.nstr(mp.log(error, 2), 4)}, at x = {mp.nstr(x, 8)}")
        check(error < mp.mpf(2) ** -70, f"{name} is not the truth")


def check(condition, message):
    if not condition:
        sys.exit(message)


if __name__ == "__main__":
    main()
