//! The text: a grammar, a tokenizer trained on what it says, and rows of token ids.

use anyhow::{Error, Result};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::collections::HashMap;
use std::sync::LazyLock;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

const GRAMMAR: &str = include_str!("grammar.txt");
const SPECIAL: [&str; 4] = ["<pad>", "<eos>", "<bos>", "<unk>"];
pub const EOS: u32 = 1;
/// How many paragraphs the tokenizer is trained on.
pub const PARAGRAPHS: usize = 4000;
pub const BATCH: usize = 8;
/// Predicted tokens of a row: four windows of a sliding layer.
pub const SEQ: usize = 128;

/// What is random, each with a generator of its own.
#[derive(Clone, Copy)]
pub enum Seed {
    Tokenizer = 1,
    Weights,
    Training,
    HeldOut,
}

impl Seed {
    pub fn rng(self) -> StdRng {
        StdRng::seed_from_u64(self as u64)
    }
}

/// The alternatives of every rule.
static RULES: LazyLock<HashMap<&str, Vec<&str>>> = LazyLock::new(|| {
    let mut rules: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut name = "";
    for line in GRAMMAR.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_suffix(':') {
            Some(rule) if !line.starts_with(' ') => name = rule,
            _ => rules.entry(name).or_default().extend(line.split('|').map(str::trim)),
        }
    }
    rules
});

const NUMBERS: &str = "zero one two three four five six seven eight nine ten eleven twelve \
                       thirteen fourteen fifteen sixteen seventeen eighteen";

/// A text with what stands in braces replaced.
pub fn fill(template: &str, mut word: impl FnMut(&str) -> String) -> String {
    let mut parts = template.split('{');
    let mut text = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (name, rest) = part.split_once('}').expect("a brace that closes");
        text = text + &word(name) + rest;
    }
    text
}

/// A text of a rule: what the scene has chosen, or else any alternative.
fn write(rule: &str, scene: &HashMap<&str, String>, rng: &mut StdRng) -> String {
    if let Some(word) = scene.get(rule) {
        return word.clone();
    }
    let alternative = RULES[rule].choose(rng).expect("a rule has alternatives");
    fill(alternative, |name| write(name, scene, rng))
}

/// What a paragraph keeps coming back to: two people, a pet, a place, things, and n + m = s.
fn scene(rng: &mut StdRng) -> HashMap<&'static str, String> {
    let (he, she) = (["he", "He", "him", "his"], ["she", "She", "her", "her"]);
    let pronouns = if rng.random() { he } else { she };
    let (n, m) = (rng.random_range(2..10), rng.random_range(2..10));
    let mut any = |rule: &str| write(rule, &HashMap::new(), rng);
    let mut scene: HashMap<_, _> = [
        ("A", any(pronouns[0])),
        ("pet", any("animal")),
        ("place", any("where")),
        ("thing", any("things")),
        ("other", any("things")),
        ("function", any("functions")),
        ("variable", any("variables")),
    ]
    .into();
    let others = std::iter::repeat_with(|| any("person"));
    let b = others.into_iter().find(|b| *b != scene["A"]).expect("somebody else");
    scene.insert("B", b);
    scene.extend(he.into_iter().zip(pronouns.map(String::from)));
    let words: Vec<_> = NUMBERS.split_whitespace().collect();
    for (word, digit, n) in [("N", "n", n), ("M", "m", m), ("S", "s", n + m)] {
        scene.extend([(word, words[n].to_string()), (digit, n.to_string())]);
    }
    let digits: Vec<_> = (1..=n + m).map(|n| n.to_string()).collect();
    scene.extend([("up", words[1..=n + m].join(", ")), ("digits", digits.join(" "))]);
    scene
}

fn paragraph(rng: &mut StdRng) -> String {
    let scene = scene(rng);
    write("text", &scene, rng).replace("\\n", "\n")
}

/// A byte-level BPE: every text has tokens, BOS in front.
pub fn tokenizer(vocab: usize) -> tokenizers::Result<Tokenizer> {
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let byte_level = ByteLevel::default().add_prefix_space(false);
    let bos = TemplateProcessing::builder()
        .try_single("<bos> $A")?
        .try_pair("<bos> $A $B:1")?
        .special_tokens(vec![("<bos>", 2)])
        .build()?;
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    let mut rng = Seed::Tokenizer.rng();
    let text: Vec<_> = (0..PARAGRAPHS).map(|_| paragraph(&mut rng)).collect();
    tokenizer.train(&mut TrainerWrapper::from(trainer), text.into_iter())?;
    tokenizer.with_post_processor(Some(bos));
    Ok(tokenizer)
}

/// Rows of `SEQ + 1` tokens: whole paragraphs, each between BOS and EOS, until the row is full.
pub struct Rows<'a> {
    tokenizer: &'a Tokenizer,
    rng: StdRng,
}

impl<'a> Rows<'a> {
    pub fn new(tokenizer: &'a Tokenizer, seed: Seed) -> Self {
        Self { tokenizer, rng: seed.rng() }
    }

    fn row(&mut self) -> Result<Vec<u32>> {
        let mut ids = vec![];
        while ids.len() <= SEQ {
            let text = paragraph(&mut self.rng);
            ids.extend(self.tokenizer.encode(text, true).map_err(Error::msg)?.get_ids());
            ids.push(EOS);
        }
        ids.truncate(SEQ + 1);
        Ok(ids)
    }

    /// `[BATCH, SEQ + 1]`.
    pub fn batch(&mut self) -> Result<Tensor> {
        let rows: Vec<_> = (0..BATCH).map(|_| self.row()).collect::<Result<_>>()?;
        Ok(Tensor::new(rows, &Device::Cpu)?)
    }
}
