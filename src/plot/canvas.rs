//! Two surfaces to draw on: an SVG text and a pixel buffer.
//!
//! Coordinates are pixels of the finished picture, y downwards.

use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::{BitMapBackend, Color as _, DrawingBackend, RGBColor, ShapeStyle};

use super::PlotError;
use super::text;

/// A colour with opacity from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ink {
    pub rgb: [u8; 3],
    pub alpha: f64,
}

impl Ink {
    pub const fn solid(rgb: [u8; 3]) -> Ink {
        Ink { rgb, alpha: 1.0 }
    }
}

/// Horizontal anchor of a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// What a chart needs to be drawn.
pub(super) trait Canvas {
    /// Fills a polygon.
    fn polygon(&mut self, corners: &[(f64, f64)], ink: Ink);
    /// Draws a line with round joints; `dash` are the lengths of strokes and gaps.
    fn polyline(&mut self, points: &[(f64, f64)], width: f64, ink: Ink, dash: Option<[f64; 2]>);
    /// Fills a disc.
    fn disc(&mut self, centre: (f64, f64), radius: f64, ink: Ink);
    /// Writes a text whose baseline passes through `at`; `upwards` turns it by 90 degrees.
    fn text(
        &mut self,
        at: (f64, f64),
        text: &str,
        size: f64,
        ink: Ink,
        anchor: Anchor,
        upwards: bool,
    );
}

/// An SVG picture.
pub(super) struct Svg {
    body: String,
}

impl Svg {
    pub fn new(width: u32, height: u32) -> Svg {
        let mut body = String::new();
        let _ = writeln!(
            body,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
        );
        Svg { body }
    }

    pub fn finish(mut self) -> String {
        self.body.push_str("</svg>\n");
        self.body
    }

    fn element(&mut self, text: std::fmt::Arguments<'_>) {
        self.body
            .write_fmt(text)
            .expect("writing to a string cannot fail");
        self.body.push('\n');
    }
}

fn hex(ink: Ink) -> String {
    let [r, g, b] = ink.rgb;
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn list(points: &[(f64, f64)]) -> String {
    let texts: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.2},{y:.2}"))
        .collect();
    texts.join(" ")
}

impl Canvas for Svg {
    fn polygon(&mut self, corners: &[(f64, f64)], ink: Ink) {
        let (points, fill, alpha) = (list(corners), hex(ink), ink.alpha);
        self.element(format_args!(
            "<polygon points=\"{points}\" fill=\"{fill}\" fill-opacity=\"{alpha}\"/>"
        ));
    }

    fn polyline(&mut self, points: &[(f64, f64)], width: f64, ink: Ink, dash: Option<[f64; 2]>) {
        let (points, stroke) = (list(points), hex(ink));
        let dash = dash.map_or(String::new(), |[on, off]| {
            format!(" stroke-dasharray=\"{on} {off}\"")
        });
        self.element(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"{dash}/>"
        ));
    }

    fn disc(&mut self, (x, y): (f64, f64), radius: f64, ink: Ink) {
        let fill = hex(ink);
        self.element(format_args!(
            "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"{radius}\" fill=\"{fill}\"/>"
        ));
    }

    fn text(
        &mut self,
        (x, y): (f64, f64),
        text: &str,
        size: f64,
        ink: Ink,
        anchor: Anchor,
        upwards: bool,
    ) {
        let mut inner = String::new();
        let mut was_raised = false;
        for (part, raised) in text::parts(text) {
            let escaped = part
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            let shift = size
                * text::RAISED_BY
                * (f64::from(u8::from(was_raised)) - f64::from(u8::from(raised)));
            let size = if raised {
                size * text::RAISED_SIZE
            } else {
                size
            };
            if raised || was_raised {
                let _ = write!(
                    inner,
                    "<tspan dy=\"{shift:.2}\" font-size=\"{size:.2}\">{escaped}</tspan>"
                );
            } else {
                inner.push_str(&escaped);
            }
            was_raised = raised;
        }
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let turn = if upwards {
            format!(" transform=\"rotate(-90 {x:.2} {y:.2})\"")
        } else {
            String::new()
        };
        let fill = hex(ink);
        self.element(format_args!(
            "<text x=\"{x:.2}\" y=\"{y:.2}\" font-size=\"{size}\" fill=\"{fill}\" \
             text-anchor=\"{anchor}\"{turn}>{inner}</text>"
        ));
    }
}

/// Pixels per pixel of the finished picture, in each direction.
const OVERSAMPLING: usize = 3;

/// A pixel picture, drawn large and averaged down.
pub(super) struct Raster {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Raster {
    pub fn new(width: u32, height: u32) -> Raster {
        let (width, height) = (width as usize, height as usize);
        Raster {
            pixels: vec![255; 3 * OVERSAMPLING * OVERSAMPLING * width * height],
            width,
            height,
        }
    }

    fn large(&self) -> (u32, u32) {
        (
            (self.width * OVERSAMPLING) as u32,
            (self.height * OVERSAMPLING) as u32,
        )
    }

