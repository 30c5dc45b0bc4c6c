//! Numbers into blocks, and out of them.
//!
//! The K types are quantised here, to the bits of ggml's reference (`quantize_row_q4_K_ref` and its like in
//! `ggml/src/ggml-quants.c`, compiled without fused multiplications): candle's quantiser follows an earlier one, whose
//! error is 2 to 5 % larger. The other types are candle's, which are ggml's to the bit.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, Device, Result, Tensor};
use half::f16;
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use std::borrow::Cow;

/// Columns of a block of the K types.
const BLOCK: usize = 256;
/// Columns that share a scale where there is a minimum.
const RUN: usize = 32;
/// Columns that share a scale in `Q6_K`.
const SHORT_RUN: usize = 16;
/// The largest code of a scale or minimum.
const LARGEST: f32 = 63.0;
/// Numbers below this count as 0.
const NOTHING: f32 = 1e-15;

/// Finite numbers that make whole blocks, as blocks.
///
/// # Errors
/// Numbers of no whole blocks; a type that is none of blocks.
pub fn quantise(numbers: Vec<f32>, kind: GgmlDType) -> Result<Vec<u8>> {
    let whole = numbers.len().is_multiple_of(BLOCK);
    let (blocks, _) = numbers.as_chunks::<BLOCK>();
    match kind {
        GgmlDType::Q4K if whole => Ok(blocks.iter().flat_map(q4_k).collect()),
        GgmlDType::Q5K if whole => Ok(blocks.iter().flat_map(q5_k).collect()),
        GgmlDType::Q6K if whole => Ok(blocks.iter().flat_map(q6_k).collect()),
        _ => {
            let numbers = Tensor::from_vec(numbers, ((),), &Device::Cpu)?;
            Ok(QTensor::quantize(&numbers, kind)?.data()?.into_owned())
        }
    }
}

/// The numbers of some blocks, as candle dequantises them, which is as ggml does.
///
/// # Errors
/// A type that is none of blocks.
pub fn dequantise(bytes: &[u8], kind: GgmlDType) -> Result<Vec<f32>> {
    // candle takes blocks that lie where blocks may, in memory.
    let mut aligned = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
    cast_slice_mut(&mut aligned)[..bytes.len()].copy_from_slice(bytes);
    let blocks = kind.from_data(Cow::Borrowed(&cast_slice(&aligned)[..bytes.len()]));
    match blocks.dequantize(bytes.len() / kind.type_size() * kind.block_size())? {
        CpuStorage::F32(numbers) => Ok(numbers),
        _ => candle_core::bail!("candle dequantises {kind:?} to what is not f32"),
    }
}

/// The nearest integer, ties to even, by adding a number whose mantissa has 1 in its last place; of what is too large it is
/// what ggml makes of it.
fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

fn nearest_of(x: f32, least: i32, most: i32) -> i32 {
    nearest(x).clamp(least, most)
}

/// A scale and a minimum for a run, and its codes.
struct Affine {
    scale: f32,
    /// What is taken off.
    min: f32,
    codes: [u8; RUN],
}

/// Scale and minimum by which codes up to `most` have the least weighted squared error, of those that `tries` scales lead to
/// by least squares. Larger numbers weigh more.
fn affine(x: &[f32; RUN], most: u8, first: f32, tries: usize) -> Affine {
    let mean = (x.iter().fold(0.0, |sum, x| sum + x * x) / RUN as f32).sqrt();
    let weights = x.map(|x| mean + x.abs());
    let weighted = || weights.iter().zip(x);
    let (mut min, mut max) = (x[0], x[0]);
    for &x in &x[1..] {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
    }
    let sum_w = weights[1..].iter().fold(weights[0], |sum, w| sum + w);
    let sum_x = weighted().skip(1).fold(weights[0] * x[0], |sum, (w, x)| sum + w * x);
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        return Affine { scale: 0.0, min: -min, codes: [0; RUN] };
    }
    let most_of = f32::from(most);
    let codes =
        |inverse: f32, min: f32| x.map(|x| nearest_of(inverse * (x - min), 0, most.into()) as u8);
    let error = |codes: &[u8; RUN], scale: f32, min: f32| {
        weighted().zip(codes).fold(0.0, |sum, ((w, x), &code)| {
            let difference = scale * f32::from(code) + min - x;
            sum + w * (difference * difference)
        })
    };
    let inverse = most_of / (max - min);
    let scale = 1.0 / inverse;
    let own = codes(inverse, min);
    let mut least = error(&own, scale, min);
    let mut best = Affine { scale, min, codes: own };
    // Each starts from the best minimum so far.
    for step in 0..=tries {
        let min = best.min;
        let inverse = (first + 0.1 * step as f32 + most_of) / (max - min);
        let codes = codes(inverse, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
        for ((w, x), &code) in weighted().zip(&codes) {
            let code = f32::from(code);
            sum_l += w * code;
            sum_l2 += w * code * code;
            sum_xl += w * code * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if min > 0.0 {
                (min, scale) = (0.0, sum_xl / sum_l2);
            }
            let error = error(&codes, scale, min);
            if error < least {
                least = error;
                best = Affine { scale, min, codes };
            }
        }
    }
    Affine { min: -best.min, ..best }
}

