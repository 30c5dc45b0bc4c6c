//! Functions of f32 to the nearest f32, in place of libraries that cannot be run here. Those err by
//! up to 2 ULP.

/// √(2/π).
pub(super) const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// The hyperbolic tangent.
pub(super) fn tanh(x: f32) -> f32 {
    libm::tanh(f64::from(x)) as f32
}

/// The error function.
pub(super) fn erf(x: f32) -> f32 {
    libm::erf(f64::from(x)) as f32
}

/// The standard normal distribution function.
pub(super) fn normal_cdf(x: f32) -> f32 {
    (0.5 * libm::erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2)) as f32
}
