//! Texts that tokenizers stumble over.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::ops::RangeInclusive;

/// A text of so many bytes of what tokenizers stumble over.
pub fn mixed(bytes: usize) -> String {
    let mut rng = StdRng::seed_from_u64(7);
    let words = "the of and to in a is that for it as was with be by on not he his but at";
    let words: Vec<_> = words.split(' ').collect();
    let alphabets: [RangeInclusive<char>; 7] = [
        '\u{4e00}'..='\u{9fa5}',   // Chinese
        '\u{621}'..='\u{64a}',     // Arabic
        '\u{ac00}'..='\u{d7a3}',   // Korean
        '\u{900}'..='\u{97f}',     // Devanagari, with marks
        '\u{300}'..='\u{36f}',     // marks alone
        '\u{10000}'..='\u{1ffff}', // what has no token of its own, and emoji
        '\u{80}'..='\u{7ff}',
    ];
    let odd = [
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "<unused3>",
        "<table>",
        "[multimodal]",
        "<0xE2>",
        "👨‍👩‍👧‍👦🏳️‍🌈",
        "e\u{301}o\u{308}",
        "\r\n\t",
        "▁▁ ▁",
        "it's I'll ",
        "3.14159",
        "\u{a0}\u{2028}\u{85} ",
    ];
    let mut text = String::new();
    while text.len() < bytes {
        match rng.random_range(0..5) {
            0 => (0..20).for_each(|_| text += &[words.choose(&mut rng).unwrap(), " "].concat()),
            1 => {
                let alphabet = alphabets.choose(&mut rng).unwrap().clone();
                (0..rng.random_range(1..60))
                    .for_each(|_| text.push(rng.random_range(alphabet.clone())));
            }
            2 => text += &" ".repeat(rng.random_range(1..90)),
            3 => text += &"\n".repeat(rng.random_range(1..60)),
            _ => text += odd.choose(&mut rng).unwrap(),
        }
    }
    text
}
