//! What people and programs see of a comparison.

mod comparisons;

use comparisons::{GUILTY, LAYERS, agrees, all, glimpses, logits_only, not_finite, wrong_mlp};
use gemma_mlp_cli::report::{Paint, compare_csv, compare_page, compare_table, json};
use gemma_mlp_drift::compare::Comparison;

fn table(comparison: &Comparison) -> String {
    compare_table(comparison, Paint::Plain)
}

/// To look at: `SHOW=DIR cargo test --release -p gemma-mlp-cli --test compare show` writes what each is shown as.
#[test]
fn show() {
    let Some(dir) = std::env::var_os("SHOW").map(std::path::PathBuf::from) else { return };
    for (name, comparison) in all() {
        let write = |ending, text: String| {
            std::fs::write(dir.join(name).with_extension(ending), text).unwrap();
        };
        write("txt", table(&comparison));
        write("html", compare_page(&comparison));
        write("csv", compare_csv(&comparison).unwrap());
        write("json", json(&comparison).unwrap());
    }
}