/// What a block of 4 or 5 bits begins with, and its codes.
fn affine_block(
    x: &[f32; BLOCK],
    most: u8,
    first: f32,
    tries: usize,
) -> ([u8; 16], [[u8; RUN]; BLOCK / RUN]) {
    let (runs, _) = x.as_chunks::<RUN>();
    let mut all: Vec<Affine> = runs.iter().map(|run| affine(run, most, first, tries)).collect();
    let largest = |of: fn(&Affine) -> f32| {
        all.iter().map(of).fold(0.0, |max: f32, x| if x > max { x } else { max })
    };
    let (scale, min) = (largest(|run| run.scale), largest(|run| run.min));
    let inverse = |x: f32| if x > 0.0 { LARGEST / x } else { 0.0 };
    let code = |x: f32| (nearest(x) as u8).min(LARGEST as u8);
    let mut head = [0; 16];
    let (d, dmin) = (f16::from_f32(scale / LARGEST), f16::from_f32(min / LARGEST));
    head[..2].copy_from_slice(&d.to_le_bytes());
    head[2..4].copy_from_slice(&dmin.to_le_bytes());
    let scales = &mut head[4..];
    for (i, (run, x)) in all.iter_mut().zip(runs).enumerate() {
        let (s, m) = (code(inverse(scale) * run.scale), code(inverse(min) * run.min));
        match i {
            0..4 => (scales[i], scales[i + 4]) = (s, m),
            _ => {
                scales[i + 4] = s & 15 | (m & 15) << 4;
                scales[i - 4] |= s >> 4 << 6;
                scales[i] |= m >> 4 << 6;
            }
        }
        // The codes once more, by the scale and the minimum as they are stored.
        let (scale, min) = (d.to_f32() * f32::from(s), dmin.to_f32() * f32::from(m));
        if scale != 0.0 {
            run.codes = x.map(|x| nearest_of((x + min) / scale, 0, most.into()) as u8);
        }
    }
    (head, std::array::from_fn(|i| all[i].codes))
}

/// Nibbles of runs, two to a byte.
fn nibbles(codes: &[[u8; RUN]]) -> impl Iterator<Item = u8> {
    let pairs = codes.chunks_exact(2);
    pairs.flat_map(|pair| pair[0].iter().zip(&pair[1]).map(|(a, b)| a & 15 | (b & 15) << 4))
}

fn q4_k(x: &[f32; BLOCK]) -> Vec<u8> {
    let (head, codes) = affine_block(x, 15, -1.0, 20);
    head.into_iter().chain(nibbles(&codes)).collect()
}

fn q5_k(x: &[f32; BLOCK]) -> Vec<u8> {
    let (head, codes) = affine_block(x, 31, -0.5, 15);
    let fifths = (0..RUN).map(|at| {
        codes.iter().enumerate().fold(0, |bits, (run, codes)| bits | codes[at] >> 4 << run)
    });
    head.into_iter().chain(fifths).chain(nibbles(&codes)).collect()
}

/// A scale for a run of `Q6_K`, by which codes from -32 on have the least squared error, weighted by squares, of those that
/// some scales lead to; and its codes, from 0 on.
fn symmetric(x: &[f32; SHORT_RUN]) -> (f32, [u8; SHORT_RUN]) {
    let largest = x.iter().fold(0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    if largest.abs() < NOTHING {
        return (0.0, [0; SHORT_RUN]);
    }
    let codes = |inverse: f32| x.map(|x| nearest_of(inverse * x, -32, 31));
    let sums = |codes: &[i32; SHORT_RUN]| {
        x.iter().zip(codes).fold((0.0, 0.0), |(sum_xl, sum_l2), (x, &code)| {
            let (w, code) = (x * x, code as f32);
            (sum_xl + w * x * code, sum_l2 + w * code * code)
        })
    };
    let mut best = codes(-32.0 / largest);
    let (sum_xl, sum_l2) = sums(&best);
    let mut scale: f32 = if sum_l2 != 0.0 { sum_xl / sum_l2 } else { 0.0 };
    let mut gain = scale * sum_xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let codes = codes(-(32.0 + 0.1 * step as f32) / largest);
        let (sum_xl, sum_l2) = sums(&codes);
        if sum_l2 > 0.0 && sum_xl * sum_xl > gain * sum_l2 {
            best = codes;
            scale = sum_xl / sum_l2;
            gain = scale * sum_xl;
        }
    }
    (scale, best.map(|code| (code + 32) as u8))
}

fn q6_k(x: &[f32; BLOCK]) -> Vec<u8> {
    let (runs, _) = x.as_chunks::<SHORT_RUN>();
    let all: Vec<_> = runs.iter().map(symmetric).collect();
    let scales = all.iter().map(|(scale, _)| *scale);
    let largest = scales.fold(0f32, |max, x| if x.abs() > max.abs() { x } else { max });
    if largest.abs() < NOTHING {
        return vec![0; GgmlDType::Q6K.type_size()];
    }
    let inverse = -128.0 / largest;
    let d = f16::from_f32(1.0 / inverse);
    let mut codes = [0; BLOCK];
    let mut of_runs = vec![];
    for (((scale, own), x), place) in all.iter().zip(runs).zip(codes.chunks_exact_mut(SHORT_RUN)) {
        let code = nearest(inverse * scale).min(127) as i8;
        of_runs.push(code as u8);
        let scale = d.to_f32() * f32::from(code);
        match scale {
            0.0 => place.copy_from_slice(own),
            _ => place.iter_mut().zip(x).for_each(|(place, x)| {
                *place = (nearest_of(x / scale, -32, 31) + 32) as u8;
            }),
        }
    }
    let halves = || codes.chunks_exact(BLOCK / 2);
    let low = halves().flat_map(|half| (0..64).map(|at| half[at] & 15 | (half[at + 64] & 15) << 4));
    let high = halves().flat_map(|half| {
        (0..32).map(|at| {
            (0..4).fold(0, |bits, quarter| bits | half[at + 32 * quarter] >> 4 << (2 * quarter))
        })
    });
    low.chain(high).chain(of_runs).chain(d.to_le_bytes()).collect()
}
