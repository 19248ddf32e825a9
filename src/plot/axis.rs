//! Where a number lies on an axis, and where the axis is labelled.

use super::text::{scientific, trimmed};

/// How numbers are spread along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Equal differences take equal space.
    Linear,
    /// Equal ratios take equal space; numbers must be positive.
    Log,
}

/// An axis with its label.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What is measured, with its unit.
    pub label: String,
    /// How numbers are spread.
    pub scale: Scale,
}

impl Axis {
    /// A logarithmic axis.
    pub fn log(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            scale: Scale::Log,
        }
    }

    /// A linear axis.
    pub fn linear(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            scale: Scale::Linear,
        }
    }
}

/// A labelled place on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

/// The part of an axis that is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    scale: Scale,
    /// Ends in the coordinate that takes equal space: the number or its logarithm.
    low: f64,
    high: f64,
}

impl Range {
    /// The range that shows all `values` with a margin; `None` if there is none.
    pub fn around(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Range> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            let place = place(scale, value);
            low = low.min(place);
            high = high.max(place);
        }
        if low > high {
            return None;
        }
        let flat = if scale == Scale::Log {
            0.5
        } else {
            0.5 * low.abs().max(1e-9)
        };
        let margin = if high > low {
            0.05 * (high - low)
        } else {
            flat
        };
        Some(Range {
            scale,
            low: low - margin,
            high: high + margin,
        })
    }

    /// Where `value` lies: 0 at the low end, 1 at the high end.
    pub fn share(&self, value: f64) -> f64 {
        (place(self.scale, value) - self.low) / (self.high - self.low)
    }

    /// Labelled ticks, about `wanted` of them, and unlabelled minor ones.
    pub fn ticks(&self, wanted: usize) -> (Vec<Tick>, Vec<f64>) {
        match self.scale {
            Scale::Linear => self.linear_ticks(wanted),
            Scale::Log => self.log_ticks(wanted),
        }
    }

    fn linear_ticks(&self, wanted: usize) -> (Vec<Tick>, Vec<f64>) {
        let step = nice_step((self.high - self.low) / wanted as f64);
        let values = multiples(step, self.low, self.high);
        (plain(&values, step), Vec::new())
    }

    fn log_ticks(&self, wanted: usize) -> (Vec<Tick>, Vec<f64>) {
        let (low, high) = (self.low.exp(), self.high.exp());
        let decades = (self.high - self.low) / std::f64::consts::LN_10;
        if decades < 0.5 {
            // A fraction of a decade: round numbers as on a linear axis, at their places on this one.
            let step = nice_step((high - low) / wanted as f64);
            let values = multiples(step, low, high);
            return (plain(&values, step), Vec::new());
        }
        let first = (self.low / std::f64::consts::LN_10).floor() as i32;
        let last = (self.high / std::f64::consts::LN_10).ceil() as i32;
        let at = |mantissas: &[f64], every: i32| -> Vec<(f64, i32)> {
            (first..=last)
                .filter(|e| e.rem_euclid(every) == 0)
                .flat_map(|e| mantissas.iter().map(move |m| (*m, e)))
                .filter(|(m, e)| (low..=high).contains(&(m * 10f64.powi(*e))))
                .collect()
        };
        const ALL: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        const DENSITIES: [&[f64]; 5] = [
            ALL,
            &[1.0, 2.0, 3.0, 5.0, 7.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 3.0],
            &[1.0],
        ];
        let within_decades = DENSITIES.iter().map(|mantissas| at(mantissas, 1));
        let over_decades = (2..).map(|every| at(&[1.0], every));
        let labelled = within_decades
            .chain(over_decades)
            .find(|ticks| ticks.len() <= wanted)
            .expect("ever wider steps leave at most one tick");
        // Few decades around one read best as plain numbers, anything else as powers of ten.
        let readable = labelled.iter().all(|(_, e)| (-3..4).contains(e));
        let label = |m: f64, e: i32| {
            if readable {
                trimmed(m * 10f64.powi(e), (-e).max(0) as usize)
            } else {
                scientific(m, e)
            }
        };
        let ticks = labelled
            .iter()
            .map(|&(m, e)| Tick {
                value: m * 10f64.powi(e),
                label: label(m, e),
            })
            .collect();
        let minor = if decades < 9.0 {
            at(ALL, 1)
        } else {
            at(&[1.0], 1)
        };
        (
            ticks,
            minor.into_iter().map(|(m, e)| m * 10f64.powi(e)).collect(),
        )
    }
}

fn place(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Log => value.ln(),
    }
}

/// The least of 1, 2, 2.5, 5 times a power of ten that is about `rough` or more.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .find(|s| s * power >= 0.8 * rough);
    step.unwrap_or(10.0) * power
}

fn multiples(step: f64, low: f64, high: f64) -> Vec<f64> {
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Labels with as many decimals as the step needs; very large or small numbers share a power of ten.
fn plain(values: &[f64], step: f64) -> Vec<Tick> {
    let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let exponent = if largest > 0.0 {
        largest.log10().floor() as i32
    } else {
        0
    };
    let far = !(-3..5).contains(&exponent);
    let decimals = |step: f64| {
        (0..8)
            .find(|d| (step * 10f64.powi(*d)).fract().abs() < 1e-6)
            .unwrap_or(8) as usize
    };
    let label = |value: f64| {
        if far && value != 0.0 {
            let unit = 10f64.powi(exponent);
            format!(
                "{}\u{d7}10{}",
                trimmed(value / unit, 2),
                super::text::superscript(exponent)
            )
        } else {
            let decimals = decimals(step);
            format!("{:.decimals$}", value + 0.0).replace('-', "\u{2212}")
        }
    };
    values
        .iter()
        .map(|&value| Tick {
            value,
            label: label(value),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, low: f64, high: f64) -> Vec<String> {
        let range = Range::around(scale, [low, high].into_iter()).unwrap();
        range
            .ticks(6)
            .0
            .into_iter()
            .map(|tick| tick.label)
            .collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(Scale::Linear, 0.0, 1.0),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(Scale::Linear, 0.0, 50_000.0),
            ["0", "10000", "20000", "30000", "40000", "50000"]
        );
        assert_eq!(
            labels(Scale::Log, 1.0, 64.0),
            ["1", "2", "5", "10", "20", "50"]
        );
        assert_eq!(labels(Scale::Log, 3.0, 7.0), ["3", "4", "5", "6", "7"]);
        assert_eq!(
            labels(Scale::Log, 2.0, 4.0),
            ["2.0", "2.5", "3.0", "3.5", "4.0"]
        );
        assert_eq!(
            labels(Scale::Log, 1e5, 1e9),
            [
                "10\u{2075}",
                "10\u{2076}",
                "10\u{2077}",
                "10\u{2078}",
                "10\u{2079}"
            ]
        );
        assert!(labels(Scale::Log, 1e5, 1e22).len() <= 7);
    }

    #[test]
    fn shares_run_from_zero_to_one_and_flat_data_has_room() {
        let range = Range::around(Scale::Log, [1.0, 100.0].into_iter()).unwrap();
        assert!((range.share(10.0) - 0.5).abs() < 1e-12);
        let flat = Range::around(Scale::Linear, [3.0].into_iter()).unwrap();
        assert!((flat.share(3.0) - 0.5).abs() < 1e-12);
        assert!(Range::around(Scale::Linear, std::iter::empty()).is_none());
    }
}
