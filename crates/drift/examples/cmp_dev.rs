use candle_core::*;
use gemma_mlp_drift::compare::*;
fn main() -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let tensors = candle_core::safetensors::load(&a[1], &Device::Cpu)?;
    let bytes = std::fs::read(&a[1])?;
    let (_, meta) = ::safetensors::SafeTensors::read_metadata(&bytes)?;
    drop(bytes);
    let metadata = meta.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut text = DumpText::default();
    for (name, t) in tensors {
        if name == "tokens" {
            text.tokens = Some(t.flatten_all()?.to_dtype(DType::U32)?.to_vec1()?);
            continue;
        }
        if name == "positions" {
            text.logit_positions = Some(
                t.flatten_all()?
                    .to_dtype(DType::I64)?
                    .to_vec1::<i64>()?
                    .into_iter()
                    .map(|x| x as usize)
                    .collect(),
            );
            continue;
        }
        let Ok(p) = name.parse::<Point>() else {
            eprintln!("skip {name}");
            continue;
        };
        if a.len() > 3 && !regex::Regex::new(&a[3])?.is_match(&name) {
            continue;
        }
        let t = if t.dims()[0] == 1 { t.squeeze(0)? } else { t };
        text.planes.insert(p, Plane::new(t));
    }
    let dump =
        Dump { source: a[1].clone(), format: "x", metadata, texts: vec![text], remarks: vec![] };
    let ck = gemma_mlp::Checkpoint::open(&a[2])?;
    let t = std::time::Instant::now();
    let c = compare(&dump, &ck, &Default::default(), &Device::Cpu, |_| {
        std::ops::ControlFlow::Continue(())
    })?;
    println!(
        "agrees {} | {}\n   {:?} {:?}",
        c.agrees,
        c.verdict,
        t.elapsed(),
        c.logits.as_ref().map(|l| (l.ratio, l.flip_count))
    );
    for c in c.candidates.iter().take(3) {
        println!(
            "     {:40} cos {:.3} size {:.3} left {:.3} ratio {:.2}",
            c.name, c.cosine, c.size, c.left, c.ratio
        );
    }
    for l in &c.layers {
        for p in &l.points {
            if p.same_input.is_some_and(|d| d.ratio > 1.6) && std::env::var("ALL").is_ok() {
                println!("     {} {} {:?}", l.index, p.point, p.same_input);
            }
        }
    }
    Ok(())
}
