//! oneDNN's exact GELU in f32, with which PyTorch computes bf16 on processors with AVX-512: a
//! piecewise polynomial for erf(x/√2).
//!
//! oneDNN 3.13.3, which PyTorch 2.15.0 brings; read at 3f27bec2,
//! `src/cpu/x64/injectors/jit_uni_eltwise_injector.cpp`
//! (`gelu_erf_minimax_approx_compute_vector_fwd`).

/// `x·(1 + erf(x/√2))/2` as oneDNN multiplies it out: `x·(1 + erf)` first, which overflows in the
/// top binade. At ±∞ it is NaN.
pub(super) fn gelu(x: f32) -> f32 {
    x * (1.0 + erf(x.abs()).copysign(x)) * 0.5
}

/// erf(x/√2) for x ≥ 0.
fn erf(x: f32) -> f32 {
    /// Beyond it erf(x/√2) is 1 in f32.
    const LAST: f32 = 5.542594;
    // A polynomial too, and evaluated: its zeros make NaN of ∞.
    const ONE: [f32; 6] = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let polynomial = if x > LAST { &ONE } else { &POLYNOMIALS[interval(x)] };
    let lower = polynomial[..5].iter().rev();
    lower.fold(polynomial[5], |sum, &coefficient| sum.mul_add(x, coefficient))
}

/// Which polynomial: four to a binade, told apart by the exponent and two more bits, and the first
/// for everything up to 0.15625.
fn interval(x: f32) -> usize {
    /// The bits just above 0.109375, the start of the last quarter binade that the first one serves.
    const START: i32 = 0x3de0_0001;
    let index = (x.to_bits() as i32 - START) >> 21;
    index.clamp(1, POLYNOMIALS.len() as i32) as usize - 1
}

/// Coefficients by interval, from degree 0 up.
#[rustfmt::skip]
const POLYNOMIALS: [[f32; 6]; 22] = [
    [1.5188366e-8, 7.978839e-1, 1.0841714e-5, -1.3307738e-1, 4.5889345e-4, 1.8966824e-2],
    [6.0441465e-8, 7.978825e-1, 2.896764e-5, -1.3319246e-1, 8.250156e-4, 1.8499883e-2],
    [1.9580071e-7, 7.978789e-1, 6.682378e-5, -1.3339315e-1, 1.3578596e-3, 1.793304e-2],
    [5.7655126e-7, 7.9787034e-1, 1.4431536e-4, -1.3374342e-1, 2.1505188e-3, 1.7214557e-2],
    [1.8136789e-6, 7.978466e-1, 3.2647466e-4, -1.344436e-1, 3.4977621e-3, 1.617638e-2],
    [7.1081054e-6, 7.977628e-1, 8.582302e-4, -1.3613439e-1, 6.191868e-3, 1.4455351e-2],
    [2.2010752e-5, 7.9756546e-1, 1.9052438e-3, -1.3891616e-1, 9.893196e-3, 1.2482236e-2],
    [5.5225635e-5, 7.971865e-1, 3.6366323e-3, -1.4287555e-1, 1.4425337e-2, 1.0404875e-2],
    [1.831175e-4, 7.959481e-1, 8.441632e-3, -1.5221408e-1, 2.3517137e-2, 6.857343e-3],
    [6.498413e-4, 7.922447e-1, 2.0222925e-2, -1.709968e-1, 3.852472e-2, 2.0495458e-3],
    [1.7345067e-3, 7.850465e-1, 3.9360855e-2, -1.9647883e-1, 5.551665e-2, -2.4900034e-3],
    [3.7866202e-3, 7.733578e-1, 6.602445e-2, -2.269277e-1, 7.292371e-2, -6.475404e-3],
    [8.343051e-3, 7.511906e-1, 1.0923457e-1, -2.6911446e-1, 9.355366e-2, -1.0517931e-2],
    [1.27789555e-2, 7.32789e-1, 1.3979976e-1, -2.9452354e-1, 1.0412485e-1, -1.2278704e-2],
    [-3.176821e-3, 7.846672e-1, 7.2266184e-2, -2.5052387e-1, 8.9776866e-2, -1.0405218e-2],
    [-6.91192e-2, 9.714677e-1, -1.396405e-1, -1.301916e-1, 5.557131e-2, -6.5113325e-3],
    [-2.7097204e-1, 1.4611516, -6.155817e-1, 1.0148359e-1, -9.112102e-4, -9.935636e-4],
    [-5.472661e-1, 2.0251584, -1.0770063, 2.905895e-1, -3.973237e-2, 2.1998081e-3],
    [-3.9980435e-1, 1.790736, -9.281096e-1, 2.4336384e-1, -3.2254163e-2, 1.72694e-3],
    [1.4787646e-1, 1.0093725, -4.816873e-1, 1.1568559e-1, -1.3974587e-2, 6.788905e-4],
    [7.7755123e-1, 2.3098189e-1, -9.61774e-2, 2.0067886e-2, -2.0977375e-3, 8.7863686e-5],
    [9.794183e-1, 1.867352e-2, -6.786839e-3, 1.2350094e-3, -1.12510286e-4, 4.1047288e-6],
];
