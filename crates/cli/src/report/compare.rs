//! A comparison as aligned text for a terminal.

use super::align::{activation_line, align, remarks};
use super::compared::{
    Part, Row, cosine, distance, dump_line, full_name, norm_ratio, points_line, ranges, ratio,
    reference_line, sight, weight,
};
use super::drift::emphasised;
use super::escape::plain;
use super::figures;
use super::number::{grouped, measured, percent, short};
use super::page::shown;
use super::paint::{Paint, Tone};
use super::verdict::NOISE_FLOOR;
use gemma_mlp_drift::compare::{
    ActivationReading, BelowFloor, ComparedLogits, ComparedPoint, Comparison, Distance, Reference,
};
use std::fmt::Write;

/// The table that `gemma-mlp compare` prints.
pub fn compare_table(comparison: &Comparison, paint: Paint) -> String {
    let mut text = header(comparison);
    let tone = if comparison.agrees { Tone::Good } else { Tone::Bad };
    let _ = writeln!(text, "\n{}", paint.paint(tone, plain(&comparison.verdict)));
    let mut section = |part: String| {
        if !part.is_empty() {
            text.extend(["\n", &part]);
        }
    };
    Part::ALL.iter().for_each(|part| section(part_rows(comparison, *part, paint)));
    section(ends(comparison, paint));
    section(guilty_layer(comparison, paint));
    section(glimpses(comparison, paint));
    section(activations(&comparison.activations, paint));
    if let Some(logits) = &comparison.logits {
        section(logit_rows(logits, paint));
        section(flip_rows(logits, paint));
    }
    section(causes(comparison, paint));
    section(below_floor(&comparison.below_floor, paint));
    section(comparison.untold.iter().map(|s| plain(&format!("not told: {s}")) + "\n").collect());
    text
}

/// What was compared with what, on what, and what was aligned for it.
fn header(comparison: &Comparison) -> String {
    let Comparison { theirs, floor, .. } = comparison;
    let mut text = String::new();
    let mut line = |s: String| text.extend([&plain(&s), "\n"]);
    line(format!("theirs: {}", dump_line(theirs)));
    line(format!("ours:   {}", reference_line(&comparison.ours)));
    if let Reference::Model(checkpoint) = &comparison.ours {
        line(activation_line(&checkpoint.activation));
    }
    line(format!("points: {}", points_line(theirs)));
    let texts = match theirs.texts {
        1 => String::new(),
        n => format!(" of {n} texts"),
    };
    line(format!("input:  {} tokens{texts}", grouped(theirs.tokens as u64)));
    line(match floor.tokens {
        // Of two dumps nothing measures it.
        0 => format!("floor:  {}", floor.description),
        tokens => format!(
            "floor:  {}: the noise floor, {NOISE_FLOOR}, on {} tokens",
            floor.description,
            grouped(tokens as u64)
        ),
    });
    if !floor.references.is_empty() {
        line(format!("        widened by {}", floor.references.join(", ")));
    }
    line(format!("        up to {} times the floor counts as rounding", comparison.threshold));
    text + &remarks(&comparison.remarks)
}

/// As many layers as are all shown.
const FEW: usize = 12;
/// How many of the farthest are shown of more.
const WORST: usize = 3;

/// Which layers to show: all of a few, and of many the first and the last, the first that differs with its neighbours,
/// and those of the largest ratio.
fn chosen(rows: &[Row], first: Option<usize>) -> Vec<bool> {
    let mut chosen = vec![rows.len() <= FEW; rows.len()];
    let mut by_ratio: Vec<usize> = (0..rows.len()).collect();
    by_ratio.sort_by(|&a, &b| weight(rows[b].point).total_cmp(&weight(rows[a].point)));
    by_ratio.iter().take(WORST).for_each(|&i| chosen[i] = true);
    let ends = [0, rows.len().saturating_sub(1)];
    let guilty = first.and_then(|layer| rows.iter().position(|row| row.layer == layer));
    let around = guilty.into_iter().flat_map(|i| [i.saturating_sub(1), i, i + 1]);
    for i in ends.into_iter().chain(around) {
        if let Some(chosen) = chosen.get_mut(i) {
            *chosen = true;
        }
    }
    chosen
}

