use super::*;
use crate::kernels::linear::matrix::{Matrix, Source, deferred, deferring};
use crate::kernels::linear::panels::Data;
use crate::kernels::linear::stored::PANEL;
use crate::kernels::linear::{Packed, TILE, packed_matmul};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use pulp::Simd;
use std::ops::Range;
use std::sync::Arc;

const KINDS: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// Blocks of any bits, but for scales that are finite numbers.
fn any_blocks(kind: GgmlDType, count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    let mut bytes: Vec<u8> = (0..count * kind.type_size()).map(|_| next()).collect();
    let halves: &[usize] = match kind {
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        GgmlDType::Q6K => &[208],
        _ => &[0, 2],
    };
    for block in bytes.chunks_exact_mut(kind.type_size()) {
        for &at in halves {
            block[at + 1] &= 0b1011_1111; // no exponent of infinities and NaN
        }
    }
    bytes
}

/// Blocks in memory as a file's.
#[derive(Debug)]
struct InMemory {
    kind: GgmlDType,
    columns: usize,
    bytes: Vec<u8>,
}

impl InMemory {
    fn any(kind: GgmlDType, rows: usize, columns: usize, seed: u64) -> Self {
        Self { kind, columns, bytes: any_blocks(kind, rows * columns / kind.block_size(), seed) }
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.kind.block_size() * self.kind.type_size()
    }
}

impl Source for InMemory {
    fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        let shape = (rows.len(), self.columns);
        let data = QStorage::from_data(self.read_blocks(rows)?.into(), &Device::Cpu, self.kind)?;
        QTensor::new(data, shape)?.dequantize(&Device::Cpu)
    }

    fn blocks(&self) -> Option<GgmlDType> {
        Some(self.kind)
    }

    fn read_blocks(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let size = self.row_bytes();
        Ok(self.bytes[rows.start * size..rows.end * size].to_vec())
    }
}

/// A weight of several types, one below the other, kept as blocks, and the same dequantised.
fn both(kinds: &[GgmlDType], rows: usize, columns: usize) -> Result<[Packed; 2]> {
    let sources: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(i, &kind)| Arc::new(InMemory::any(kind, rows, columns, i as u64 + 1)))
        .collect();
    let numbers = sources.iter().map(|source| source.rows(0..rows)).collect::<Result<Vec<_>>>()?;
    let blocks = deferring(|| {
        let tensors = sources.iter().map(|s| deferred(s.clone(), &[rows, columns], DType::F32));
        let matrices = tensors.map(|tensor| Matrix::of(&tensor?)).collect::<Result<_>>()?;
        Packed::of(vec![Matrix::stacked(matrices)?])
    })?;
    assert!(matches!(&*blocks.panels()?.data, Data::Blocks(_)), "{kinds:?} are kept");
    Ok([blocks, Packed::new(&Tensor::cat(&numbers, 0)?)?])
}

