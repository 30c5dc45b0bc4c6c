use gemma_mlp_drift::compare::formats;
fn main() {
    for path in std::env::args().skip(1) {
        println!("== {path}");
        let texts = vec![
            serde_json::from_slice::<Vec<u32>>(&std::fs::read("/tmp/dumps/ids32.json").unwrap())
                .unwrap(),
        ];
        let read = if path.starts_with("http") {
            gemma_mlp_drift::compare::server::ask(&path, &texts, 5, &mut |a, b| {
                eprint!("\r{a}/{b}")
            })
        } else {
            formats::read(path.as_ref())
        };
        match read {
            Err(e) => println!("  ERR {e}"),
            Ok(d) => {
                println!("  {} {:?}", d.format, d.metadata);
                for r in &d.remarks {
                    println!("  {r}");
                }
                for t in d.texts.iter().take(3) {
                    println!(
                        "  tokens {:?} planes {:?} glimpses {} logitpos {:?} likeliest {}",
                        t.tokens.as_ref().map(|t| (t.len(), t[..t.len().min(6)].to_vec())),
                        t.planes
                            .iter()
                            .map(|(p, x)| format!("{p} {:?}", x.shape()))
                            .collect::<Vec<_>>(),
                        t.glimpses.len(),
                        t.logit_positions,
                        t.likeliest.len()
                    );
                    for l in t.likeliest.iter().take(2) {
                        println!("    {} {:?}", l.position, &l.tokens[..l.tokens.len().min(4)]);
                    }
                    for (p, g) in t.glimpses.iter().take(12) {
                        println!(
                            "    {p} {:?} n={} {:?} sum {:?} prec {}",
                            g.shape,
                            g.values.len(),
                            &g.values[..g.values.len().min(4)],
                            g.sum,
                            g.precision
                        );
                    }
                }
            }
        }
    }
}