/// A part of every layer, of each the point that stands for it.
fn part_rows(comparison: &Comparison, part: Part, paint: Paint) -> String {
    let rows = part.rows(comparison);
    if rows.is_empty() {
        return String::new();
    }
    let first = comparison.first.as_ref().and_then(|first| first.layer);
    let mut lines = vec![];
    let mut hidden = 0;
    for (row, is_chosen) in rows.iter().zip(chosen(&rows, first)) {
        if !is_chosen {
            hidden += 1;
            if lines.last().is_some_and(|line: &Line| line.point.is_some()) {
                lines.push(Line { head: vec!["…".into()], point: None });
            }
            continue;
        }
        let mut head = vec![row.layer.to_string()];
        if part != Part::Residual {
            head.push(plain(part.short(&row.point.point)));
        }
        lines.push(Line { head, point: Some(row.point) });
    }
    let heads: &[&str] = if part == Part::Residual { &["layer"] } else { &["layer", "point"] };
    let mut text = points_table(part.name(), heads, &lines, paint);
    let differs = |row: &&Row| {
        let layer = comparison.layers.iter().find(|layer| layer.index == row.layer);
        layer.is_some_and(|layer| part.points(layer).any(|point| point.differs))
    };
    let differing: Vec<usize> = rows.iter().filter(differs).map(|row| row.layer).collect();
    let _ = match (differing.len(), rows.len()) {
        (0, 1) => write!(text, "{}: the layer agrees", part.name()),
        (0, all) => write!(text, "{}: all {all} layers agree", part.name()),
        (n, all) => write!(
            text,
            "{}: {} of {all} layers agree; beyond rounding: {}",
            part.name(),
            all - n,
            ranges(&differing)
        ),
    };
    let _ = match hidden {
        0 => writeln!(text),
        n => writeln!(text, " ({n} are not shown here; --csv and --html have all)"),
    };
    text
}

/// The first layer that differs, point by point.
fn guilty_layer(comparison: &Comparison, paint: Paint) -> String {
    let guilty = comparison.first.as_ref().and_then(|first| first.layer);
    let Some(layer) = comparison.layers.iter().find(|layer| Some(layer.index) == guilty) else {
        return String::new();
    };
    let mut lines = vec![];
    for point in layer.points.iter().filter(|point| distance(point).is_some()) {
        lines.push(Line { head: vec![plain(&point.point)], point: Some(point) });
    }
    if lines.len() < 2 {
        return String::new();
    }
    let mut text =
        points_table(&format!("layer {}", layer.index), &["point by point"], &lines, paint);
    let first = comparison.first.as_ref().filter(|first| !first.from.is_empty());
    if let Some(first) = first {
        let name = full_name(first.layer, &first.point);
        let from = first.from.join(", ");
        text += &plain(&format!("{name} was computed again from their own {from}"));
        text.push('\n');
    }
    text
}

/// What lies in front of the first layer and behind the last.
fn ends(comparison: &Comparison, paint: Paint) -> String {
    let mut lines = vec![];
    for point in comparison.ends.iter().filter(|point| distance(point).is_some()) {
        lines.push(Line { head: vec![plain(&point.point)], point: Some(point) });
    }
    if lines.is_empty() {
        return String::new();
    }
    points_table("outside of the layers", &["point"], &lines, paint)
}

/// A line of a table of points; one without a point stands for what is left out.
struct Line<'a> {
    head: Vec<String>,
    point: Option<&'a ComparedPoint>,
}