#[test]
fn they_are_what_candle_dequantises() -> Result<()> {
    for kind in KINDS {
        for (rows, columns) in [(33, 256), (7, 3 * kind.block_size())] {
            let [blocks, numbers] = both(&[kind], rows, columns)?;
            let [a, b] = [blocks, numbers].map(|packed| packed.unpacked());
            let [a, b] = [&a?[0], &b?[0]].map(|tensor| tensor.flatten_all());
            let bits = |tensor: Tensor| -> Result<Vec<u32>> {
                Ok(tensor.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
            };
            assert!(bits(a?)? == bits(b?)?, "{kind:?}");
        }
    }
    Ok(())
}

/// Products are within a few roundings of the largest term of those that f64 has of the same weights.
#[test]
fn products_are_those_of_dequantised_weights() -> Result<()> {
    for kinds in KINDS.iter().map(std::slice::from_ref).chain([&KINDS[..]]) {
        for columns in [256, 1280] {
            let [blocks, numbers] = both(kinds, 64, columns)?;
            let weights = &numbers.unpacked()?[0].to_dtype(DType::F64)?;
            let largest = weights.abs()?.max(1)?.to_vec1::<f64>()?;
            for rows in [1, 5] {
                let x = Tensor::randn(0.5f32, 1., (rows, columns), &Device::Cpu)?;
                for dtype in [DType::F32, DType::BF16] {
                    let x = x.to_dtype(dtype)?;
                    let wide = x.to_dtype(DType::F64)?;
                    let exact = wide.matmul(&weights.t()?)?.to_vec2::<f64>()?;
                    let ours = packed_matmul(&blocks, &x, None)?.get(0)?;
                    let ours = ours.to_dtype(DType::F64)?.to_vec2::<f64>()?;
                    let sizes = wide.abs()?.sum(1)?.to_vec1::<f64>()?;
                    for ((ours, exact), size) in ours.iter().zip(&exact).zip(&sizes) {
                        for ((ours, exact), largest) in ours.iter().zip(exact).zip(&largest) {
                            let rounded =
                                if dtype == DType::BF16 { exact.abs() / 256.0 } else { 0.0 };
                            let bound = size * largest * 2f64.powi(-22) + rounded;
                            let error = (ours - exact).abs();
                            assert!(
                                error <= bound,
                                "{kinds:?}: {ours} for {exact}, {error} > {bound}"
                            );
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// A row of x has the same products alone and among others.
#[test]
fn a_row_among_others_has_its_own_bits() -> Result<()> {
    for kinds in KINDS.iter().map(std::slice::from_ref).chain([&KINDS[..]]) {
        for columns in [256, 1280] {
            let [blocks, _] = both(kinds, 64, columns)?;
            let x = Tensor::randn(0f32, 1., (99, columns), &Device::Cpu)?;
            let products = |first: usize, rows: usize| {
                packed_matmul(&blocks, &x.narrow(0, first, rows)?, None)?.get(0)?.to_vec2::<f32>()
            };
            for rows in [2, 3, 4, 5, 13, 99] {
                let all = products(0, rows)?;
                for row in [0, rows / 2, rows - 1] {
                    assert_eq!(products(row, 1)?[0], all[row], "{kinds:?}, {rows} rows");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_instruction_set_has_the_same_bits() -> Result<()> {
    for kind in KINDS {
        let [blocks, _] = both(&[kind], 32, 1280)?;
        let panels = blocks.panels()?;
        let Data::Blocks(blocks) = &*panels.data else { unreachable!("kept") };
        for rows in [1, 2, 3, 4, 5, 8, 13] {
            let x: Vec<[f32; TILE]> =
                (0..3 * rows).map(|i| std::array::from_fn(|j| ((i + j) as f32).sin())).collect();
            let product = |run: &dyn Fn(BlockMatmul)| {
                let mut sums = vec![0.0; rows * PANEL];
                let sums_of = &mut sums[..];
                let (panels, columns) = (0..1, 1280);
                Input::with(&x, blocks.units(), |x| {
                    run(BlockMatmul {
                        x,
                        rows,
                        blocks,
                        panels,
                        columns,
                        sums: sums_of,
                        width: PANEL,
                    });
                });
                sums
            };
            let widest = product(&|matmul| matmul.add());
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                assert_eq!(product(&|matmul| Simd::vectorize(simd, matmul)), widest, "{kind:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_not_kept_is_dequantised() -> Result<()> {
    let kinds = [GgmlDType::Q4K, GgmlDType::Q3K];
    let streams = |kind, rows| -> Result<Data> {
        let source = Arc::new(InMemory::any(kind, rows, 256, 1));
        let other = Arc::new(InMemory::any(GgmlDType::Q8_0, 32, 256, 1));
        deferring(|| {
            let tensors = [
                deferred(source, &[rows, 256], DType::F32)?,
                deferred(other, &[32, 256], DType::F32)?,
            ];
            let matrices = tensors.iter().map(Matrix::of).collect::<Result<_>>()?;
            Data::pack(&[vec![Matrix::stacked(matrices)?]])
        })
    };
    assert!(matches!(streams(kinds[0], 32)?, Data::Blocks(_)));
    assert!(matches!(streams(kinds[0], 33)?, Data::F32(_)), "two types in one panel");
    assert!(matches!(streams(kinds[1], 32)?, Data::F32(_)), "a type that is not kept");
    Ok(())
}
