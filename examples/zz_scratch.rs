use gemma_mlp::Activation;
fn main() {
    let h: Vec<_> = (0..2u64)
        .map(|t| {
            std::thread::spawn(move || {
                let mut worst = (0.0, 0f32);
                let mut over = 0u64;
                let mut mono = 0u64;
                let mut prev = f32::NAN;
                for sign in [0u32, 1 << 31] {
                    let (lo, hi) = (0x3000_0000u64, 0x4170_0000u64);
                    let mid = lo + (hi - lo) / 2;
                    let (a, b) = if t == 0 { (lo, mid) } else { (mid, hi) };
                    let mut s = a;
                    while s < b {
                        let n = (b - s).min(1 << 14);
                        let x: Vec<f32> =
                            (s..s + n).map(|i| f32::from_bits(i as u32 | sign)).collect();
                        let mut y = vec![0f32; x.len()];
                        Activation::EXACT.values(&x, &mut y);
                        let xd: Vec<f64> = x.iter().map(|&x| x as f64).collect();
                        let mut yd = vec![0.0; x.len()];
                        Activation::EXACT.values(&xd, &mut yd);
                        for i in 0..x.len() {
                            let e = ((yd[i].abs().to_bits() >> 52) as i32 - 1023).max(-126) - 23;
                            let u = f64::from_bits(((e + 1023) as u64) << 52);
                            let err = (y[i] as f64 - yd[i]).abs() / u;
                            if err > worst.0 {
                                worst = (err, x[i])
                            }
                            if err > 0.95 {
                                over += 1
                            }
                            if sign != 0 && x[i] > -0.751 && y[i] > prev {
                                mono += 1
                            }
                            prev = y[i];
                        }
                        s += n;
                    }
                }
                (worst, over, mono)
            })
        })
        .collect();
    for h in h {
        println!("{:?}", h.join().unwrap());
    }
}
