//! The mathematics: slices and packed weights, threads and vector instructions. Knows neither configs
//! nor models.

pub mod activation;
pub mod exp;
pub mod geglu;
pub mod gelu;
pub mod linear;
pub mod memory;
pub mod number;
pub mod operands;
pub mod sparsity;
pub mod threads;
