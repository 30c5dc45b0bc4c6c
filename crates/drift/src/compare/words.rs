//! What a comparison found, in sentences.

use super::naming::Tried;
use super::point::{Place, Point};
use super::result::{ActivationReading, BelowFloor, Cause, ComparedLogits, First};
use std::fmt::Write;

/// A point as one says it.
pub(super) fn name(point: Point) -> String {
    let (layer, place) = match point {
        Point::Embedding => return "the embedding".into(),
        Point::Normed => return "the final norm".into(),
        Point::Projected => return "the last projection".into(),
        Point::Logits => return "the head".into(),
        Point::Layer(layer, place) => (layer, place),
    };
    let what = match place {
        Place::AttnInput => "norm before attention",
        Place::Queries => "queries",
        Place::Keys => "keys",
        Place::Values => "values",
        Place::AttnOutput => "attention",
        Place::AttnNormed => "norm after attention",
        Place::Attended => "sum after attention",
        Place::MlpInput => "norm before the MLP",
        Place::Gate => "gate projection",
        Place::Up => "up projection",
        Place::Activated => "activation",
        Place::Product => "product of activation and up",
        Place::MlpOutput => "MLP",
        Place::Router => "router of experts",
        Place::Routing => "choice of experts",
        Place::ExpertsOutput => "experts",
        Place::MlpNormed => "norm after the MLP",
        Place::PerLayerGate => "gate of its own input",
        Place::PerLayerProduct => "product of the activation and its own input",
        Place::PerLayerOutput => "norm after its own input",
        Place::Hidden => return format!("layer {layer}"),
    };
    format!("layer {layer}'s {what}")
}

/// A ratio as one says it.
pub(super) fn ratio(ratio: f64) -> String {
    match ratio {
        _ if !ratio.is_finite() => "beyond all measure".into(),
        ..10.0 => format!("{ratio:.1} times"),
        ..10_000.0 => format!("{ratio:.0} times"),
        _ => format!("{ratio:.0e} times"),
    }
}

/// What a verdict is made of.
pub(super) struct Findings<'a> {
    pub(super) first: Option<(&'a First, Point)>,
    /// Whether anything was compared before the first that differs.
    pub(super) agrees_before: bool,
    /// The largest ratio of what agrees.
    pub(super) largest: f64,
    pub(super) logits: Option<&'a ComparedLogits>,
    pub(super) causes: &'a [Cause],
    /// The best of what was tried where nothing is claimed.
    pub(super) nearest: Option<&'a Tried>,
    /// What the numbers of the first are, where they were read one by one.
    pub(super) reading: Option<&'a ActivationReading>,
    /// Mistakes that show below the floor.
    pub(super) suspects: Vec<&'a BelowFloor>,
    /// What stands before everything, as that the tokens differ.
    pub(super) before: Vec<String>,
}

impl Findings<'_> {
    /// The verdict, in a sentence or a few.
    pub(super) fn verdict(&self) -> String {
        let mut text = String::new();
        for sentence in &self.before {
            let _ = write!(text, "{sentence} ");
        }
        match self.first {
            None => text += &self.agreement(),
            Some((first, point)) => {
                text += &self.place(first, point);
                text += &self.cause();
            }
        }
        text
    }

    fn agreement(&self) -> String {
        let mut parts = vec![];
        if self.agrees_before {
            parts.push(format!("nothing is above {:.1} times its floor", self.largest));
        }
        if let Some(logits) = self.logits {
            let floor = logits.floor.map(|floor| format!(", floor {:.1e}", floor.kl_mean_nats));
            let kl = logits.metrics.kl_mean_nats;
            parts.push(format!("KL {kl:.1e} nats{}", floor.unwrap_or_default()));
        }
        match parts.is_empty() {
            true => "nothing could be compared".into(),
            false => format!("agrees: {}{}", parts.join("; "), self.suspicion()),
        }
    }

    /// What shows below the floor.
    fn suspicion(&self) -> String {
        let names = self.suspects.iter().map(|below| {
            format!("{} ({:.2} ± {:.2} of its effect)", below.name, below.size, below.error)
        });
        let names: Vec<_> = names.collect();
        match names.is_empty() {
            true => String::new(),
            false => format!(". Below the floor it looks as if it had {}", names.join(" or ")),
        }
    }

    fn place(&self, first: &First, point: Point) -> String {
        if let Some(reading) = self.reading {
            return self.read(reading, point);
        }
        let logits_alone = point == Point::Logits && first.from.is_empty();
        let mut text = match (logits_alone, self.logits) {
            (true, Some(logits)) => format!(
                "the logits differ by more than rounding: KL {:.1e} nats, {} the floor",
                logits.metrics.kl_mean_nats,
                ratio(logits.ratio)
            ),
            _ => {
                let input = if first.from.is_empty() { "" } else { " on its own input" };
                format!(
                    "{} is the first that differs by more than rounding: {} its floor{input}",
                    name(point),
                    ratio(first.ratio)
                )
            }
        };
        if self.agrees_before {
            text += "; everything before agrees";
        }
        text + "."
    }

    /// Of numbers that were read one by one, below the floor or above it.
    fn read(&self, reading: &ActivationReading, point: Point) -> String {
        let best = reading.tried.first().map_or(0.0, |fit| 100.0 * fit.same_bits);
        let mut text = format!(
            "{} is the first that differs, number by number: it is {} ({best:.1} % of its bits)",
            name(point),
            reading.best
        );
        if self.agrees_before {
            text += "; everything before agrees";
        }
        text + "."
    }

    fn cause(&self) -> String {
        let mut text = String::new();
        for (i, cause) in self.causes.iter().enumerate() {
            let start = match i {
                0 => "It differs as".to_string(),
                _ => format!("Without that, {} differs as", place_of(cause)),
            };
            let next = cause.runner_up.map_or(String::new(), |next| format!("; next {next:.2}"));
            let _ =
                write!(text, " {start} {} does (cosine {:.3}{next}).", cause.name, cause.cosine);
        }
        match self.nearest {
            Some(nearest) if self.causes.is_empty() => {
                let _ = write!(
                    text,
                    " It is none of the known mistakes; the nearest is {} (cosine {:.2}).",
                    nearest.difference.name, nearest.cosine
                );
            }
            None if self.causes.is_empty() => text += " None of the known mistakes acts there.",
            _ => {}
        }
        text
    }
}

fn place_of(cause: &Cause) -> String {
    match cause.layer {
        Some(layer) => format!("layer {layer}'s {}", cause.point),
        None => cause.point.clone(),
    }
}
