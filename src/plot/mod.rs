//! Pictures of measurements and laws: PNG and SVG from plain data.
//!
//! A [`Chart`] is axes, series and notes; [`Chart::save`] lays it out (ticks, legend and margins are
//! measured with the embedded font, so nothing is clipped or overlaps) and writes the format that the file name
//! asks for. Colours are those of Okabe and Ito (2008), distinct for every kind of colour vision, and every
//! series has its own mark as well. PNGs are drawn at three times their size and averaged down.
//!
//! The module knows no model, law or file of results, except `study`, which draws a scaling report, and
//! `together`, which draws several measures or families in one picture.

mod axis;
mod canvas;
mod draw;
pub mod study;
mod text;
pub mod together;

use std::io::Write as _;
use std::path::{Path, PathBuf};

pub use axis::{Axis, Scale};

/// Width of a picture in pixels.
const WIDTH: u32 = 1600;
/// Height of a picture in pixels.
const HEIGHT: u32 = 1100;

/// One measured point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Horizontal coordinate.
    pub x: f64,
    /// Vertical coordinate.
    pub y: f64,
    /// Lower and upper end of an error bar.
    pub error: Option<[f64; 2]>,
    /// True if the fit has not seen the point: drawn hollow.
    pub held_out: bool,
}

impl Mark {
    /// A point without error bar that the fit has seen.
    pub fn at(x: f64, y: f64) -> Self {
        Self {
            x,
            y,
            error: None,
            held_out: false,
        }
    }
}

/// Points, a line and a band of one colour.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Entry in the legend; none if empty.
    pub label: String,
    /// Measured points.
    pub points: Vec<Mark>,
    /// A line through these coordinates, in order of x.
    pub line: Vec<(f64, f64)>,
    /// True draws the line dashed.
    pub dashed: bool,
    /// True draws everything in black, for what belongs to no other series, e.g. optima.
    pub neutral: bool,
    /// A band: x, lower and upper end, in order of x.
    pub band: Vec<(f64, f64, f64)>,
}

/// A picture with one pair of axes. In every text `^{..}` is set raised.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Title, above everything; none if empty.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// The series, drawn in order; colours and marks follow the order.
    pub series: Vec<Series>,
    /// Name of the bands in the legend, e.g. `95 % interval`.
    pub band_label: String,
    /// A horizontal line at this height, e.g. chance or zero, with its name in the legend (none if empty).
    pub reference: Option<(f64, String)>,
    /// Sentences below the picture: formula, n, k, error.
    pub notes: Vec<String>,
}

impl Chart {
    /// An empty chart.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self {
            title: title.to_owned(),
            x,
            y,
            series: Vec::new(),
            band_label: "95 % interval".to_owned(),
            reference: None,
            notes: Vec::new(),
        }
    }

    /// Draws the chart into `path`: PNG or SVG, 1600 x 1100 pixels, by the extension of the name.
    ///
    /// # Errors
    /// Another extension, nothing to draw, coordinates that have no place on a logarithmic axis, and files
    /// that cannot be written. The file is complete or untouched.
    pub fn save(&self, path: &Path) -> Result<(), PlotError> {
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        let bytes = match extension {
            "svg" => {
                let mut canvas = canvas::Svg::new(WIDTH, HEIGHT);
                draw::draw(self, &mut canvas, f64::from(WIDTH), f64::from(HEIGHT))?;
                canvas.finish().into_bytes()
            }
            "png" => {
                let mut canvas = canvas::Raster::new(WIDTH, HEIGHT);
                draw::draw(self, &mut canvas, f64::from(WIDTH), f64::from(HEIGHT))?;
                canvas.finish(path)?
            }
            _ => {
                return Err(PlotError::Extension {
                    path: path.to_owned(),
                });
            }
        };
        crate::atomic_file::write(path, |file| file.write_all(&bytes)).map_err(|source| {
            PlotError::Write {
                path: path.to_owned(),
                source,
            }
        })
    }
}

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The file name asks for no known format.
    #[error("cannot tell the format of {path}: name it .png or .svg")]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// A chart without a single coordinate.
    #[error("chart `{title}` has nothing to draw: give a series with points or a line")]
    Empty {
        /// Title of the chart.
        title: String,
    },
    /// A coordinate that cannot be placed.
    #[error(
        "chart `{title}`, series `{series}`: {value} cannot be placed on the {axis} axis; expected a \
         finite number, on a logarithmic axis a positive one"
    )]
    Coordinate {
        /// Title of the chart.
        title: String,
        /// Label of the series.
        series: String,
        /// `x` or `y`.
        axis: &'static str,
        /// What was found.
        value: f64,
    },
    /// The file could not be written.
    #[error("cannot write {path}: {source}; check that the folder exists and is writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The PNG could not be encoded.
    #[error("cannot encode {path}: {reason}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("genret-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn chart() -> Chart {
        let mut chart = Chart::new("Title", Axis::log("size N"), Axis::log("loss (nats)"));
        chart.series.push(Series {
            label: "one".into(),
            points: vec![
                Mark::at(1e5, 2.0),
                Mark {
                    held_out: true,
                    ..Mark::at(1e7, 1.0)
                },
            ],
            line: vec![(1e5, 2.1), (1e6, 1.4), (1e7, 1.1)],
            band: vec![(1e5, 1.9, 2.2), (1e7, 0.5, f64::INFINITY)],
            ..Series::default()
        });
        chart
    }

    #[test]
    fn pictures_have_their_size_and_repeat() {
        let folder = folder("chart");
        let path = folder.join("a.png");
        chart().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[1..4], b"PNG");
        assert_eq!(u32::from_be_bytes(bytes[16..20].try_into().unwrap()), WIDTH);
        assert_eq!(
            u32::from_be_bytes(bytes[20..24].try_into().unwrap()),
            HEIGHT
        );
        chart().save(&path).unwrap();
        assert_eq!(bytes, std::fs::read(&path).unwrap());
        let svg = folder.join("a.svg");
        chart().save(&svg).unwrap();
        let text = std::fs::read_to_string(svg).unwrap();
        assert!(text.contains("loss (nats)") && text.contains("held out") && !text.contains("NaN"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let path = std::env::temp_dir().join("genret-never-written.png");
        let error = |chart: &Chart| chart.save(&path).unwrap_err().to_string();
        let mut bad = chart();
        bad.series[0].points[0].y = 0.0;
        assert!(error(&bad).contains("series `one`: 0 cannot be placed on the y axis"));
        bad.series.clear();
        assert!(error(&bad).contains("nothing to draw"));
        assert!(matches!(
            chart().save(Path::new("x.pdf")),
            Err(PlotError::Extension { .. })
        ));
        assert!(!path.exists());
    }
}