/// Points with their distances: on the same input, then accumulated, whichever there is.
fn points_table(title: &str, heads: &[&str], lines: &[Line], paint: Paint) -> String {
    let any = |of: fn(&ComparedPoint) -> Option<Distance>| {
        lines.iter().filter_map(|line| line.point).any(|point| of(point).is_some())
    };
    let (same, all) = (any(|point| point.same_input), any(|point| point.accumulated));
    let mut header: Vec<String> = heads.iter().map(|head| head.to_string()).collect();
    header.extend(["rel L2", "cosine", "norm", "floor", "ratio"].map(String::from));
    if same && all {
        header.extend(["rel L2", "floor", "ratio"].map(String::from));
    }
    header.push(String::new());
    let mut rows = vec![header];
    for Line { head, point } in lines {
        let mut row = head.clone();
        if let Some(point) = point {
            let (own, total) = match same {
                true => (point.same_input, point.accumulated),
                false => (point.accumulated, None),
            };
            row.extend(own.map_or(Default::default(), whole));
            if same && all {
                row.extend(total.map_or(Default::default(), brief));
            }
            row.push(mark(point).into());
        }
        rows.push(row);
    }
    let table = align(rows, heads.len());
    let tone = |i: usize| match lines.get(i).and_then(|line| line.point) {
        Some(point) if point.differs => Some(Tone::Bad),
        Some(point) if point.allowed.is_some() => Some(Tone::Notable),
        None => Some(Tone::Faint),
        _ => None,
    };
    let mut text = String::new();
    for (i, line) in table.lines().enumerate() {
        match i {
            0 => {
                let titles =
                    if same { ["on the same input", "accumulated"] } else { ["accumulated", ""] };
                let above = above(title, line, &titles);
                let _ = writeln!(text, "{}", paint.paint(Tone::Strong, above));
                let _ = writeln!(text, "{}", paint.paint(Tone::Strong, line));
            }
            i => match tone(i - 1) {
                Some(tone) => {
                    let _ = writeln!(text, "{}", paint.paint(tone, line));
                }
                None => text.extend([line, "\n"]),
            },
        }
    }
    text
}

/// The table's title and, each above the `rel L2` that it begins with, those of groups of columns: in a line, or in two
/// where the first is too long.
fn above(title: &str, header: &str, groups: &[&str]) -> String {
    let mut line = String::new();
    for ((at, _), group) in header.match_indices("rel L2").zip(groups) {
        let at = header[..at].chars().count();
        line += &" ".repeat(at.saturating_sub(line.chars().count()));
        line += group;
    }
    let width = title.chars().count();
    let free = line.chars().take_while(|&c| c == ' ').count();
    match width + 2 <= free {
        true => title.chars().chain(line.chars().skip(width)).collect(),
        false => format!("{title}\n{line}"),
    }
}

fn whole(d: Distance) -> [String; 5] {
    [
        short(d.rel_l2),
        cosine(d.cosine),
        norm_ratio(d.norm_ratio),
        measured(d.floor, short),
        ratio(&d, short),
    ]
}

fn brief(d: Distance) -> [String; 3] {
    [short(d.rel_l2), measured(d.floor, short), ratio(&d, short)]
}

fn mark(point: &ComparedPoint) -> &'static str {
    match point {
        point if point.differs => "differs",
        point if point.allowed.is_some() => "allowed",
        _ => "",
    }
}