    /// The picture as a PNG; `path` is only named in errors and places the encoder's temporary file.
    pub fn finish(self, path: &Path) -> Result<Vec<u8>, PlotError> {
        let stride = self.width * OVERSAMPLING;
        let mut small = vec![0u8; 3 * self.width * self.height];
        let area = (OVERSAMPLING * OVERSAMPLING) as u32;
        for y in 0..self.height {
            for x in 0..self.width {
                for channel in 0..3 {
                    let mut sum = area / 2;
                    for row in y * OVERSAMPLING..(y + 1) * OVERSAMPLING {
                        for column in x * OVERSAMPLING..(x + 1) * OVERSAMPLING {
                            sum += u32::from(self.pixels[3 * (row * stride + column) + channel]);
                        }
                    }
                    small[3 * (y * self.width + x) + channel] = (sum / area) as u8;
                }
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".plot-{}-{name}", std::process::id()));
        let encode = |reason: String| PlotError::Encode {
            path: path.to_owned(),
            reason,
        };
        let size = (self.width as u32, self.height as u32);
        let encoded = {
            let mut backend = BitMapBackend::new(&temporary, size);
            let blitted = backend.blit_bitmap((0, 0), size, &small);
            blitted
                .and_then(|()| backend.present())
                .map_err(|e| encode(e.to_string()))
        };
        let bytes =
            encoded.and_then(|()| std::fs::read(&temporary).map_err(|e| encode(e.to_string())));
        // Left over or never made: either way the picture's own error is the one to report.
        let _ = std::fs::remove_file(&temporary);
        bytes
    }

    fn fill(&mut self, corners: &[(f64, f64)], ink: Ink) {
        let style = style(ink);
        let corners: Vec<(i32, i32)> = corners.iter().map(|p| enlarge(*p)).collect();
        let size = self.large();
        let drawn =
            BitMapBackend::with_buffer(&mut self.pixels, size).fill_polygon(corners, &style);
        drawn.expect("a buffer in memory can be drawn on");
    }
}

fn enlarge((x, y): (f64, f64)) -> (i32, i32) {
    let large = |v: f64| (v * OVERSAMPLING as f64).round() as i32;
    (large(x), large(y))
}

fn style(ink: Ink) -> ShapeStyle {
    let [r, g, b] = ink.rgb;
    RGBColor(r, g, b).mix(ink.alpha).filled()
}

/// The strokes of a dashed line.
fn strokes(points: &[(f64, f64)], [on, off]: [f64; 2]) -> Vec<Vec<(f64, f64)>> {
    let mut all: Vec<Vec<(f64, f64)>> = Vec::new();
    let (mut left, mut drawing) = (on, true);
    let mut current: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if length <= left {
                left -= length;
                current.push(to);
                break;
            }
            let share = left / length;
            from = (
                from.0 + share * (to.0 - from.0),
                from.1 + share * (to.1 - from.1),
            );
            current.push(from);
            let stroke = std::mem::replace(&mut current, vec![from]);
            if drawing {
                all.push(stroke);
            }
            drawing = !drawing;
            left = if drawing { on } else { off };
        }
    }
    if drawing && current.len() > 1 {
        all.push(current);
    }
    all
}

impl Canvas for Raster {
    fn polygon(&mut self, corners: &[(f64, f64)], ink: Ink) {
        self.fill(corners, ink);
    }

    fn polyline(&mut self, points: &[(f64, f64)], width: f64, ink: Ink, dash: Option<[f64; 2]>) {
        if let Some(dash) = dash {
            for stroke in strokes(points, dash) {
                self.polyline(&stroke, width, ink, None);
            }
            return;
        }
        let half = 0.5 * width;
        for pair in points.windows(2) {
            let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
            let length = (bx - ax).hypot(by - ay);
            if length == 0.0 {
                continue;
            }
            let (nx, ny) = (-(by - ay) / length * half, (bx - ax) / length * half);
            self.fill(
                &[
                    (ax + nx, ay + ny),
                    (bx + nx, by + ny),
                    (bx - nx, by - ny),
                    (ax - nx, ay - ny),
                ],
                ink,
            );
        }
        if width > 2.0 {
            for &joint in points.iter().take(points.len().saturating_sub(1)).skip(1) {
                self.disc(joint, half, ink);
            }
        }
    }

    fn disc(&mut self, centre: (f64, f64), radius: f64, ink: Ink) {
        let radius = (radius * OVERSAMPLING as f64).round() as u32;
        let size = self.large();
        BitMapBackend::with_buffer(&mut self.pixels, size)
            .draw_circle(enlarge(centre), radius, &style(ink), true)
            .expect("a buffer in memory can be drawn on");
    }

    fn text(
        &mut self,
        at: (f64, f64),
        text: &str,
        size: f64,
        ink: Ink,
        anchor: Anchor,
        upwards: bool,
    ) {
        let scale = OVERSAMPLING as f64;
        let back = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => 0.5 * text::width(text, size),
            Anchor::End => text::width(text, size),
        };
        let start = if upwards {
            (at.0, at.1 + back)
        } else {
            (at.0 - back, at.1)
        };
        let (x0, y0) = enlarge(start);
        let large = self.large();
        let mut backend = BitMapBackend::with_buffer(&mut self.pixels, large);
        let [r, g, b] = ink.rgb;
        text::pixels(text, size * scale, |right, down, coverage| {
            let place = if upwards {
                (x0 + down, y0 - right)
            } else {
                (x0 + right, y0 + down)
            };
            let colour = RGBColor(r, g, b)
                .mix(coverage * ink.alpha)
                .to_backend_color();
            backend
                .draw_pixel(place, colour)
                .expect("a buffer in memory can be drawn on");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_cover_their_share_of_the_line() {
        let all = strokes(&[(0.0, 0.0), (100.0, 0.0)], [6.0, 4.0]);
        assert_eq!(all.len(), 10);
        let drawn: f64 = all.iter().map(|s| s[s.len() - 1].0 - s[0].0).sum();
        assert!((drawn - 60.0).abs() < 1e-9);
    }

    #[test]
    fn text_in_svg_is_escaped() {
        let mut svg = Svg::new(10, 10);
        svg.text(
            (1.0, 2.0),
            "a < b & c",
            3.0,
            Ink::solid([0, 0, 0]),
            Anchor::Start,
            false,
        );
        assert!(svg.finish().contains("a &lt; b &amp; c</text>"));
    }
}
