//! Numbers that weights and inputs are made of.

use candle_core::{Device, Tensor};
use gemma_mlp::Result;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

/// Gaussian noise `[rows, columns]` in f32, the same on every run and for any number of threads.
pub(super) fn gaussian(rows: usize, columns: usize, stdev: f32, seed: u64) -> Result<Tensor> {
    let mut numbers = vec![0f32; rows * columns];
    numbers.par_chunks_mut(columns).enumerate().for_each(|(row, numbers)| {
        let rng = StdRng::seed_from_u64(seed << 48 | row as u64);
        let noise = Distribution::<f32>::sample_iter(StandardNormal, rng);
        for (x, noise) in numbers.iter_mut().zip(noise) {
            *x = stdev * noise;
        }
    });
    Ok(Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp::Error;

    #[test]
    fn noise_is_the_same_every_time() -> Result<()> {
        let noise = |seed| Ok::<_, Error>(gaussian(3, 5, 0.5, seed)?.to_vec2::<f32>()?);
        assert_eq!(noise(1)?, noise(1)?);
        assert_ne!(noise(1)?, noise(2)?);
        assert_ne!(noise(1)?[0], noise(1)?[1]);
        let wide = gaussian(100, 100, 0.5, 1)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
        assert!((wide.sqrt() - 0.5).abs() < 0.02, "{wide}");
        Ok(())
    }
}