/// Points of which a few numbers were printed.
fn glimpses(comparison: &Comparison, paint: Paint) -> String {
    const MOST: usize = 12;
    let ends = comparison.ends.iter().map(|point| (None, point));
    let layers = comparison.layers.iter();
    let layers = layers.flat_map(|layer| layer.points.iter().map(|p| (Some(layer.index), p)));
    let mut known: Vec<_> = layers
        .chain(ends)
        .filter_map(|(layer, point)| Some((layer, point, point.glimpse?)))
        .collect();
    if known.is_empty() {
        return String::new();
    }
    let all = known.len();
    if all > MOST {
        // The first that differ, or else the farthest.
        known.sort_by_key(|(_, point, _)| !point.differs);
        if !known[0].1.differs {
            known.sort_by(|a, b| b.2.total_cmp(&a.2));
        }
        known.truncate(MOST);
    }
    let mut rows = vec![["a few numbers of each", "largest difference", ""].map(String::from)];
    for (layer, point, difference) in &known {
        let name = plain(&full_name(*layer, &point.point));
        rows.push([name, short(*difference), mark(point).into()]);
    }
    let mut text = emphasised(&align(rows, 1), 1, paint);
    text += "the difference of a printed number is over the root mean square of ours";
    let _ = match all - known.len() {
        0 => writeln!(text),
        n => writeln!(text, "; {n} points are not shown here"),
    };
    text
}

/// Which activation the numbers are of.
fn activations(readings: &[ActivationReading], paint: Paint) -> String {
    if readings.is_empty() {
        return String::new();
    }
    let header = [
        "activation, read off gate",
        "fits best",
        "same bits",
        "rel L2",
        "next best",
        "same bits",
        "",
    ];
    let mut rows = vec![header.map(String::from)];
    for alike in readings.chunk_by(|a, b| (&a.best, a.differs) == (&b.best, b.differs)) {
        let layers: Vec<_> = alike.iter().map(|reading| reading.layer).collect();
        let name = if layers.len() == 1 { "layer" } else { "layers" };
        // The worst fit of them all.
        let least = alike.iter().min_by(|a, b| same_bits(a).total_cmp(&same_bits(b)));
        let Some(reading) = least else { continue };
        let fit = |i: usize| reading.tried.get(i);
        let bits = |i| fit(i).map_or(String::new(), |fit| percent(fit.same_bits));
        rows.push([
            format!("{name} {}", ranges(&layers)),
            match &reading.activation {
                Some(_) => plain(&reading.best),
                None => format!("none ({})", plain(&reading.best)),
            },
            bits(0),
            fit(0).map_or(String::new(), |fit| short(fit.rel_l2)),
            fit(1).map_or(String::new(), |fit| plain(&fit.side)),
            bits(1),
            if reading.differs { "differs" } else { "" }.into(),
        ]);
    }
    emphasised(&align(rows, 2), 1, paint)
}

fn same_bits(reading: &ActivationReading) -> f64 {
    reading.tried.first().map_or(0.0, |fit| fit.same_bits)
}

/// The figures of the logits beside the floor's, and how many times those they are.
fn logit_rows(logits: &ComparedLogits, paint: Paint) -> String {
    let header = ["logits", "difference", "floor", "ratio"].map(String::from);
    let figures = figures::rows(&logits.metrics, logits.floor.as_ref());
    let figures = figures.into_iter().map(|(_, cells)| cells);
    let mut text = emphasised(&align(std::iter::once(header).chain(figures), 1), 1, paint);
    let positions = grouped(logits.positions as u64);
    let words = grouped(logits.words as u64);
    let _ = match logits.whole_vocabulary {
        true => {
            writeln!(text, "at {positions} positions, over all {words} tokens; a is ours, b theirs")
        }
        false => writeln!(
            text,
            "at {positions} positions, over the {words} likeliest tokens that both sides have; a is ours, b theirs"
        ),
    };
    text
}

/// Where the likeliest token is another.
fn flip_rows(logits: &ComparedLogits, paint: Paint) -> String {
    const MOST: usize = 8;
    if logits.flip_count == 0 {
        return String::new();
    }
    let mut rows = vec![
        ["likeliest token", "position", "gap, ours", "gap, theirs", "KL, nats", ""]
            .map(String::from),
    ];
    for flip in logits.flips.iter().take(MOST) {
        let [ours, theirs] = flip.token.likeliest.each_ref().map(|token| plain(&shown(token)));
        let [a, b] = flip.margin_ulps.map(|gap| measured(gap, short));
        rows.push([
            format!("{ours} → {theirs}"),
            flip.token.position.to_string(),
            a,
            b,
            measured(flip.token.kl_nats, short),
            if flip.tie { "tie" } else { "" }.into(),
        ]);
    }
    let mut text = emphasised(&align(rows, 1), 1, paint);
    let shown = logits.flips.len().min(MOST);
    let ties = logits.flips.iter().filter(|flip| flip.tie).count();
    let among = match logits.flips.len() == logits.flip_count {
        true => "of them".to_string(),
        false => format!("of the {} most decided", logits.flips.len()),
    };
    let ties = match ties {
        0 => format!("none {among} a tie, which rounding may decide"),
        1 => format!("1 {among} a tie, which rounding may decide"),
        n => format!("{n} {among} ties, which rounding may decide"),
    };
    let _ = writeln!(
        text,
        "{} of {} likeliest tokens are others, {ties}; a gap is between the two likeliest, in units of the last \
         place{}",
        grouped(logits.flip_count as u64),
        grouped(logits.positions as u64),
        if shown < logits.flip_count { format!("; {shown} are shown") } else { String::new() },
    );
    text
}

/// The mistakes that explain what differs, and those that nearly do.
fn causes(comparison: &Comparison, paint: Paint) -> String {
    const MOST: usize = 6;
    let mut text = String::new();
    for cause in &comparison.causes {
        let at = full_name(cause.layer, &cause.point);
        let next = match (&cause.runner_up_name, cause.runner_up) {
            (Some(name), Some(cosine)) => format!("; the next best is {name}, at {cosine:.3}"),
            _ => String::new(),
        };
        let line = match cause.point.as_str() {
            // They show it as it is.
            "tokens" => format!("cause: {} ({})", cause.name, cause.source),
            _ => format!(
                "cause: {} ({}): a cosine of {:.3} with what differs at {at}, and {:.2} times its size{next}",
                cause.name, cause.source, cause.cosine, cause.size
            ),
        };
        let _ = writeln!(text, "{}", paint.paint(Tone::Notable, plain(&line)));
    }
    if comparison.candidates.is_empty() {
        return text;
    }
    if comparison.causes.is_empty() {
        text += "cause: none of the known mistakes explains it; these come nearest\n";
    }
    let mut rows = vec![
        ["mistakes, tried one at a time", "cosine", "size", "left", "over floor"].map(String::from),
    ];
    for candidate in comparison.candidates.iter().take(MOST) {
        let [cosine, size] =
            [candidate.cosine, candidate.size].map(|x| measured(x, |x| format!("{x:.3}")));
        let [left, ratio] = [measured(candidate.left, percent), measured(candidate.ratio, short)];
        rows.push([plain(&candidate.name), cosine, size, left, ratio]);
    }
    text += &emphasised(&align(rows, 1), 1, paint);
    if comparison.candidates.len() > MOST {
        let _ = writeln!(text, "{} more were tried", comparison.candidates.len() - MOST);
    }
    text
}

/// What can be said of mistakes that rounding hides.
fn below_floor(all: &[BelowFloor], paint: Paint) -> String {
    const MOST: usize = 6;
    if all.is_empty() {
        return String::new();
    }
    let mut rows = vec![
        ["mistakes below the floor", "effect over floor", "of it in theirs", ""].map(String::from),
    ];
    for below in all.iter().take(MOST) {
        let size = format!("{:.2} ± {:.2}", below.size, below.error);
        rows.push([plain(&below.name), short(below.ratio), size, sight(below.sight).into()]);
    }
    let mut text = emphasised(&align(rows, 1), 1, paint);
    if all.len() > MOST {
        let _ =
            writeln!(text, "{} more have less effect; --csv and --html have all", all.len() - MOST);
    }
    text
}
